"""Read bandwidth matrices: the output of rocm-bandwidth-test and TransferBench.

Both print GB/s with 1 GB = 10^9 bytes. They give rates, but a profile holds times. The time is
computed for the transfer size that the output states, or for one gigabyte if it states none.
"""

import re

from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.calibrate.importers.log_lines import plain_lines
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Point

GB = 1e9
UNSTATED_BYTES = 1e9
"""[bytes] Transfer size assumed if the output states none."""


def p2p_point(source: int, target: int, rate: float, size: float, direction: str) -> Point:
    """Return the point of one pair; both ways, ``rate`` [GB/s] is that of both together."""
    ways = 2.0 if direction == "both-ways" else 1.0
    case = {"from": float(source), "to": float(target), "bytes": size}
    return imported_point(case, ways * size / rate / GB, ways * size)


TITLE = re.compile(r"(Uni|Bi)directional copy (peak|average) bandwidth GB/s")
ROCM_DEVICE = re.compile(r"^\s*Device:\s*(\d+),\s*(.+?)\s*(?:,|$)")


def read_rocm_bandwidth_test(request: ImportRequest) -> Imported:
    """Read the matrices of ``rocm-bandwidth-test -a`` and ``-A``.

    Raises
    ------
    InputError
        If a cell is not a positive number.
    """
    gpus: dict[int, str] = {}
    for line in request.text.splitlines():
        if (match := ROCM_DEVICE.match(line)) and "GPU-" in line:
            gpus[int(match[1])] = match[2]
    curves: dict[str, list[Point]] = {}
    hosts: dict[str, list[Point]] = {}
    direction = None
    for number, line in enumerate(request.text.splitlines(), 1):
        if match := TITLE.search(line):
            direction = "one-way" if match[1] == "Uni" else "both-ways"
            continue
        fields = line.split()
        if direction is None or not fields or not fields[0].isdigit():
            continue
        source = int(fields[0])
        for target, text in enumerate(fields[1:]):
            if text == "N/A" or source == target:
                continue
            rate = _rate(text, f"{request.path}, line {number}")
            if source in gpus and target in gpus:
                point = p2p_point(source, target, rate, UNSTATED_BYTES, direction)
                curves.setdefault(direction, []).append(point)
            elif direction == "one-way" and (source in gpus or target in gpus):
                way = "d2h" if source in gpus else "h2d"
                device = float(source if source in gpus else target)
                case = {"bytes": UNSTATED_BYTES, "device": device}
                point = imported_point(case, UNSTATED_BYTES / rate / GB, UNSTATED_BYTES)
                hosts.setdefault(way, []).append(point)
    return Imported(
        device=next(iter(gpus.values()), None),
        curves=[
            *(ImportedCurve("p2p", {"direction": d}, "rocm-bandwidth-test", p)
              for d, p in curves.items()),
            *(ImportedCurve("host_link", {"direction": w, "memory": "pinned"},
                            "rocm-bandwidth-test", p) for w, p in hosts.items()),
        ],
    )  # fmt: skip


TRANSFER_ROW = re.compile(r"^\s*(CPU|GPU)\s+(\d+)\s*(->|<->|<-)?\s+(.*)$")


def read_transferbench(request: ImportRequest) -> Imported:
    """Read the matrices of TransferBench's presets ``p2p`` and ``a2a``.

    In both directions at once, TransferBench prints each direction and their sum (``<->``); a
    profile holds the sum.

    Raises
    ------
    InputError
        If a cell is not a positive number, or the output is that of another preset.
    """
    curves: dict[tuple[str, str], list[Point]] = {}
    direction, columns = None, list[tuple[str, str]]()
    stated = re.search(r"(?:Bytes Per Direction|\[)\s*(\d{4,})", request.text)
    size = float(stated[1]) if stated else UNSTATED_BYTES
    for number, line in plain_lines(request.text):
        if match := TITLE.search(line):
            direction = "one-way" if match[1] == "Uni" else "both-ways"
            continue
        if "SRC" in line and "DST" in line:
            columns = re.findall(r"(CPU|GPU)\s+(\d+)", line)
            if direction is None and "STotal" in line:
                direction = "all-at-once"
            continue
        match = TRANSFER_ROW.match(line)
        if match is None or direction is None:
            continue
        if direction == "both-ways" and match[3] != "<->":
            continue
        cells = match[4].replace(",", " ").split()[: len(columns)]
        if len(cells) != len(columns):
            continue  # this line has minima, maxima or deviations of the row above
        for (kind, index), text in zip(columns, cells, strict=True):
            if text == "N/A" or (match[1], match[2]) == (kind, index):
                continue
            rate = _rate(text, f"{request.path}, line {number}")
            source, target = int(match[2]), int(index)
            if match[1] == kind == "GPU":
                point = p2p_point(source, target, rate, size, direction)
                curves.setdefault(("p2p", direction), []).append(point)
            elif direction == "one-way" and match[1] != kind:
                way = "h2d" if match[1] == "CPU" else "d2h"
                device = float(target if way == "h2d" else source)
                case = {"bytes": size, "device": device}
                point = imported_point(case, size / rate / GB, size)
                curves.setdefault(("host_link", way), []).append(point)
    if not curves:
        raise InputError(
            "no matrix of TransferBench's presets p2p or a2a found",
            where=str(request.path),
            remedy="give the output of TransferBench p2p or TransferBench a2a",
        )
    return Imported(
        device=None,
        curves=[
            ImportedCurve(
                operation,
                {"direction": way} | ({"memory": "pinned"} if operation == "host_link" else {}),
                "transferbench",
                points,
            )
            for (operation, way), points in curves.items()
        ],
    )


def _rate(text: str, where: str) -> float:
    try:
        rate = float(text)
    except ValueError as error:
        raise InputError(f"'{text}' is not a bandwidth in GB/s", where=where) from error
    if rate <= 0.0:
        raise InputError(f"a bandwidth is {text} GB/s: it must be above 0", where=where)
    return rate
