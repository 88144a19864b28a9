"""Read the measurements of a fleet into one table.

The input is a long CSV (``node,gpu,metric,value,unit`` and optional columns that describe the GPU
or node), or a folder of profiles. Unusable rows are not errors: they are left out, counted and
explained.

    table = read_fleet([Path("fleet.csv")])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.store import list_profiles

NEEDED = ("node", "metric", "value")
CLASS_COLUMNS = (
    "sku", "memory", "power_cap", "partition", "driver", "benchmark_version",
)  # fmt: skip
"""Columns that must be equal for two GPUs or two nodes to be compared with each other."""

LEAST, MOST = 1e-15, 1e30
"""Range of plausible values, in any unit; a value outside it is taken as a failed test."""

NODE_LEVEL = -1
"""Value of ``gpu`` for a metric of the whole node."""


@dataclass(frozen=True)
class FleetTable:
    """Measurements of a fleet, one per row; repeats are replaced by their median."""

    rows: pd.DataFrame
    """Columns node, gpu (int, -1 for node level), metric, value (NaN for a failed test), cohort and
    rack; all but gpu and value are pandas categories."""
    units: dict[str, str]
    """Unit of each metric."""
    excluded: tuple[str, ...]
    """Messages that say which rows were left out, with counts."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Reason for each node that was to be measured but has no result."""
    notes: Mapping[tuple[str, int, str], str] = field(default_factory=dict)
    """Note recorded with a measurement, by node, GPU and metric."""


def read_fleet(paths: Sequence[Path]) -> FleetTable:
    """Read CSV files and folders of profiles into one table.

    Raises
    ------
    InputError
        If a path cannot be read, a column is missing, or no measurement is left.
    """
    frames = []
    for path in paths:
        if path.is_dir():
            frames.append(_profiles(path))
        else:
            frames.append(_csv(path))
    frame = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    return clean_fleet(frame, ", ".join(str(p) for p in paths))


def _csv(path: Path) -> pd.DataFrame:
    types = dict.fromkeys(("node", "metric", "unit", "rack", *CLASS_COLUMNS), "category")
    try:
        header = pd.read_csv(path, nrows=0)
        missing = [c for c in NEEDED if c not in header.columns]
        if missing:
            raise InputError(
                f"column missing: {', '.join(missing)}",
                where=str(path),
                remedy="a fleet table has the columns node,gpu,metric,value,unit",
            )
        kept = [
            c
            for c in header.columns
            if c in (*NEEDED, "gpu", "unit", "rack", "note", *CLASS_COLUMNS)
        ]
        return pd.read_csv(
            path,
            usecols=kept,
            dtype={c: t for c, t in types.items() if c in kept},
            keep_default_na=True,
            on_bad_lines="skip",
        )
    except (OSError, ValueError, pd.errors.ParserError) as error:
        reason = str(error).split("\n")[0][:160]
        raise InputError(f"cannot be read as a table ({reason})", where=str(path)) from error


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
        "memory": str(profile.device.memory_bytes),
        "power_cap": str(environment.power_cap_w),
        "partition": str(environment.partition_mode),
        "driver": (environment.driver or "").split(".")[0],
        "benchmark_version": f"calibrate-{environment.method_version}",
    }
    return [
        {**about, "metric": r.quantity.replace(" ", "_"), "value": r.value, "unit": r.unit}
        for r in profile.rates
    ]


