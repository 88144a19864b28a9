"""Read a file of fleet measurements into rows of node, GPU, metric and value.

Understood are tables with any usual separator, encoding and header (:mod:`.columns`); wide tables
with one row a node, whose columns are metrics or GPUs; and the JSON lines of SuperBench, one node a
line, whose keys are metrics with the GPU after a colon.

    rows = read_rows(Path("fleet.csv"), {})
"""

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from groundspeed.fleet.reading.columns import ALIASES, plain_name, rename_columns
from groundspeed.fleet.reading.diagnostics import diagnostic_rows, is_diagnostic
from groundspeed.fleet.reading.monitors import is_monitor, monitor_rows
from groundspeed.profiles.errors import InputError

SEPARATORS = (",", ";", "\t", "|")

NEEDED = ("node", "metric", "value")

FORM = "a fleet table has the columns node,gpu,metric,value,unit (other names: --map value=NAME)"

GPU_COLUMN = re.compile(r"(?:gpu|device|gcd|rank)[ _:-]?(\d{1,4})", re.IGNORECASE)
UNIT_IN_HEADER = re.compile(r"^(.*?)\s*[\[(]([^\])]*)[\])]\s*$")


def plain_utf8(data: bytes, where: str) -> bytes:
    """Return the text of a file in UTF-8 or UTF-16 as UTF-8 without a byte order mark.

    Text without a mark is taken as UTF-8; whoever decodes it finds out (:func:`not_text`).

    Raises
    ------
    InputError
        If the file has the mark of UTF-16 and is in another encoding.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise not_text(where) from error
    return data.removeprefix(b"\xef\xbb\xbf")


def not_text(where: str) -> InputError:
    """Return the error for a file that is neither UTF-8 nor UTF-16."""
    return InputError(
        "is not text in UTF-8 or UTF-16", where=where, remedy="save the table as CSV in UTF-8"
    )


PACKED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress}
"""How a packed file begins, and what unpacks it."""


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked if it is packed (gzip, bzip2, xz).

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        data = path.read_bytes()
        opened = next((open_ for magic, open_ in PACKED.items() if data.startswith(magic)), None)
        return opened(data) if opened else data
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read as a table ({reason})", where=str(path)) from error


def separator_of(header: str) -> str:
    """Return the separator that occurs most in a header line; a comma if none does."""
    return max(SEPARATORS, key=lambda s: (header.count(s), s == ","))


def read_frame(path: Path, data: bytes | None = None) -> tuple[pd.DataFrame, str]:
    """Read a table as it is, and return it with its separator.

    Parameters
    ----------
    path : Path
    data : bytes, optional
        Content of the file, if it was read already.

    Raises
    ------
    InputError
        If the file cannot be read as a table.
    """
    packed = plain_utf8(read_bytes(path) if data is None else data, str(path))
    start = _start(packed)
    end = packed.find(b"\n", start)
    header = packed[start : end if end >= 0 else None].decode(errors="replace")
    separator = separator_of(header)
    types: dict[object, str] = {}
    columns = header.strip().split(separator)
    try:
        for column, name in rename_columns([c.strip().strip('"') for c in columns], {}).items():
            if name not in ("value", "gpu", "note", "date_utc", "partner"):
                types[column] = "category"
        frame = pd.read_csv(
            io.BytesIO(packed[start:] if start else packed),
            sep=separator,
            dtype=types,
            keep_default_na=True,
            on_bad_lines="skip",
            skipinitialspace=f"{separator} " in header,
        )
    except UnicodeDecodeError as error:
        raise not_text(str(path)) from error
    except (ValueError, pd.errors.ParserError) as error:
        reason = str(error).split("\n")[0][:160]
        raise InputError(f"cannot be read as a table ({reason})", where=str(path)) from error
    frame.columns = [str(c).strip() for c in frame.columns]
    return frame, separator


def _start(text: bytes) -> int:
    """Return where the header begins: after lines that are empty or begin with ``#``."""
    position = 0
    while position < len(text):
        end = text.find(b"\n", position)
        line = text[position : end if end >= 0 else len(text)].strip()
        if line and not line.startswith(b"#"):
            return position
        if end < 0:
            return position
        position = end + 1
    return 0


def read_rows(path: Path, mapping: Mapping[str, str]) -> pd.DataFrame:
    """Read a file into rows; beside the needed columns it keeps every other one.

    Parameters
    ----------
    path : Path
    mapping : mapping of str to str
        Name of the column of the file for names used here (``--map``).

    Returns
    -------
    DataFrame
        Columns node, metric, value, and as many of gpu, unit, rack, note, run, date_utc, the class
        columns and the file's own ones as there are; attribute ``comma_decimal`` in ``attrs``.

    Raises
    ------
    InputError
        If the file cannot be read, or no column holds the nodes or the values.
    """
    data = read_bytes(path)
    if is_diagnostic(data[:200_000].decode("utf-8", errors="replace")) or is_diagnostic(
        data[-20_000:].decode("utf-8", errors="replace")
    ):
        text = plain_utf8(data, str(path)).decode(errors="replace")
        return diagnostic_rows(text, path.stem, str(path))
    if data.lstrip()[:1] == b"{":
        text = plain_utf8(data, str(path)).decode(errors="replace")
        return _json_lines(text, path, mapping)
    head = data[:20_000].decode("utf-8", errors="replace")
    if is_monitor(head):
        text = plain_utf8(data, str(path)).decode(errors="replace")
        return monitor_rows(text, path.stem)
    frame, separator = read_frame(path, data)
    frame = _with_node(frame, mapping, path.stem)
    frame = long_form(frame, mapping, str(path), path.stem)
    frame.attrs["comma_decimal"] = separator != ","
    return frame


