"""Read bandwidth matrices: the output of nvbandwidth, rocm-bandwidth-test and TransferBench.

All three print GB/s with 1 GB = 10^9 bytes. They give rates, but a profile holds times. The time is
computed for the transfer size that the output states, or for one gigabyte if it states none.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Point

GB = 1e9
UNSTATED_BYTES = 1e9
"""[bytes] Transfer size assumed if the output states none."""

PAIRS = {
    "device_to_device_memcpy_read_ce": "one-way",
    "device_to_device_memcpy_write_ce": "one-way",
    "device_to_device_bidirectional_memcpy_read_ce": "both-ways",
    "device_to_device_bidirectional_memcpy_write_ce": "both-ways",
}
"""Direction of each nvbandwidth test case between devices. Only the copy-engine (CE) cases are
read; the SM cases repeat them with kernels instead of the copy engine."""

HOST = {
    "host_to_device_memcpy_ce": "h2d",
    "device_to_host_memcpy_ce": "d2h",
}
"""Direction of each nvbandwidth test case between host and device."""

Cell = tuple[int, int, float]
"""Row, column and [GB/s] bandwidth of one cell of a matrix."""


def read_nvbandwidth(request: ImportRequest) -> Imported:
    """Read the JSON of ``nvbandwidth -j``.

    Raises
    ------
    InputError
        If the file is not that JSON, or a cell is not a number.
    """
    where = str(request.path)
    try:
        root: dict[str, Any] = json.loads(request.text)["nvbandwidth"]
        cases: list[dict[str, Any]] = root["testcases"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"not the JSON of nvbandwidth -j ({error!r})", where=where) from error
    size = float(root.get("bufferSize", 0.0)) * 2.0**20 or UNSTATED_BYTES
    points_of: dict[tuple[str, str], list[Point]] = {}
    warnings = []
    for case in cases:
        name, status = str(case.get("name")), case.get("status")
        if status not in (None, "Passed") and (name in PAIRS or name in HOST):
            warnings.append(f"nvbandwidth {name}: {str(status).lower()}")
            continue
        for row, column, rate in _cells(case.get("bandwidth_matrix") or [], where):
            if name in PAIRS and row != column:
                points_of.setdefault(("p2p", PAIRS[name]), []).append(
                    _p2p_point(row, column, rate, size, PAIRS[name])
                )
            elif name in HOST:
                point = imported_point({"bytes": size, "device": column}, size / rate / GB, size)
                points_of.setdefault(("host_link", HOST[name]), []).append(point)
    curves = [
        ImportedCurve(
            operation,
            {"direction": direction} | ({"memory": "pinned"} if operation == "host_link" else {}),
            "nvbandwidth",
            points,
        )
        for (operation, direction), points in points_of.items()
    ]
    listed = root.get("GPU Device list") or root.get("GPU Device info") or []
    named = re.search(r"(NVIDIA [^:(]+?)\s*(?:\(|:|$)", str(listed[0])) if listed else None
    return Imported(
        device=named[1] if named else None,
        curves=curves,
        driver=root.get("Driver Version"),
        runtime=f"CUDA {root['CUDA Runtime Version']}" if "CUDA Runtime Version" in root else None,
        warnings=tuple(warnings),
    )


def _cells(matrix: list[list[str]], where: str) -> Iterator[Cell]:
    for row, values in enumerate(matrix):
        for column, text in enumerate(values):
            if text == "N/A":
                continue
            try:
                rate = float(text)
            except (TypeError, ValueError) as error:
                raise InputError(f"'{text}' is not a bandwidth in GB/s", where=where) from error
            if rate > 0.0:
                yield row, column, rate


def _p2p_point(source: int, target: int, rate: float, size: float, direction: str) -> Point:
    ways = 1.0 if direction == "one-way" else 2.0
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
                point = _p2p_point(source, target, rate, UNSTATED_BYTES, direction)
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


TRANSFER_ROW = re.compile(r"^\s*(CPU|GPU)\s+(\d+)\s*->?\s*(.*)$")


def read_transferbench(request: ImportRequest) -> Imported:
    """Read the matrices of TransferBench's ``p2p`` preset.

    Raises
    ------
    InputError
        If a cell is not a positive number.
    """
    curves: dict[tuple[str, str], list[Point]] = {}
    direction, columns = None, []
    for number, line in enumerate(request.text.splitlines(), 1):
        if match := TITLE.search(line):
            direction = "one-way" if match[1] == "Uni" else "both-ways"
            continue
        if direction is not None and "SRC" in line and "DST" in line:
            columns = re.findall(r"(CPU|GPU)\s+(\d+)", line)
            continue
        match = TRANSFER_ROW.match(line)
        if match is None or direction is None:
            continue
        cells = match[3].replace(",", " ").split()
        if not cells or len(cells) != len(columns):
            continue  # this line has minima, maxima or deviations of the row above
        for (kind, index), text in zip(columns, cells, strict=True):
            if text == "N/A" or (match[1], match[2]) == (kind, index):
                continue
            rate = _rate(text, f"{request.path}, line {number}")
            source, target = int(match[2]), int(index)
            if match[1] == kind == "GPU":
                point = _p2p_point(source, target, rate, UNSTATED_BYTES, direction)
                curves.setdefault(("p2p", direction), []).append(point)
            elif direction == "one-way" and match[1] != kind:
                way = "h2d" if match[1] == "CPU" else "d2h"
                device = float(target if way == "h2d" else source)
                case = {"bytes": UNSTATED_BYTES, "device": device}
                point = imported_point(case, UNSTATED_BYTES / rate / GB, UNSTATED_BYTES)
                curves.setdefault(("host_link", way), []).append(point)
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
