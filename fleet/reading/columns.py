"""Name the columns of a table by what people call them, and turn its cells into numbers.

A table of a fleet needs a node, a metric and a value; people call them ``hostname``, ``test`` and
``result``. Numbers come as ``707,210.0``, ``707,21`` (where the separator is a semicolon),
``707.2 TFLOPS``, ``Enabled`` or ``N/A``.

    rename_columns(["Host Name", "GPU", "Test", "Result"], {})
"""

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from groundspeed.profiles.errors import InputError, did_you_mean

ALIASES: dict[str, tuple[str, ...]] = {
    "node": ("node", "host", "hostname", "node_name", "nodename", "host_name", "server", "machine",
             "instance", "vm"),
    "partner": ("partner", "peer", "node2", "node_b", "dst", "dest", "destination", "to", "target"),
    "gpu": ("gpu", "gpu_id", "gpu_index", "gpu_idx", "device", "device_id", "device_index",
            "local_rank", "slot", "gcd", "index", "minor_number", "gpu_uuid", "uuid", "pci_bus_id",
            "gpu_bus_id"),
    "metric": ("metric", "metric_name", "test", "test_name", "benchmark"),
    "value": ("value", "result", "reading", "measurement", "measured", "score"),
    "unit": ("unit", "units"),
    "rack": ("rack", "rack_id", "leaf", "switch"),
    "note": ("note", "notes", "comment", "error", "reason"),
    "run": ("run", "run_id", "run_name"),
    "date_utc": ("date_utc", "date", "timestamp", "time_utc", "datetime", "day"),
    "sku": ("sku", "gpu_name", "product", "product_name", "model", "gpu_model", "gpu_type", "name"),
    "memory": ("memory", "memory_size", "memory_total", "memory_bytes", "vram"),
    "form_factor": ("form_factor", "formfactor"),
    "partition": ("partition", "partition_mode", "mig", "mig_mode", "compute_partition"),
    "benchmark_version": ("benchmark_version", "benchmark_hash"),
}  # fmt: skip
"""Usual names of each column, in lower case; the first is the one used here."""

PAIR_FIRST = ("src", "source", "from", "node1", "node_a", "a")
"""Names of the first node of a pair; the second node is ``partner``."""

PAIR_VALUES = ("busbw", "bandwidth", "bw", "algbw", "gbps", "gb_s", "avg_bus_bw_gbs",
               "peak_busbw_gbs")  # fmt: skip
"""Names of the bandwidth of a pair."""


def plain_name(column: object) -> str:
    """Return a column name in lower case, with one underscore for each run of other characters.

    >>> plain_name(" Host Name ")
    'host_name'
    """
    return re.sub(r"[^a-z0-9]+", "_", str(column).strip().lower()).strip("_")


def rename_columns(
    columns: Sequence[object], mapping: Mapping[str, str], where: str = "", *, pairs: bool = False
) -> dict[object, str]:
    """Return the name used here for each column that is known by one of its usual names.

    Parameters
    ----------
    columns : sequence of str
        Columns of the table.
    mapping : mapping of str to str
        Names that the user gives (``--map value=rate``), used before the usual ones.
    where : str
        Name of the table, for messages.
    pairs : bool
        Whether the table is one of pairs of nodes, in which ``src`` and ``busbw`` are usual.

    Raises
    ------
    InputError
        If the mapping names a column that the table does not have.
    """
    found: dict[object, str] = {}
    plain = {column: plain_name(column) for column in columns}
    for name, wanted in mapping.items():
        known = [c for c in columns if wanted in (c, plain[c]) or plain_name(wanted) == plain[c]]
        if not known:
            raise InputError(
                f"the table has no column '{wanted}'",
                where=f"--map {name}={wanted}" + (f" ({where})" if where else ""),
                remedy=did_you_mean(wanted, [str(c) for c in columns]),
            )
        found[known[0]] = name
    usual = dict(ALIASES)
    if pairs:
        usual["node"] = (*usual["node"], *PAIR_FIRST)
        usual["value"] = (*usual["value"], *PAIR_VALUES)
    for name, names in usual.items():
        if name in found.values():
            continue
        for candidate in names:
            match = [c for c in columns if plain[c] == candidate and c not in found]
            if match:
                found[match[0]] = name
                break
    return found


