"""Read the values of a row: texts, numbers, counts and formats, with a clear error for each."""

import math
import re
from collections.abc import Mapping

from groundspeed.estimator.model.quantization import NAMES
from groundspeed.profiles.errors import InputError

Row = Mapping[str, str]

SETTINGS = {
    "max_sequences": "max-num-seqs|max-running-requests|max-batch-size",
    "token_budget": "max-num-batched-tokens|chunked-prefill-size|max-num-tokens",
    "memory_fraction": "gpu-memory-utilization|mem-fraction-static"
    "|kv-cache-free-gpu-memory-fraction",
    "max_model_len": "max-model-len|context-length|max-seq-len",
}
"""Columns that the command of the server states too, and its options (vLLM, SGLang, TRT-LLM)."""

SAID_IN = ("command", "server_args", "notes")
"""Columns in which a command may stand."""

LENGTHS = ("isl", "osl")
"""Columns that may be means of real prompts, which are no whole numbers."""


def text(row: Row, name: str) -> str:
    """Return the value of a column without spaces around it; empty if it is absent."""
    value = row.get(name)
    return "" if value is None else str(value).strip()


NOTHING = ("none", "no", "off", "false", "0", "-", "nan", "null", "n/a")
"""What people write into a column of words for nothing."""


def stated(row: Row, name: str) -> str:
    """Return the words of a column; empty if they say that there is nothing."""
    found = text(row, name)
    return "" if found.lower() in NOTHING else found


def number(row: Row, name: str) -> float | None:
    """Return the value of a column as a number; None if there is none.

    Raises
    ------
    InputError
        If it is not a finite number, 0 or more.
    """
    found = text(row, name)
    if not found or found.lower() in ("nan", "none", "null", "-"):
        return None
    try:
        value = float(found)
    except ValueError as error:
        raise InputError(f"{name} is '{found[:40]}', not a number") from error
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{name} is {found[:40]}, but must be a finite number, 0 or more")
    return value


def setting(row: Row, name: str) -> float | None:
    """Return a setting of the server: its column, else what the server's command says.

    >>> setting({"notes": "--tp 8 --max-num-seqs=128"}, "max_sequences")
    128.0
    """
    stated = number(row, name)
    if stated:
        return stated
    options = SETTINGS[name].replace("-", "[-_]")
    for column in SAID_IN:
        found = re.search(rf"(?<![\w-])(?:--)?(?:{options})[ =]+([\d.]+)", text(row, column))
        if found and (value := _plain(found[1])) > 0.0:
            return value
    return None


def _plain(digits: str) -> float:
    """Return a number cut out of a text; 0 if it is none after all."""
    try:
        return float(digits.strip("."))
    except ValueError:
        return 0.0


def integer(row: Row, name: str, default: int) -> int:
    """Return the value of a column as a whole number.

    Raises
    ------
    InputError
        If it is not one; mean lengths are rounded, to one token at least.
    """
    value = number(row, name)
    if value is None:
        return default
    if name in LENGTHS:
        return max(1, round(value))
    if value != int(value):
        raise InputError(f"{name} is {value:g}, not a whole number")
    return int(value)


def version(row: Row) -> str:
    """Return the number in an engine's version or image tag (``vllm-openai:v0.19.0-cu130``).

    A text without a number, such as ``nightly``, stands for the newest.
    """
    found = re.search(r"\d+\.\d+(?:\.\d+)*", text(row, "engine_version"))
    return found.group() if found else ""


def weight_format(name: str) -> str | None:
    """Return the weight format of a name; None if empty or native: the checkpoint's is used."""
    plain = name.lower().split(" ")[0]
    if "native" in name.lower():
        return None
    return NAMES.get(plain, plain) if plain else None
