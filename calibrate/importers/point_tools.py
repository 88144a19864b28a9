"""Read three tools that measure pairs and products: p2pBandwidthLatencyTest, perftest, hipBLASLt.

- CUDA's sample ``p2pBandwidthLatencyTest`` prints matrices in GB/s; peer access enabled is what a
  program uses, and both ways is the sum of both.
- perftest (``ib_write_bw`` and its sisters) prints Gb/sec, or MB/sec and MiB/sec, which are both
  2^20 bytes; its average counts.
- ``hipblaslt-bench`` prints a CSV; column-major products swap m and n of ours.
"""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from groundspeed.calibrate.importers.bandwidth_matrix import UNSTATED_BYTES, p2p_point
from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.calibrate.importers.log_lines import plain_lines
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import OPERATIONS, Array
from groundspeed.profiles.schema import Point

P2P_TITLE = re.compile(r"(Uni|Bi)directional P2P=(Enabled|Disabled) Bandwidth")
P2P_DEVICE = re.compile(r"^\s*Device: (\d+), (.+?), pciBusID")
OTHER_MATRIX = re.compile(r"Latency.*Matrix|Connectivity Matrix")
ROW = re.compile(r"^\s*(\d+)((?:\s+\d+(?:\.\d+)?)+)\s*$")


def read_p2p_test(request: ImportRequest) -> Imported:
    """Read the matrices of CUDA's ``p2pBandwidthLatencyTest``.

    Raises
    ------
    InputError
        If the log has no bandwidth matrix.
    """
    devices: dict[int, str] = {}
    matrices: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    now: tuple[str, str] | None = None
    for _, line in plain_lines(request.text):
        if match := P2P_DEVICE.match(line):
            devices[int(match[1])] = match[2].strip()
        if match := P2P_TITLE.search(line):
            now = ("one-way" if match[1] == "Uni" else "both-ways", match[2])
        elif OTHER_MATRIX.search(line):
            now = None
        elif now is not None and (match := ROW.match(line)):
            for target, cell in enumerate(match[2].split()):
                if target != int(match[1]):
                    matrices.setdefault(now, []).append((int(match[1]), target, float(cell)))
    curves = []
    for direction in ("one-way", "both-ways"):
        cells = matrices.get((direction, "Enabled")) or matrices.get((direction, "Disabled"))
        if not cells:
            continue
        points = [p2p_point(a, b, r, UNSTATED_BYTES, direction) for a, b, r in cells if r > 0.0]
        curves.append(ImportedCurve("p2p", {"direction": direction}, "p2pBandwidthLatencyTest",
                                    points))  # fmt: skip
    if not curves:
        raise InputError("no bandwidth matrix of p2pBandwidthLatencyTest in it",
                         where=str(request.path))  # fmt: skip
    blocked = "CANNOT Access Peer" in request.text
    notes = ("its GPUs have no peer access: copies go through the host",) if blocked else ()
    return Imported(device=next(iter(devices.values()), None), curves=curves, warnings=notes)


PERFTEST_HEAD = re.compile(r"BW peak\[(Gb|MB|MiB)/sec\]\s+BW average\[(Gb|MB|MiB)/sec\]")
PERFTEST_TITLE = re.compile(r"^\s*(RDMA_Write|RDMA_Read|Send) BW Test")
PERFTEST_TESTS = ("RDMA_Write", "RDMA_Read", "Send")
"""Tests by the cost of their protocol: a write without answer comes nearest to the link's rate."""
PERFTEST_LEAST_BYTES = 65_536
"""Message size of perftest's bandwidth tests unless told otherwise."""
PERFTEST_ROW = re.compile(r"^\s*(\d+)\s+(\d+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s*$")
PERFTEST_BYTES = {"Gb": 1e9 / 8.0, "MB": 2.0**20, "MiB": 2.0**20}


