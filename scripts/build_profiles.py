"""Build the profiles that are shipped with the package, in ``profiles/shipped``.

GPUs with published timing tables get an imported profile. Other GPUs get a profile transferred
from a similar one.

    pip download --no-deps aisimulate==0.13.0.dev202610270000000085
    unzip aisimulate-*.whl 'aisimulate_core/systems/data/*'
    python scripts/build_profiles.py --tables aisimulate_core/systems/data

It needs no GPU and no torch. The same tables always give the same files. Run it with
OPENBLAS_NUM_THREADS=1: the fits are many and small.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from groundspeed.calibrate.fit.published import anchors_of, published, small_operation_laws
from groundspeed.calibrate.fit.transfer import transfer_law
from groundspeed.calibrate.importers import IMPORTERS, ImportRequest, import_profile
from groundspeed.calibrate.importers.aiconfigurator import SYSTEMS, systems_folder
from groundspeed.calibrate.importers.imported import device_of
from groundspeed.profiles.datasheet import find_device
from groundspeed.profiles.files import write_whole
from groundspeed.profiles.laws import Law
from groundspeed.profiles.schema import Curve, Profile
from groundspeed.profiles.summary import derive_rates
from groundspeed.profiles.validation import check_profile

FOLDER = Path(__file__).resolve().parents[1] / "profiles" / "shipped"
KEPT_POINTS = 6
"""Curves with more points are reduced to the fastest points and those with the least and most work.
The residual GP of the law still holds all points that it was fitted to."""

SOURCE = (
    "aisimulate 0.13.0.dev202610270000000085, Copyright NVIDIA CORPORATION & AFFILIATES, Apache-2.0"
)
DATE = "2026-10-27T00:00:00Z"

TRANSFER_SOURCE = {
    "h100-pcie": "h100-sxm", "h100-nvl": "h100-sxm", "h800-sxm": "h100-sxm", "h20": "h200-sxm",
    "gh200-96gb": "h100-sxm", "gh200-144gb": "h200-sxm", "a100-pcie-80gb": "a100-sxm-80gb",
    "l40": "l40s", "l4": "l40s", "rtx-6000-ada": "l40s",
    "mi300x": "h200-sxm", "mi325x": "h200-sxm", "mi308x": "h200-sxm", "mi355x": "b200-sxm",
}  # fmt: skip
"""Devices without tables, and the device whose laws are transferred to each."""


def main() -> None:
    """Build and write all shipped profiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tables",
        type=Path,
        help="folder aiconfigurator_core/systems/data; default: that of the installed package",
    )
    arguments = parser.parse_args()
    tables = arguments.tables or systems_folder()
    built: dict[str, Profile] = {}
    with ProcessPoolExecutor() as pool:
        profiles = pool.map(imported, SYSTEMS.values(), [tables] * len(SYSTEMS))
        built |= dict(zip(SYSTEMS.values(), profiles, strict=True))
    small = [law for law in built["h200-sxm"].laws if law.operation in ("elementwise", "stream")]
    for name, profile in built.items():
        if not any(law.operation == "elementwise" for law in profile.laws):
            source = built["h200-sxm"].model_copy(update={"laws": tuple(small)})
            laws = (*profile.laws, *transfer_law(source, name))
            built[name] = profile.model_copy(update={"laws": laws})
    for name, relative in SAME_LINKS.items():
        laws = (*built[name].laws, *missing_links(built[name], built[relative]))
        built[name] = built[name].model_copy(update={"laws": laws})
    for name, source_name in TRANSFER_SOURCE.items():
        built[name] = transferred(name, built[source_name])
    for name, profile in built.items():
        write(name, profile)


SAME_LINKS = {"gb200": "b200-sxm", "gb300": "b300-sxm"}
"""Devices whose tables lack some group sizes, and the device with the same links and switch."""


def missing_links(profile: Profile, relative: Profile) -> list[Law]:
    """Transfer the collective laws that a profile lacks from a relative that has them."""
    have = {
        tuple(sorted(x.config_key.items())) for x in profile.laws if x.operation == "collective"
    }
    lacking = [
        x
        for x in relative.laws
        if x.operation == "collective" and tuple(sorted(x.config_key.items())) not in have
    ]
    if not lacking or profile.datasheet is None:
        return []
    source = relative.model_copy(update={"laws": tuple(lacking)})
    return list(transfer_law(source, profile.datasheet))


