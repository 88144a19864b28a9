"""Names of nodes: as files, as ranges (``n[1-4]``), and in short; and the levels of a check."""

import itertools
import re
import urllib.parse
from collections.abc import Iterable
from typing import Literal

from groundspeed.profiles.errors import InputError

CheckLevel = Literal["check", "quick", "standard", "full"]
"""How much of a device is measured: ``check`` takes seconds, the others are ``calibrate`` modes."""


def file_name(node: str) -> str:
    """Return a node's name as a file name, quoted so that the path cannot leave its folder.

    >>> file_name("../../x"), file_name("gpu-17")
    ('..%2F..%2Fx', 'gpu-17')
    """
    quoted = urllib.parse.quote(node, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")


MOST_NODES = 100_000
"""Largest number of nodes that a range may name."""


def expand_names(text: str) -> list[str]:
    """Return the nodes that a text names, as Slurm writes them: ``n[1-4,7],login``.

    >>> expand_names("n[08-10],x1"), expand_names("r[1-2]n[1-2]")
    (['n08', 'n09', 'n10', 'x1'], ['r1n1', 'r1n2', 'r2n1', 'r2n2'])

    Raises
    ------
    InputError
        If a bracket does not hold numbers and ranges, or names too many nodes.
    """
    parts = [p.strip() for p in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text)]
    names: list[str] = []
    if "".join(parts).count("[") != text.count("[") or text.count("[") != text.count("]"):
        raise InputError(f"'{text}' has a bracket without its other half", where="nodes")
    for part in filter(None, parts):
        pieces = re.split(r"\[([^\]]*)\]", part)
        choices = [[p] if i % 2 == 0 else _numbers(p, part) for i, p in enumerate(pieces)]
        names += ["".join(chosen) for chosen in itertools.product(*choices)]
        if len(names) > MOST_NODES:
            raise InputError(f"'{part}' names more than {MOST_NODES:,} nodes", where="nodes")
    return list(dict.fromkeys(names))


def _numbers(text: str, whole: str) -> list[str]:
    numbers: list[str] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (
            dash and not 0 <= int(last) - int(first) < MOST_NODES
        ):  # fmt: skip
            raise InputError(f"'{part}' in '{whole}' is not a range such as 1-4", where="nodes")
        numbers += (
            [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
            if dash
            else [first]
        )
    return numbers


def fold_names(names: Iterable[str], most: int = 6) -> str:
    """Return names in short, with ranges where only the last number differs.

    >>> fold_names(["n08", "n09", "n10", "x1"]), fold_names(["a", "b", "c"], 2)
    ('n[08-10], x1', 'a, b and 1 more')
    """
    groups: dict[tuple[str, int], list[int]] = {}
    order: dict[tuple[str, int] | str, None] = {}
    for name in dict.fromkeys(names):
        match = re.fullmatch(r"(.*?)(\d+)", name)
        if match:
            key = (match[1], len(match[2]) if match[2].startswith("0") else 0)
            # 09 and 10 belong together: both have two digits.
            wide = (match[1], len(match[2]))
            key = wide if wide in groups or key[1] else key
            groups.setdefault(key, []).append(int(match[2]))
            order[key] = None
        else:
            order[name] = None
    texts: list[tuple[str, int]] = []
    for entry in order:
        if isinstance(entry, str):
            texts.append((entry, 1))
        else:
            texts += _ranges(entry, sorted(groups[entry]))
    shown = ", ".join(text for text, _ in texts[:most])
    rest = sum(count for _, count in texts[most:])
    return shown + (f" and {rest} more" if rest else "")


def _ranges(key: tuple[str, int], numbers: list[int]) -> list[tuple[str, int]]:
    """Return the names of one prefix: one text with brackets if there are several."""
    prefix, width = key
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ends = [dict.fromkeys((str(r[0]).zfill(width), str(r[-1]).zfill(width))) for r in runs]
    parts = ["-".join(e) for e in ends]
    if len(numbers) == 1:
        return [(f"{prefix}{parts[0]}", 1)]
    return [(f"{prefix}[{','.join(parts[:8])}{',...' if len(parts) > 8 else ''}]", len(numbers))]