def clean_fleet(frame: pd.DataFrame, where: str) -> FleetTable:
    """Clean a raw table: leave out unusable rows, and record how many and why.

    Raises
    ------
    InputError
        If no measurement is left.
    """
    excluded = []
    for name in ("node", "metric"):
        empty = frame[name].isna()
        if empty.any():
            excluded.append(f"{int(empty.sum())} rows without a {name}")
            frame = frame[~empty]
    value = frame["value"]
    if not pd.api.types.is_numeric_dtype(value):
        numbers = pd.to_numeric(value, errors="coerce")
        bad = numbers.isna() & value.notna()
        if bad.any():
            example = str(value[bad].iloc[0])[:30]
            excluded.append(
                f"{int(bad.sum())} values that are not numbers (e.g. '{example}'): "
                "counted as failed tests"
            )
        value = numbers
    array = value.to_numpy(dtype=np.float64, copy=True)
    with np.errstate(invalid="ignore"):
        physical = (array > LEAST) & (array < MOST)
    array[~physical] = np.nan
    slots, strange = _slots(frame)
    if strange.any():
        example = str(frame["gpu"][strange].iloc[0])[:30]
        excluded.append(f"{int(strange.sum())} rows whose gpu is not an index (e.g. '{example}')")
        frame, array, slots = frame[~strange], array[~strange], slots[~strange]
    clean = pd.DataFrame(
        {
            "node": frame["node"].astype("category"),
            "gpu": slots,
            "metric": frame["metric"].astype("category"),
            "value": array,
            "unit": frame["unit"].astype("category") if "unit" in frame else "",
            "rack": frame["rack"].astype("category") if "rack" in frame else "",
            "cohort": _classes(frame),
        }
    )
    notes = _notes(frame, slots)
    clean, units, more = _one_unit(clean)
    excluded += more
    if clean.empty:
        raise InputError("contains no measurement", where=where)
    keys = ["node", "gpu", "metric"]
    repeated = clean.duplicated(keys).sum()
    if repeated:
        excluded.append(f"{int(repeated)} repeated measurements: replaced by their median")
        grouped = clean.groupby(keys, observed=True, sort=False)
        first = grouped[["rack", "cohort"]].first()
        clean = first.assign(value=grouped["value"].median()).reset_index()
    return FleetTable(clean.reset_index(drop=True), units, tuple(excluded), notes=notes)


GPU_NUMBER = r"^\s*(?:[A-Za-z_]+[ :_-]?)?(\d{1,6})(?:\.0*)?\s*$"
"""Matches ``5``, ``5.0``, ``gpu5`` and ``cuda:5``; a UUID or 3.5 is not a GPU index."""


def _slots(frame: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return each row's GPU index (-1 for the node), and a mask of rows with an invalid index."""
    if "gpu" not in frame:
        return np.full(len(frame), NODE_LEVEL), np.zeros(len(frame), dtype=np.bool_)
    gpu = frame["gpu"]
    if pd.api.types.is_numeric_dtype(gpu):
        number = gpu.to_numpy(dtype=np.float64, na_value=np.nan)
        empty = np.isnan(number)
    else:
        text = gpu.astype("string")
        empty = (text.isna() | text.str.strip().eq("")).to_numpy(dtype=np.bool_)
        number = pd.to_numeric(text.str.extract(GPU_NUMBER)[0], errors="coerce").to_numpy(
            dtype=np.float64, na_value=np.nan
        )
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(number) & (number >= 0) & (number == np.floor(number))
    slots = np.where(whole, np.where(whole, number, 0.0), NODE_LEVEL).astype(np.int64)
    return slots, ~whole & ~empty


def _notes(frame: pd.DataFrame, slots: NDArray[np.int64]) -> dict[tuple[str, int, str], str]:
    if "note" not in frame:
        return {}
    text = frame["note"].fillna("").astype(str).to_numpy()
    said = np.flatnonzero(text != "")
    part = frame.iloc[said]
    return {
        (str(node), int(slot), str(metric)): str(note)
        for node, slot, metric, note in zip(
            part["node"], slots[said], part["metric"], text[said], strict=True
        )
    }


def _classes(frame: pd.DataFrame) -> pd.Series:
    """Return each row's class: the text of its class columns, joined; empty cells add nothing."""
    present = [c for c in CLASS_COLUMNS if c in frame]
    if not present:
        return pd.Series("all", index=frame.index, dtype="category")
    number = frame.groupby(present, observed=True, dropna=False, sort=False).ngroup()
    first = ~number.duplicated().to_numpy()
    names = {
        int(n): " ".join(str(v) for v in kind if not pd.isna(v) and str(v)) or "all"
        for n, kind in zip(
            number[first], frame.loc[first, present].itertuples(index=False), strict=True
        )
    }
    return number.map(names).astype("category")


def _one_unit(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Keep the most frequent unit of each metric; leave out rows in any other unit."""
    counts = frame.groupby(["metric", "unit"], observed=True).size()
    units: dict[str, str] = {}
    notes: list[str] = []
    drop = np.zeros(len(frame), dtype=bool)
    for metric, group in counts.groupby(level=0, observed=True):
        ranked = group.droplevel(0).sort_values(ascending=False)
        units[str(metric)] = str(ranked.index[0])
        for unit, count in ranked.iloc[1:].items():
            drop |= ((frame["metric"] == metric) & (frame["unit"] == unit)).to_numpy()
            notes.append(
                f"{count} rows of {metric} in '{unit}': most rows are in '{ranked.index[0]}'"
            )
    return frame[~drop], units, notes
