"""Read files and folders into one table of a fleet: tables, captures of tools, profiles.

Of a table with several runs the newest counts; the others are for ``fleet history``.

    table = read_fleet([Path("fleet.csv")])
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from groundspeed.fleet.reading.table_file import read_rows
from groundspeed.fleet.table import FleetTable, clean_fleet
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.store import list_profiles


def read_fleet(paths: Sequence[Path], mapping: Mapping[str, str] | None = None) -> FleetTable:
    """Read files and folders of profiles into one table.

    Parameters
    ----------
    paths : sequence of Path
        Tables, JSON lines, and folders of profiles.
    mapping : mapping of str to str, optional
        Column of the files for names used here. Default: the usual names of each.

    Raises
    ------
    InputError
        If a path cannot be read, a column is missing, or no measurement is left.
    """
    frame = read_frames(paths, mapping)
    said: tuple[str, ...] = ()
    frame = with_days(frame)
    if "run" in frame and frame["run"].nunique() > 1:
        frame, said = _newest(frame)
    return clean_fleet(frame, ", ".join(str(p) for p in paths), said)


def read_frames(paths: Sequence[Path], mapping: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read files, and folders of profiles or of such files, into raw rows.

    Raises
    ------
    InputError
        If a path cannot be read or a column is missing.
    """
    frames = []
    for path in paths:
        if not path.is_dir():
            frames.append(read_rows(path, mapping or {}))
            continue
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        if not files or any(p.suffix == ".json" and _is_profile(p) for p in files):
            frames.append(_profiles(path))
        else:
            frames += [read_rows(p, mapping or {}) for p in files]
    if len(frames) == 1:
        return frames[0]
    whole = pd.concat([f.astype({"value": object}) for f in frames], ignore_index=True)
    whole.attrs["comma_decimal"] = any(f.attrs.get("comma_decimal") for f in frames)
    return whole


def with_days(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with a column ``run`` that is the day, if it repeats its rows on several days.

    Rows of one run may have times of their own, also around midnight, but then none comes twice.
    """
    if "run" in frame or "date_utc" not in frame or "node" not in frame or "metric" not in frame:
        return frame
    day = frame["date_utc"].astype(str).str.slice(0, 10)
    keys = [c for c in ("node", "gpu", "metric") if c in frame]
    if day.nunique() < 2 or not frame.duplicated(keys).any():
        return frame
    return frame.assign(run=day)


def _newest(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the newest run of a table with several, and a sentence about the others."""
    runs = frame["run"].astype(str)
    dates = frame["date_utc"].astype(str) if "date_utc" in frame else runs
    order = dates.groupby(runs).max().sort_values(kind="stable")
    newest = str(order.index[-1])
    kept = frame[runs == newest]
    kept.attrs.update(frame.attrs)
    said = (
        f"{len(order) - 1} older runs: only the newest, {newest}, is screened "
        "(groundspeed fleet history compares them)"
    )
    return kept, (said,)


def _is_profile(path: Path) -> bool:
    """Return whether a JSON file says that it is a profile, readable or not."""
    return b'"schema_version"' in path.read_bytes()


def _profiles(folder: Path) -> pd.DataFrame:
    """Return the rates of every profile in a folder, one row for each quantity."""
    records: list[dict[str, object]] = []
    for path, profile in list_profiles(folder):
        if not isinstance(profile, Profile):
            raise InputError(str(profile), where=str(path))
        records += profile_rows(profile)
    if not records:
        raise InputError("the folder contains no profile", where=str(folder))
    return pd.DataFrame.from_records(records)


def profile_rows(profile: Profile) -> list[dict[str, object]]:
    """Return the rates of a profile as rows of a fleet table."""
    environment = profile.environment
    about = {
        "node": environment.host,
        "gpu": environment.device_index,
        "sku": profile.device.name,
        "memory": _text(profile.device.memory_bytes),
        "power_cap": _text(environment.power_cap_w),
        "partition": _text(environment.partition_mode),
        "driver": environment.driver or "",
        "benchmark_version": f"calibrate-{environment.method_version}",
    }
    return [
        {**about, "metric": r.quantity.replace(" ", "_"), "value": r.value, "unit": r.unit}
        for r in profile.rates
    ]


def _text(value: object) -> str:
    return "" if value is None else str(value)