def read_perftest(request: ImportRequest) -> Imported:
    """Read ``ib_write_bw``, ``ib_read_bw`` and ``ib_send_bw``: one network link, one direction.

    Raises
    ------
    InputError
        If the log has no table of bandwidths.
    """
    test, unit = "", ""
    found: dict[str, dict[int, float]] = {}
    for _, line in plain_lines(request.text):
        if match := PERFTEST_TITLE.match(line):
            test, unit = match[1], ""
        elif match := PERFTEST_HEAD.search(line):
            unit = match[2]
        elif unit and (match := PERFTEST_ROW.match(line)):
            rate = float(match[4]) * PERFTEST_BYTES[unit]
            if rate > 0.0:
                found.setdefault(test or PERFTEST_TESTS[-1], {})[int(match[1])] = rate
    if not found:
        raise InputError(
            "no table of bandwidths of perftest in it",
            where=str(request.path),
            remedy="give the output of ib_write_bw, ib_read_bw or ib_send_bw",
        )
    kept = min(found, key=PERFTEST_TESTS.index)
    size = max(found[kept])
    if size < PERFTEST_LEAST_BYTES:
        raise InputError(
            f"its largest message has {size:,} bytes, too few to show a link's bandwidth",
            where=str(request.path),
            remedy=f"measure messages of {PERFTEST_LEAST_BYTES:,} bytes or more (--size)",
        )
    left = sum(map(len, found.values())) - 1
    point = imported_point(
        {"from": 0.0, "to": 1.0, "bytes": float(size)}, size / found[kept][size], size
    )
    return Imported(
        device=None,
        curves=[
            ImportedCurve("p2p", {"direction": "one-way", "over": "network"}, "perftest", [point])
        ],
        warnings=(
            f"kept: the average of {kept} at {size:,} bytes, the link's bandwidth; "
            f"left out: {left} of smaller messages or other tests",
        )
        if left
        else (),
    )


HIPBLASLT_HEAD = re.compile(r"^\[?\d*\]?:?\s*(transA,transB,.*)$")
HIPBLASLT_DEVICE = re.compile(r"Device ID \d+\s*:\s*(AMD .+?)\s+gfx")
HIPBLASLT_TYPES = {
    "bf16_r": "bfloat16", "f16_r": "float16", "fp16_r": "float16", "f32_r": "float32",
    "f8_r": "fp8", "f8_fnuz_r": "fp8", "i8_r": "int8",
}  # fmt: skip


def read_hipblaslt(request: ImportRequest) -> Imported:
    """Read the tables of ``hipblaslt-bench``.

    Raises
    ------
    InputError
        If the log has no table, or a row contradicts itself.
    """
    points: dict[str, dict[tuple[int, int, int], Point]] = {}
    left: Counter[str] = Counter()
    device = HIPBLASLT_DEVICE.search(request.text)
    for row in _hipblaslt_rows(request):
        kind = row.get("a_type") or row.get("d_type", "")
        dtype = HIPBLASLT_TYPES.get(kind)
        if dtype is None:
            left[f"of type {kind or 'unknown'}"] += 1
            continue
        m, n, k = (round(_cell(request, row, name)) for name in ("m", "n", "k"))
        batch = round(_cell(request, row, "batch_count")) if "batch_count" in row else 1
        time_s = _cell(request, row, "us") * 1e-6
        flops = 2.0 * m * n * k * batch
        told = _cell(request, row, "hipblaslt-Gflops") * 1e9
        if abs(flops / time_s / told - 1.0) > 0.05:
            raise InputError(
                f"{m} x {n} x {k} in {row['us']} us is {flops / time_s / 1e9:.4g} Gflops, but it "
                f"says {row['hipblaslt-Gflops']}",
                where=str(request.path),
            )
        if batch != 1:
            left["batched"] += 1
            continue
        columns: dict[str, Array] = {
            name: np.array([float(v)]) for name, v in (("m", n), ("n", m), ("k", k))
        }
        moved = float(OPERATIONS["matmul"].bytes(columns, {"dtype": dtype})[0])
        case = {"m": float(n), "n": float(m), "k": float(k)}
        points.setdefault(dtype, {})[n, m, k] = imported_point(case, time_s, moved, flops=flops)
    warnings = tuple(f"left out: {n} products {what}" for what, n in left.items())
    if not points:
        raise InputError(
            "; ".join(warnings) or "no table of hipblaslt-bench in it", where=str(request.path)
        )
    return Imported(
        device=device[1] if device else None,
        curves=[
            ImportedCurve("matmul", {"dtype": dtype}, "hipblaslt", list(found.values()))
            for dtype, found in points.items()
        ],
        warnings=warnings,
    )


def _cell(request: ImportRequest, row: dict[str, str], name: str) -> float:
    """Return a number of a row above 0.

    Raises
    ------
    InputError
        If the table has no such column, or it holds something else there.
    """
    text = row.get(name)
    try:
        value = float(text) if text is not None else 0.0
    except ValueError:
        value = 0.0
    if not 0.0 < value < np.inf:
        what = f"'{text}' as {name}" if text is not None else f"no column {name}"
        raise InputError(f"a row has {what}, not a number above 0", where=str(request.path))
    return value


def _hipblaslt_rows(request: ImportRequest) -> Iterator[dict[str, str]]:
    head: list[str] = []
    for _, line in plain_lines(request.text):
        if match := HIPBLASLT_HEAD.match(line.strip()):
            head = [c.strip() for c in match[1].split(",")]
            continue
        cells = [c.strip() for c in line.split(",")]
        if head and len(cells) == len(head) and cells[0] in ("N", "T", "C"):
            yield dict(zip(head, cells, strict=True))
