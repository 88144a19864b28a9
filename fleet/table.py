"""The measurements of a fleet in one table: values, settings, and what was left out.

Unusable rows are not errors: they are left out, counted and explained. Values of one metric in
several units are converted to the unit that most rows have.

    table = clean_fleet(rows, "fleet.csv")
"""

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.reading.columns import ALIASES, numbers_of, plain_name
from groundspeed.fleet.reading.table_file import long_form
from groundspeed.fleet.settings import setting_of
from groundspeed.fleet.units import factor
from groundspeed.profiles.datasheet import find_device
from groundspeed.profiles.errors import InputError

CLASS_COLUMNS = ("sku", "memory", "form_factor", "partition", "benchmark_version")
"""Columns that must be equal for two GPUs or two nodes to be compared with each other: what the
hardware is, how it is cut, and how it was measured."""

LEAST, MOST = 1e-15, 1e30
"""Range of plausible rates and times, in any unit; a value outside it is taken as a failed test."""

NODE_LEVEL = -1
"""Value of ``gpu`` for a metric of the whole node."""

NAMED = 1_000_000
"""Smallest ``gpu`` of a GPU that has a name (a UUID, an address) instead of an index."""


SETTING_COLUMNS = ["node", "gpu", "cohort", "setting", "value"]


@dataclass(frozen=True)
class FleetTable:
    """Measurements of a fleet, one per row; repeats are replaced by their median."""

    rows: pd.DataFrame
    """Columns node, gpu (int, -1 for node level), metric, value (NaN for a failed test), cohort and
    rack; all but gpu and value are pandas categories."""
    units: dict[str, str]
    """Unit of each metric."""
    excluded: tuple[str, ...]
    """Messages that say which rows were left out or changed, with counts."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Reason for each node that was to be measured but has no result."""
    notes: Mapping[tuple[str, int, str], str] = field(default_factory=dict)
    """Note recorded with a measurement, by node, GPU and metric."""
    settings: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SETTING_COLUMNS))
    """Settings of GPUs and nodes: columns node, gpu, cohort, setting, value (text)."""
    zeros: frozenset[tuple[str, int, str]] = frozenset()
    """Results that are exactly zero, by node, GPU and metric: the test ran and did no work."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Name of each ``gpu`` that has one."""
    skus: Mapping[str, str] = field(default_factory=dict)
    """SKU of each class, where the table says it."""

    def gpu_of(self, gpu: int) -> int | str | None:
        """Return how people call a GPU: its index, its name, or None for the whole node."""
        return None if gpu == NODE_LEVEL else self.names.get(gpu, gpu)


def clean_fleet(frame: pd.DataFrame, where: str, said: Sequence[str] = ()) -> FleetTable:
    """Clean a raw table: leave out unusable rows, and record how many and why.

    Parameters
    ----------
    frame : DataFrame
        Rows, or a wide table; columns may have any of their usual names.
    where : str
        Name of the table, for messages.
    said : sequence of str
        What was left out before.

    Raises
    ------
    InputError
        If a column is missing or no measurement is left.
    """
    comma_decimal = bool(frame.attrs.get("comma_decimal"))
    frame = _split_gpus(_readings_as_rows(long_form(frame, {}, where)))
    excluded = list(said)
    frame, more_said = _one_spelling(frame)
    excluded += more_said
    for name in ("node", "metric"):
        empty = frame[name].isna()
        if empty.any():
            excluded.append(f"{int(empty.sum())} rows without a {name}")
            frame = frame[~empty]
    metrics = as_category(frame["metric"])
    settings_rows, frame, metrics = _apart(frame, metrics)
    values, cell_units, bad = numbers_of(frame["value"], comma_decimal=comma_decimal)
    if bad.any():
        example = str(frame["value"][bad].iloc[0])[:30]
        excluded.append(
            f"{int(bad.sum())} values that are not numbers (e.g. '{example}'): "
            "counted as failed tests"
        )
    array = values.to_numpy(dtype=np.float64, copy=True)
    rate = _is_rate(metrics)
    with np.errstate(invalid="ignore"):
        zero = rate & (array == 0.0)
        negative = rate & (array < 0.0)
        huge = rate & (array >= MOST)
        array[rate & ~((array > LEAST) & (array < MOST))] = np.nan
    for what, mask in (("below zero", negative), ("too large for any device", huge)):
        if mask.any():
            excluded.append(
                f"{int(mask.sum())} impossible values ({what}): counted as failed tests"
            )
    if zero.any():
        excluded.append(f"{int(zero.sum())} values of 0: the test did no work")
    slots, strange, names = _slots(frame)
    if strange.any():
        example = str(frame["gpu"][strange].iloc[0])[:30]
        excluded.append(f"{int(strange.sum())} rows whose gpu is not an index (e.g. '{example}')")
    use = ~strange
    clean = pd.DataFrame(
        {
            "node": as_category(frame["node"]),
            "gpu": slots,
            "metric": metrics,
            "value": array,
            "unit": _units(frame, cell_units),
            "rack": _category(frame, "rack"),
            "cohort": _classes(frame),
            "zero": zero,
        }
    )
    clean = clean[use] if strange.any() else clean
    settings = _settings(frame, clean, settings_rows, names)
    clean, units, more = _one_unit(clean)
    excluded += more
    if clean.empty and settings.empty:
        raise InputError("contains no measurement", where=where)
    keys = ["node", "gpu", "metric"]
    repeated = int(clean.duplicated(keys).sum())
    if repeated:
        excluded.append(f"{repeated} repeated measurements: replaced by their median")
        grouped = clean.groupby(keys, observed=True, sort=False)
        first = grouped[["rack", "cohort", "zero"]].first()
        clean = first.assign(value=grouped["value"].median()).reset_index()
    return FleetTable(
        clean.drop(columns=["zero", "unit"], errors="ignore").reset_index(drop=True),
        units,
        tuple(excluded),
        notes=_notes(frame, slots),
        settings=settings,
        zeros=_zeros(clean),
        names=names,
        skus=_skus(frame[use], clean["cohort"]) if "cohort" in clean else {},
    )