def imported(name: str, tables: Path) -> Profile:
    """Build a profile from published tables."""
    request = ImportRequest(tables, "", "aiconfigurator", device=name)
    profile = import_profile(request, IMPORTERS["aiconfigurator"], "scripts/build_profiles.py")
    datasheet = find_device(name).spec
    laws = tuple(law.model_copy(update={"source": attributed(law.source)}) for law in profile.laws)
    curves = tuple(keep_extreme_points(c) for c in profile.curves)
    return profile.model_copy(
        update={
            "id": f"{name}-imported",
            "curves": curves,
            "laws": (*laws, *small_operation_laws(datasheet)),
            "rates": derive_rates(curves, datasheet, (), profile.device.last_level_cache_bytes),
            "environment": profile.environment.model_copy(update={"date_utc": DATE}),
            "warnings": (
                *profile.warnings,
                "small operations are predicted from two published figures, not measured",
            ),
        }
    )


def attributed(source: str) -> str:
    """Replace the tool name in a source text by its version, owner and licence."""
    return source.replace("aiconfigurator, data", SOURCE)


def keep_extreme_points(curve: Curve) -> Curve:
    """Keep only the fastest points of a curve and those with the least and the most work."""
    points = curve.points
    if len(points) <= KEPT_POINTS:
        return curve.model_copy(
            update={"source": curve.source.replace("aiconfigurator, data", SOURCE)}
        )
    work = np.array([p.flops or p.bytes for p in points])
    moved = np.array([p.bytes for p in points])
    time = np.array([p.time_s for p in points])
    kept = {*np.argsort(-work / time)[:3], *np.argsort(-moved / time)[:3]}
    kept |= {*np.argsort(work)[:1], *np.argsort(work)[-1:]}
    chosen = tuple(points[i] for i in sorted(kept))
    return curve.model_copy(
        update={
            "points": chosen,
            "source": attributed(curve.source),
        }
    )


def transferred(name: str, source: Profile) -> Profile:
    """Build a profile of a device without tables, by transfer from ``source``."""
    datasheet = find_device(name).spec
    if device_of(datasheet).vendor != device_of(source.datasheet or datasheet).vendor:
        source = source.model_copy(update={"laws": of_no_library(source.laws)})
    laws = transfer_law(source, datasheet, anchors_of(name))
    figures = sorted({row["source"] for row in published(name)})
    note = f"laws transferred from {source.id}; this device was never measured"
    if figures:
        note += f"; corrected by published figures: {'; '.join(figures)}"
    return Profile(
        id=f"{name}-transferred",
        device=device_of(datasheet),
        datasheet=datasheet,
        environment=source.environment,
        mode="transferred",
        seed=0,
        curves=(),
        laws=laws,
        rates=(),
        warnings=(note,),
    )


def of_no_library(laws: Sequence[Law]) -> tuple[Law, ...]:
    """Keep the law of one library for each case, without its name: other vendors have others."""
    kept: dict[tuple[str, ...], Law] = {}
    for library in (None, "vllm", "trtllm", "sglang"):
        for law in laws:
            if law.config_key.get("library") == library:
                key = {k: v for k, v in law.config_key.items() if k != "library"}
                case = (law.operation, *sorted(f"{k}={v}" for k, v in key.items()))
                kept.setdefault(case, law.model_copy(update={"config_key": key}))
    return tuple(kept.values())


def write(name: str, profile: Profile) -> None:
    """Round the numbers of a profile, check it, and write it if it has no error."""
    text = json.dumps(rounded(json.loads(profile.model_dump_json(exclude_none=True))))
    # Put each law and each curve on its own line, so that a diff shows which ones changed.
    text = text.replace('{"operation"', '\n {"operation"').replace(', "laws"', ',\n"laws"')
    profile = Profile.model_validate_json(text)
    for violation in check_profile(profile):
        print(f"{name}: {violation.severity}: {violation.where}: {violation.what}")
    if any(v.severity == "error" for v in check_profile(profile)):
        return
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, (text + "\n").encode(), force=True)
    print(f"{path.name}  {len(text) / 1e3:.0f} kB  {len(profile.laws)} laws", flush=True)


def rounded(value: object) -> object:
    """Round all numbers to seven significant digits, and GP coordinates to three decimals."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        out = {}
        for key, item in value.items():
            if key in ("points", "residual") and isinstance(item, list):
                out[key] = [coordinates(row) for row in item]
            else:
                out[key] = rounded(item)
        return out
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def coordinates(row: object) -> object:
    """Round coordinates and residuals of a residual GP to three decimals."""
    if isinstance(row, list):
        return [round(float(v), 3) for v in row]
    if isinstance(row, float):
        return round(row, 3)
    return rounded(row)


if __name__ == "__main__":
    main()
