"""Read nvbandwidth: the JSON of ``nvbandwidth -j``, or the matrices that it prints.

The copy-engine tests between devices and between host and device become curves. Tests by kernels
(``_sm``) between host and device do where the copy engine was not tested; every other test that the
file holds is named in a warning, with its rate, and so is every test that was waived or failed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from groundspeed.calibrate.importers.bandwidth_matrix import GB, UNSTATED_BYTES, p2p_point
from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.calibrate.importers.log_lines import plain_lines
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Point

PAIRS = {
    "device_to_device_memcpy_read_ce": "one-way",
    "device_to_device_memcpy_write_ce": "one-way",
    "device_to_device_bidirectional_memcpy_read_ce": "both-ways",
    "device_to_device_bidirectional_memcpy_write_ce": "both-ways",
}
"""Direction of each test between devices."""

HOST = {"host_to_device_memcpy": "h2d", "device_to_host_memcpy": "d2h"}
"""Direction of each test between host and device, without the suffix for what copies."""

HEADER = re.compile(r"^(memcpy|memory).*\(((?:GB/s)|ns)\)", re.IGNORECASE)
RUNNING = re.compile(r"^Running\s+(\w+)")
DEVICE = re.compile(r"^Device\s+\d+:\s*([^(]+?)\s*(?:\(|$)")


@dataclass(frozen=True)
class Test:
    """One test: its name, status, matrix of cells, and whether it is a bandwidth."""

    name: str
    status: str
    cells: Sequence[tuple[int, int, float]]
    unit: str = "GB/s"


def read_nvbandwidth(request: ImportRequest) -> Imported:
    """Read the JSON or the printed matrices of nvbandwidth.

    Raises
    ------
    InputError
        If the file is neither, or a cell is not a number.
    """
    where, text = str(request.path), request.text
    if text.lstrip().startswith("{"):
        tests, about = _json_tests(text, where)
    else:
        tests, about = list(_printed_tests(text, where)), _printed_facts(text)
    if not tests:
        raise InputError(
            "no test of nvbandwidth found",
            where=where,
            remedy="give what nvbandwidth prints, or the JSON of nvbandwidth -j",
        )
    size = about.get("size") or UNSTATED_BYTES
    points: dict[tuple[str, str], list[Point]] = {}
    unread, warnings = [], []
    failed: dict[str, list[str]] = {}
    have = {t.name for t in tests if t.cells}
    for test in tests:
        if test.status not in ("", "Passed"):
            failed.setdefault(test.status.lower(), []).append(test.name)
            continue
        bare, _, by = test.name.rpartition("_")
        if test.name in PAIRS:
            for row, column, rate in test.cells:
                if row != column:
                    way = PAIRS[test.name]
                    points.setdefault(("p2p", way), []).append(
                        p2p_point(row, column, rate, float(size), way)
                    )
        elif bare in HOST and (by == "ce" or f"{bare}_ce" not in have):
            for _, column, rate in test.cells:
                point = imported_point({"bytes": size, "device": column}, size / rate / GB, size)
                points.setdefault(("host_link", HOST[bare]), []).append(point)
            if by == "sm":
                warnings.append(f"nvbandwidth {test.name}: copied by a kernel, not by the engine")
        elif test.cells:
            rates = [rate for *_, rate in test.cells]
            unread.append(f"{test.name} ({min(rates):.4g} to {max(rates):.4g} {test.unit})")
    warnings += [f"{status}: {', '.join(names)}" for status, names in sorted(failed.items())]
    if unread:
        warnings.append(f"{len(unread)} tests are not part of a profile: {'; '.join(unread)}")
    curves = [
        ImportedCurve(
            operation,
            {"direction": way} | ({"memory": "pinned"} if operation == "host_link" else {}),
            "nvbandwidth",
            mine,
        )
        for (operation, way), mine in points.items()
    ]
    return Imported(
        device=about.get("device"),
        curves=curves,
        driver=about.get("driver"),
        runtime=about.get("runtime"),
        warnings=tuple(warnings),
    )


def _json_tests(text: str, where: str) -> tuple[list[Test], dict[str, Any]]:
    try:
        root: dict[str, Any] = json.loads(text)["nvbandwidth"]
        cases: list[dict[str, Any]] = root["testcases"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"not the JSON of nvbandwidth -j ({error!r})", where=where) from error
    tests = []
    for case in cases:
        unit = "ns" if "(ns)" in str(case.get("bandwidth_description") or "") else "GB/s"
        cells = list(_cells(case.get("bandwidth_matrix") or [], where))
        tests.append(Test(str(case.get("name")), str(case.get("status") or ""), cells, unit))
    listed = root.get("GPU Device list") or root.get("GPU Device info") or []
    named = re.search(r"(NVIDIA [^:(]+?)\s*(?:\(|:|$)", str(listed[0])) if listed else None
    runtime = root.get("CUDA Runtime Version")
    about = {
        "size": float(root.get("bufferSize", 0.0)) * 2.0**20,
        "device": named[1] if named else None,
        "driver": root.get("Driver Version"),
        "runtime": f"CUDA {runtime}" if runtime is not None else None,
    }
    return tests, about


def _cells(matrix: list[list[str]], where: str) -> Iterator[tuple[int, int, float]]:
    for row, values in enumerate(matrix):
        for column, text in enumerate(values):
            rate = _number(str(text), where)
            if rate is not None:
                yield row, column, rate


def _number(text: str, where: str) -> float | None:
    """Return a positive rate; None for a cell without one."""
    if text == "N/A":
        return None
    try:
        rate = float(text)
    except ValueError as error:
        raise InputError(f"'{text}' is not a bandwidth in GB/s", where=where) from error
    return rate if rate > 0.0 else None


def _printed_tests(text: str, where: str) -> Iterator[Test]:
    """Yield the tests of the printed form: a name, a title, a row of columns, rows of cells."""
    name, unit, columns, cells, waived = "", "GB/s", list[int](), list[tuple[int, int, float]](), ""
    for number, line in plain_lines(text):
        running = RUNNING.match(line)
        if running:
            if name:
                yield Test(name, waived, tuple(cells), unit)
            name, columns, cells, waived = running[1], [], [], ""
            continue
        if not name:
            continue
        if "waived" in line.lower():
            waived = "Waived"
        elif match := HEADER.match(line):
            unit = match[2]
        elif not columns and re.fullmatch(r"\d+(\s+\d+)*", line):
            columns = [int(c) for c in line.split()]
        elif columns and re.match(r"^\d+\s", line):
            row, *values = line.split()
            for column, value in zip(columns, values, strict=False):
                rate = _number(value, f"{where}, line {number}")
                if rate is not None:
                    cells.append((int(row), column, rate))
    if name:
        yield Test(name, waived, tuple(cells), unit)


def _printed_facts(text: str) -> dict[str, Any]:
    device = next((m[1] for _, line in plain_lines(text) if (m := DEVICE.match(line))), None)
    driver = re.search(r"^\s*Driver Version:\s*(\S+)", text, re.MULTILINE)
    runtime = re.search(r"CUDA Runtime Version:\s*(\S+)", text)
    return {
        "device": device,
        "driver": driver[1] if driver else None,
        "runtime": f"CUDA {runtime[1]}" if runtime else None,
    }