def _readings_as_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Make rows of the columns that hold counters or sensors beside a long table's values."""
    columns = {
        c: plain_name(c)
        for c in frame.columns
        if c not in ALIASES and facts_of(plain_name(c)).kind in ("counter", "telemetry")
    }
    if not columns:
        return frame
    about = [c for c in frame.columns if c in ALIASES and c not in ("metric", "value", "unit")]
    parts = [frame.drop(columns=list(columns))]
    for column, name in columns.items():
        part = frame[[*about, column]].rename(columns={column: "value"})
        part = part[part["value"].notna()].drop_duplicates()
        parts.append(part.assign(metric=name, unit=""))
    whole = pd.concat([p.astype({"value": object, "metric": object}) for p in parts],
                      ignore_index=True)  # fmt: skip
    whole.attrs.update(frame.attrs)
    return whole


GPU_IN_METRIC = r"^(.+):(\d{1,4})$"
"""Matches the names of SuperBench, which end in the index of the GPU."""


def _split_gpus(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the GPU out of metrics such as ``gemm-flops/bf16_tc:3`` where no column names it."""
    names = {str(m) for m in frame["metric"].unique()}
    if not any(re.match(GPU_IN_METRIC, name) for name in names):
        return frame
    if "gpu" in frame and frame["gpu"].notna().any():
        return frame
    parts = frame["metric"].astype(str).str.extract(GPU_IN_METRIC)
    split = frame.assign(
        metric=parts[0].where(parts[0].notna(), frame["metric"].astype(str)),
        gpu=pd.to_numeric(parts[1], errors="coerce"),
    )
    split.attrs.update(frame.attrs)
    return split


def _one_spelling(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Give a SKU one name, whatever a table calls it; an empty one is that of all others."""
    if "sku" not in frame or not frame["sku"].notna().any():
        return frame, []
    spelled = frame["sku"].astype(object)
    known: dict[str, str] = {}
    for name in spelled.dropna().unique():
        with contextlib.suppress(InputError):
            known[str(name)] = find_device(str(name)).spec.name
    said = []
    for part in sorted(set(known.values())):
        names = sorted(n for n, p in known.items() if p == part)
        if len(names) > 1:
            said.append(f"{' and '.join(names)} are one SKU: {part}")
            spelled = spelled.replace(dict.fromkeys(names, names[-1]))
    empty = spelled.isna()
    if empty.any() and spelled.nunique() == 1:
        only = str(spelled.dropna().iloc[0])
        nodes = frame.loc[empty, "node"].nunique()
        said.append(f"{nodes} nodes without a SKU: taken as {only}, as all others")
        spelled = spelled.fillna(only)
    if not said:
        return frame, []
    changed = frame.assign(sku=spelled.astype("category"))
    changed.attrs.update(frame.attrs)
    return changed, said


def as_category(names: pd.Series) -> pd.Series:
    """Return names as a category of texts; a column that is one already is not read again."""
    if isinstance(names.dtype, pd.CategoricalDtype):
        texts = [str(c) for c in names.cat.categories]
        if len(set(texts)) == len(texts):
            named = names.cat.rename_categories(texts)
            counts = np.bincount(np.array(named.cat.codes, dtype=np.int64) + 1, minlength=1)[1:]
            used = counts.size == len(texts) and bool(counts.all())
            return named if used else named.cat.remove_unused_categories()
    return names.astype(str).astype("category")


def _is_rate(metrics: pd.Series) -> NDArray[np.bool_]:
    """Return whether each row is a rate or a time, for which zero means a failed test."""
    kinds = [facts_of(str(m)).kind not in UNJUDGED for m in metrics.cat.categories]
    return np.asarray(kinds, dtype=np.bool_)[metrics.cat.codes.to_numpy()] if kinds else np.zeros(
        len(metrics), dtype=np.bool_
    )  # fmt: skip


def _apart(frame: pd.DataFrame, metrics: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Separate the rows that hold settings (``pcie_width``) from those that hold measurements."""
    kinds = {str(m): facts_of(str(m)).kind == "setting" for m in metrics.cat.categories}
    if not any(kinds.values()):
        return frame.iloc[:0], frame, metrics
    mask = metrics.map(kinds).astype(bool).to_numpy()
    return frame[mask], frame[~mask], metrics[~mask].cat.remove_unused_categories()


def _category(frame: pd.DataFrame, name: str) -> "pd.Series | str":
    return frame[name].astype("category") if name in frame else ""


def _units(frame: pd.DataFrame, cell_units: pd.Series) -> pd.Series:
    column = frame["unit"] if "unit" in frame else pd.Series("", index=frame.index)
    if column.isna().any():
        column = column.astype(object).fillna("")
    if (cell_units != "").any():
        column = column.astype(object).where(cell_units == "", cell_units)
    return as_category(column)


GPU_NUMBER = r"^\s*(?:[A-Za-z_]+[ :_-]?)?(\d{1,6})(?:\.0*)?\s*$"
"""Matches ``5``, ``5.0``, ``gpu5`` and ``cuda:5``."""

GPU_NAME = re.compile(r"\s*(?=.*[A-Za-z:])[A-Za-z0-9][A-Za-z0-9:._/-]{3,63}\s*")
"""Matches a UUID or an address on the PCIe bus; a name is not a number."""


def _slots(frame: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.bool_], dict[int, str]]:
    """Return each row's GPU (-1 for the node), a mask of invalid ones, and the names of GPUs."""
    if "gpu" not in frame:
        none = np.zeros(len(frame), dtype=np.bool_)
        return np.full(len(frame), NODE_LEVEL), none, {}
    gpu = frame["gpu"]
    names: dict[int, str] = {}
    if pd.api.types.is_numeric_dtype(gpu):
        number = gpu.to_numpy(dtype=np.float64, na_value=np.nan)
        empty = np.isnan(number)
    else:
        text = gpu.astype("string")
        empty = (text.isna() | text.str.strip().eq("")).to_numpy(dtype=np.bool_)
        number = pd.to_numeric(text.str.extract(GPU_NUMBER)[0], errors="coerce").to_numpy(
            dtype=np.float64, na_value=np.nan, copy=True
        )
        named = np.isnan(number) & ~empty
        for name in sorted(set(text[named].str.strip())):
            if GPU_NAME.fullmatch(str(name)):
                names[_slot_of_name(str(name))] = str(name)
        if names:
            index = {name: slot for slot, name in names.items()}
            number[named] = text[named].str.strip().map(index).to_numpy(
                dtype=np.float64, na_value=np.nan
            )  # fmt: skip
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(number) & (number >= 0) & (number == np.floor(number))
    slots = np.where(whole, np.where(whole, number, 0.0), NODE_LEVEL).astype(np.int64)
    return slots, ~whole & ~empty, names


def _slot_of_name(name: str) -> int:
    """Return the number that stands for a GPU's name: the same in every table (48 bits)."""
    return NAMED + int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest())


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


def _skus(frame: pd.DataFrame, cohorts: pd.Series) -> dict[str, str]:
    """Return the SKU of each class of a table; empty without a column ``sku``."""
    if "sku" not in frame:
        return {}
    pairs = pd.DataFrame({"cohort": cohorts, "sku": frame["sku"]}).dropna().drop_duplicates()
    return {str(c): str(s) for c, s in pairs.itertuples(index=False) if str(s)}


def _settings(
    frame: pd.DataFrame, clean: pd.DataFrame, rows: pd.DataFrame, names: Mapping[int, str]
) -> pd.DataFrame:
    """Return the settings that the columns and the rows of a table hold."""
    parts: list[pd.DataFrame] = []
    columns = {
        c: setting.name
        for c in frame.columns
        if c not in ALIASES and (setting := setting_of(plain_name(c))) is not None
    }
    for column, name in columns.items():
        part = clean[["node", "gpu", "cohort"]].assign(value=frame.loc[clean.index, column])
        part = part[part["value"].notna()].drop_duplicates()
        parts.append(part.assign(setting=name))
    if not rows.empty:
        slots, strange, _ = _slots(rows)
        index = {name: slot for slot, name in names.items()}
        if index and "gpu" in rows:
            known = rows["gpu"].astype(str).str.strip().map(index)
            slots = np.where(known.notna(), known.fillna(0).astype(int), slots)
        found = {str(m): setting_of(str(m)) for m in rows["metric"].unique()}
        part = pd.DataFrame(
            {
                "node": rows["node"].astype(str),
                "gpu": slots,
                "cohort": _classes(rows),
                "setting": rows["metric"].astype(str).map(
                    {m: s.name for m, s in found.items() if s is not None}
                ),
                "value": rows["value"],
            }
        )  # fmt: skip
        parts.append(part[~strange & part["value"].notna()])
    if not parts:
        return pd.DataFrame(columns=SETTING_COLUMNS)
    whole = pd.concat(
        [p.astype({"node": str, "cohort": str}).assign(value=p["value"].map(_plain_value))
         for p in parts], ignore_index=True,
    )  # fmt: skip
    whole = whole[whole["value"] != ""]
    return whole[SETTING_COLUMNS].drop_duplicates(["node", "gpu", "setting"], keep="last")


def _plain_value(value: object) -> str:
    """Return the text of a setting; 16.0 and 16 are the same."""
    text = str(value).strip()
    number = re.fullmatch(r"(-?\d+)\.0+", text)
    return "" if text.lower() in ("nan", "none", "n/a", "[n/a]") else number[1] if number else text


def _zeros(clean: pd.DataFrame) -> frozenset[tuple[str, int, str]]:
    part = clean[clean["zero"]]
    return frozenset(
        (str(node), int(gpu), str(metric))
        for node, gpu, metric in zip(part["node"], part["gpu"], part["metric"], strict=True)
    )


def _each_has_one_unit(frame: pd.DataFrame) -> bool:
    """Return whether no metric has rows in two units."""
    metric, unit = frame["metric"].cat.codes.to_numpy(), frame["unit"].cat.codes.to_numpy()
    kinds = len(frame["unit"].cat.categories) + 1
    pairs = np.bincount(metric.astype(np.int64) * kinds + unit.astype(np.int64) + 1)
    return bool(np.count_nonzero(pairs) == np.count_nonzero(np.bincount(metric)))


def _one_unit(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Convert each metric to the unit that most of its rows have; leave out what cannot be."""
    units: dict[str, str] = {}
    notes: list[str] = []
    if frame.empty:
        return frame, units, notes
    if _each_has_one_unit(frame):
        codes = frame["metric"].cat.codes.to_numpy()
        at = np.zeros(int(codes.max()) + 1, dtype=np.int64)
        at[codes[::-1]] = np.arange(len(frame))[::-1]  # the first row of each metric stays
        first = frame.iloc[np.unique(at[np.bincount(codes) > 0])]
        return (
            frame,
            dict(zip(first["metric"].astype(str), first["unit"].astype(str), strict=True)),
            notes,
        )
    counts = frame.assign(ok=frame["value"].notna()).groupby(["metric", "unit"], observed=True)[
        "ok"
    ].agg(["sum", "size"])  # fmt: skip
    drop = np.zeros(len(frame), dtype=bool)
    scale = np.ones(len(frame))
    for metric, group in counts.groupby(level=0, observed=True):
        ranked = group.droplevel(0).sort_values(["sum", "size"], ascending=False, kind="stable")
        wanted = str(ranked.index[0])
        units[str(metric)] = wanted
        for unit, count in ranked["size"].iloc[1:].items():
            mask = ((frame["metric"] == metric) & (frame["unit"] == unit)).to_numpy()
            times = 1.0 if not str(unit) or not wanted else factor(str(unit), wanted)
            if times is None:
                drop |= mask
                notes.append(f"{count} rows of {metric} in '{unit}': most rows are in '{wanted}'")
            else:
                scale[mask] *= times
                units[str(metric)] = wanted or str(unit)
                if times != 1.0:
                    notes.append(f"{count} rows of {metric} converted from '{unit}' to '{wanted}'")
    if (scale != 1.0).any():
        frame = frame.assign(value=frame["value"] * scale)
    return (frame[~drop] if drop.any() else frame), units, notes
