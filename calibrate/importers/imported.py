"""Turn the curves read from another tool's output into a profile.

Each curve and each law names its source (tool and file). A law is fitted to every curve that has
enough points.
"""

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundspeed.calibrate.fit.dispatch import fit_curve_law
from groundspeed.calibrate.version import METHOD_VERSION, tool_version
from groundspeed.profiles.datasheet import DeviceSpec, find_device, load_datasheets
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.schema import Curve, Device, Environment, Interconnect, Point, Profile
from groundspeed.profiles.summary import derive_rates, size_text

UNKNOWN = "not given in the imported file"


@dataclass(frozen=True)
class ImportRequest:
    """The file to import, and what the file itself may not contain."""

    path: Path
    """The file; for aiconfigurator, the folder of its tables."""
    text: str
    """Content of the file."""
    tool: str
    """Name of the tool, a key of ``IMPORTERS``."""
    device: str | None = None
    """Name of the GPU. Not given: the name in the file."""
    op: str | None = None
    """Collective (nccl-tests) or operation (csv), for files that do not name it."""


@dataclass(frozen=True)
class ImportedCurve:
    """One curve measured by another tool."""

    operation: str
    config_key: Mapping[str, str]
    backend: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Imported:
    """Everything that a reader found in a file."""

    device: str | None
    """Name of the GPU as the file gives it; None if it gives none."""
    curves: Sequence[ImportedCurve]
    interconnect: Interconnect | None = None
    driver: str | None = None
    runtime: str | None = None
    date_utc: str | None = None
    warnings: tuple[str, ...] = ()


Importer = Callable[[ImportRequest], Imported]


def imported_point(
    case: Mapping[str, float],
    time_s: float,
    moved_bytes: float,
    *,
    flops: float = 0.0,
    valid: bool = True,
) -> Point:
    """Make a point from a single published time; quantiles and interval are set to that time.

    Raises
    ------
    InputError
        If the time is not positive.
    """
    if not 0.0 < time_s < 1e6:
        raise InputError(f"a time is {time_s:g} s: times must be above 0 s and below 1e6 s")
    return Point(
        case=dict(case),
        time_s=time_s,
        q10_s=time_s,
        q90_s=time_s,
        low_s=time_s,
        high_s=time_s,
        samples=1,
        flops=flops,
        bytes=moved_bytes,
        stop="imported",
        valid=valid,
    )


def import_profile(request: ImportRequest, read: Importer, command: str) -> Profile:
    """Read another tool's output into a profile.

    Raises
    ------
    InputError
        If the file is not the tool's output, holds no measurement, or its GPU is not known.
    """
    imported = read(request)
    if not any(curve.points for curve in imported.curves):
        raise InputError(f"no measurement of {request.tool} found", where=str(request.path))
    name = request.device or imported.device
    if name is None:
        raise InputError(
            f"the output of {request.tool} does not say which GPU was measured",
            where=str(request.path),
            remedy="give it, for example --device "
            + ("mi300x" if _vendor("", request.tool) == "amd" else "h100-sxm"),
        )
    datasheet: DeviceSpec | None = None
    try:
        datasheet = find_device(name).spec
        device = device_of(datasheet)
    except InputError as error:
        if (vendor := _vendor(name, request.tool)) is None:
            raise InputError(
                f"there is no datasheet of '{name}', and its name does not say whose GPU it is",
                where=str(request.path),
                remedy="give --device with one that has a datasheet (groundspeed gpus lists them), "
                "or with the vendor: --device 'NVIDIA X1' or 'AMD X1' (nothing is then compared)",
            ) from error
        device = Device(
            name=name, kind="rocm" if vendor == "amd" else "cuda", vendor=vendor, architecture=""
        )
    other = _other_device(request, imported, datasheet) if datasheet is not None else []
    source = f"{request.tool}, {request.path.name}"
    curves = tuple(
        Curve(
            operation=curve.operation,
            config_key=dict(curve.config_key),
            backend=curve.backend,
            cache="warm" if curve.operation in ("collective", "p2p", "host_link") else "cold",
            origin="imported",
            source=source,
            points=tuple(curve.points),
        )
        for curve in imported.curves
        if curve.points
    )
    # A law would extrapolate the time of a large message down to the small ones of a decode step.
    large_only = [
        c for c in curves if c.operation == "collective" and _least(c) > LARGEST_FIRST_BYTES
    ]
    laws = tuple(
        law
        for curve in curves
        if curve not in large_only
        and (law := fit_curve_law(curve, source, datasheet=datasheet, on_cpu=False)) is not None
    )
    date = imported.date_utc or _modified(request.path)
    when = date.replace("-", "").replace(":", "").lower()
    return Profile(
        id=f"{request.tool}-{_id(device, datasheet)}-{when}",
        device=device,
        datasheet=datasheet,
        environment=Environment(
            date_utc=date,
            host=UNKNOWN,
            operating_system=UNKNOWN,
            python=UNKNOWN,
            tool_version=tool_version(),
            method_version=METHOD_VERSION,
            command=command,
            libraries={},
            driver=imported.driver,
            runtime=imported.runtime,
            telemetry="none (imported)",
        ),
        mode="imported",
        seed=0,
        curves=curves,
        laws=laws,
        rates=derive_rates(curves, datasheet, (), device.last_level_cache_bytes),
        interconnect=imported.interconnect,
        warnings=(
            *(() if datasheet else (NOTHING_COMPARED.format(name=name, hint=_similar(name)),)),
            *other,
            *imported.warnings,
            *_without_law(large_only),
        ),
    )