def parse_map(texts: Collection[str], allowed: Collection[str] = tuple(ALIASES)) -> dict[str, str]:
    """Parse ``--map NAME=COLUMN`` options.

    >>> parse_map(["value=rate"])
    {'value': 'rate'}

    Raises
    ------
    InputError
        If an option is not of that form, or NAME is not a column of a fleet table.
    """
    mapping: dict[str, str] = {}
    for text in texts:
        name, equals, column = text.partition("=")
        if not equals or not column:
            raise InputError(f"'{text}' is not NAME=COLUMN", where="--map", remedy="value=rate")
        if name not in allowed:
            raise InputError(
                f"unknown column '{name}'", where="--map", remedy=did_you_mean(name, list(allowed))
            )
        if name in mapping:
            raise InputError(f"{name} is given twice", where="--map", remedy="give it once")
        mapping[name] = column
    return mapping


THOUSANDS = r"^[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?$"
EUROPEAN = r"^[-+]?\d{1,3}(?:\.\d{3})*,\d+$"
WITH_UNIT = r"^([-+]?\d[\d.,]*(?:[eE][-+]?\d+)?)\s+\[?([A-Za-z%][A-Za-z%/^\d]*)\]?$"

WORDS = {
    "active": 1.0, "not active": 0.0, "enabled": 1.0, "disabled": 0.0, "yes": 1.0, "no": 0.0,
    "true": 1.0, "false": 0.0, "on": 1.0, "off": 0.0, "none": 0.0,
}  # fmt: skip
"""Words that monitors print for a state, and their number."""

SILENT = ("", "n/a", "na", "[n/a]", "nan", "null", "-", "[not supported]", "not supported")
"""Cells that say that there is no value, without a fault."""


def numbers_of(cells: pd.Series, *, comma_decimal: bool) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Turn the cells of a column into numbers.

    Parameters
    ----------
    cells : Series
        Text or numbers.
    comma_decimal : bool
        Whether ``707,21`` is a decimal number (the separator of the table is not a comma).

    Returns
    -------
    values : Series of float
        NaN where a cell is no number.
    units : Series of str
        Unit written in the cell; empty without one.
    bad : Series of bool
        True where the cell has text that is no number and not a usual word for "no value".
    """
    empty_units = pd.Series("", index=cells.index)
    if pd.api.types.is_numeric_dtype(cells):
        none = pd.Series(False, index=cells.index)
        return cells.astype(np.float64), empty_units, none
    values = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    rest = values.isna() & cells.notna()
    units = empty_units
    if rest.any():
        text = cells[rest].astype(str).str.strip()
        parts = text.str.extract(WITH_UNIT)
        units = units.mask(rest, parts[1].reindex(cells.index).fillna(""))
        text = parts[0].where(parts[0].notna(), text)
        thousands = text.str.match(THOUSANDS)
        european = text.str.match(EUROPEAN) & (comma_decimal | ~thousands)
        if comma_decimal:
            thousands &= ~european
        text = text.where(~thousands, text.str.replace(",", ""))
        text = text.where(~european, text.str.replace(".", "").str.replace(",", "."))
        parsed = pd.to_numeric(text, errors="coerce")
        words = text.str.lower().map(WORDS)
        values = values.where(~rest, parsed.fillna(words).reindex(cells.index))
        silent = text.str.lower().isin(SILENT).reindex(cells.index, fill_value=False)
        return values, units, rest & values.isna() & ~silent
    return values, units, pd.Series(False, index=cells.index)