def _with_node(frame: pd.DataFrame, mapping: Mapping[str, str], name: str) -> pd.DataFrame:
    """Name the node of a monitor's table, which has none, after its file.

    ``nvidia-smi --query-gpu`` writes a row for each GPU with columns such as ``clocks.sm [MHz]``.
    """
    plain = {plain_name(c) for c in frame.columns}
    named = set(rename_columns(list(frame.columns), mapping).values())
    smi = any(re.search(r"(clocks|temperature|power|utilization|pcie|ecc)_", c) for c in plain)
    if "node" in named or "gpu" not in named or not smi:
        return frame
    return frame.assign(node=name)


def long_form(
    frame: pd.DataFrame, mapping: Mapping[str, str], where: str, name: str = "value"
) -> pd.DataFrame:
    """Rename the columns of a table, and turn a wide one into one row for each value.

    Raises
    ------
    InputError
        If no column holds the nodes or the values.
    """
    named = rename_columns(list(frame.columns), mapping, where)
    renamed = frame.rename(columns=named)
    missing = [c for c in NEEDED if c not in renamed.columns]
    if not missing:
        return renamed
    if "node" not in missing and "value" in missing:
        wide = _wide(renamed, name)
        if wide is not None:
            return wide
    raise InputError(f"column missing: {', '.join(missing)}", where=where, remedy=FORM)


def _wide(frame: pd.DataFrame, name: str) -> pd.DataFrame | None:
    """Return a wide table in long form; None if it has no column of numbers."""
    from groundspeed.fleet.settings import setting_of

    about = [c for c in frame.columns if c in ALIASES and c != "value"]
    others = [c for c in frame.columns if c not in about]
    settings = [c for c in others if setting_of(plain_name(c)) is not None]
    values = [c for c in others if c not in settings and _mostly_numbers(frame[c])]
    if not values:
        return None
    gpus = {c: GPU_COLUMN.fullmatch(str(c).strip()) for c in values}
    melted = frame.melt(
        id_vars=[*about, *settings], value_vars=values, var_name="column", value_name="value_"
    )
    melted = melted.rename(columns={"value_": "value"})
    if all(gpus.values()):
        melted["gpu"] = melted["column"].map({c: int(m.group(1)) for c, m in gpus.items() if m})
        if "metric" not in melted:
            melted["metric"] = name
    elif "metric" in melted:
        return None
    else:
        parts = {c: UNIT_IN_HEADER.match(str(c)) for c in values}
        melted["metric"] = melted["column"].map(
            {c: plain_name(m.group(1)) if m else plain_name(c) for c, m in parts.items()}
        )
        units = melted["column"].map({c: m.group(2) if m else "" for c, m in parts.items()})
        melted["unit"] = melted["unit"].where(units == "", units) if "unit" in melted else units
    return melted.drop(columns="column")


def _mostly_numbers(cells: pd.Series) -> bool:
    from groundspeed.fleet.reading.columns import numbers_of

    values, _, bad = numbers_of(cells, comma_decimal=False)
    return bool(values.notna().sum() > bad.sum())


def _json_lines(text: str, path: Path, mapping: Mapping[str, str]) -> pd.DataFrame:
    """Read JSON lines: one row each, or one node each with a key for each metric (SuperBench)."""
    records = list(_objects(text, path))
    frame = pd.DataFrame.from_records(records)
    named = rename_columns(list(frame.columns), mapping, str(path))
    if all(c in named.values() for c in NEEDED):
        return frame.rename(columns=named)
    node = next((c for c, name in named.items() if name == "node"), None)
    if node is None:
        raise InputError("no key holds the node", where=str(path), remedy=FORM)
    rows: list[dict[str, object]] = []
    for record in records:
        for key, value in record.items():
            if key == node or isinstance(value, str | dict | list):
                continue
            metric, _, gpu = str(key).rpartition(":")
            if not metric or not gpu.isdigit():
                metric, gpu = str(key), ""
            rows.append(
                {"node": record[str(node)], "gpu": gpu or None, "metric": metric, "value": value,
                 "unit": ""}
            )  # fmt: skip
    return pd.DataFrame.from_records(rows)


def _objects(text: str, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"line {number} is not a JSON object", where=str(path), remedy=FORM
            ) from error
        if not isinstance(record, dict):
            raise InputError(f"line {number} is not a JSON object", where=str(path), remedy=FORM)
        yield record