NOTHING_COMPARED = (
    "there is no datasheet of '{name}'{hint}: its rates are compared with nothing, and no rate is "
    "checked against a peak"
)


def _similar(name: str) -> str:
    hint = did_you_mean(name, load_datasheets())
    return f" ({hint})" if hint.startswith("did you mean") else ""


AMD_TOOLS = ("rccl", "rocm", "hipblaslt", "transferbench")
NVIDIA_TOOLS = ("nccl-tests", "nvbandwidth", "p2pbandwidthlatencytest")


def _vendor(name: str, tool: str) -> str | None:
    """Return whose GPU it is by its name or by the tool that ran on it; None if neither says it."""
    word = name.strip().lower()
    if word.startswith(("amd", "instinct", "mi", "radeon")) or tool.startswith(AMD_TOOLS):
        return "amd"
    if word.startswith(("nvidia", "geforce", "rtx", "gtx", "tesla", "quadro")):
        return "nvidia"
    return "nvidia" if tool in NVIDIA_TOOLS else None


def _other_device(request: ImportRequest, imported: Imported, datasheet: DeviceSpec) -> list[str]:
    """Return a warning if the file names another part than the user does."""
    if request.device is None or imported.device is None:
        return []
    try:
        told = find_device(imported.device)
    except InputError:
        return []
    if told.note is not None or told.spec.id == datasheet.id:
        return []
    return [
        f"the file was measured on '{imported.device}' ({told.spec.id}), not on {datasheet.id}, "
        "as --device says"
    ]


def _id(device: Device, datasheet: DeviceSpec | None) -> str:
    return datasheet.id if datasheet else re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")


LARGEST_FIRST_BYTES = 2.0**20
"""[bytes] Largest first message of a curve that gets a law: at 450 GB/s its bytes take 2 us,
and its latency ten times that."""


def _least(curve: Curve) -> float:
    return min(point.bytes for point in curve.points)


def _without_law(curves: Sequence[Curve]) -> tuple[str, ...]:
    """Say for which collectives no law is fitted, and what that means for estimates."""
    return tuple(
        f"{c.config_key['op']} x{c.config_key['world_size']}: measured from {size_text(_least(c))} "
        "up, so its latency is unknown and no law is fitted; estimates use another profile"
        for c in curves
    )


def _modified(path: Path) -> str:
    when = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def device_of(datasheet: DeviceSpec) -> Device:
    """Make the device record of a profile from a datasheet, for devices not measured here."""
    cache = datasheet.last_level_cache_bytes or datasheet.l2_bytes
    amd = datasheet.architecture.lower().startswith(("cdna", "gfx"))
    return Device(
        name=datasheet.name,
        kind="rocm" if amd else "cuda",
        vendor="amd" if amd else "nvidia",
        architecture=datasheet.architecture,
        compute_units=int(datasheet.compute_units.value) if datasheet.compute_units else None,
        memory_bytes=datasheet.memory_bytes.value if datasheet.memory_bytes else None,
        last_level_cache_bytes=cache.value if cache else None,
        max_clock_hz=datasheet.max_clock_hz.value if datasheet.max_clock_hz else None,
    )
