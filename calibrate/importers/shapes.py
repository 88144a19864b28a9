"""Read matmul rates measured by other tools: mamf-finder's log, SuperBench's results.

mamf-finder prints TFLOPS for each shape it tries (mean, median, max) and a summary of the best
shape. SuperBench writes one JSON object for each node, with one key for each metric. Both give
rates; a profile holds times, so the time is computed as the matmul's FLOPs divided by the rate.
"""

import json
import re
import statistics
from collections.abc import Iterable

import numpy as np

from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import OPERATIONS, Array
from groundspeed.profiles.schema import Point

TERA = 1e12

NUMBER = r"([\d.]+)"
SHAPE = r"(\d+)x(\d+)x(\d+)"
LINES = (
    re.compile(rf"{NUMBER}\(mean\)\s+{NUMBER}\(median\).*?@ {SHAPE}"),
    re.compile(rf"^\s*\d+\s+{SHAPE}\s+{NUMBER}\s+{NUMBER}\s+{NUMBER}", re.MULTILINE),
    re.compile(rf"^(median): +{NUMBER} TFLOPS @ {SHAPE}", re.MULTILINE),
    re.compile(rf"(best outcome was) {NUMBER} ?TFLOPS @ {SHAPE}"),
)
"""Patterns of a shape: in an older log, in a newer log, and the best one in either summary."""


def read_mamf(request: ImportRequest) -> Imported:
    """Read a log of mamf-finder.

    Raises
    ------
    InputError
        If the log has no line with the data type, or no shape.
    """
    where = str(request.path)
    dtype = re.search(r"\*\* Dtype: torch\.(\w+)", request.text)
    if dtype is None:
        raise InputError("not a log of mamf-finder (no line '** Dtype: torch.…')", where=where)
    device = re.search(r"DeviceProperties\(name='([^']+)'", request.text)
    # mamf-finder overwrites its progress line with carriage returns.
    text = request.text.replace("\r", "\n").replace("\033[K", "")
    rates: dict[tuple[int, int, int], float] = {}
    for match in LINES[0].finditer(text):
        rates[_shape(match.groups()[2:5])] = float(match[2])
    for match in LINES[1].finditer(text):
        rates[_shape(match.groups()[:3])] = float(match[5])
    for match in [*LINES[2].finditer(text), *LINES[3].finditer(text)]:
        rates.setdefault(_shape(match.groups()[2:5]), float(match[2]))
    if not rates:
        raise InputError("holds no shape with a TFLOPS value", where=where)
    name = {"float8_e4m3fn": "fp8", "float8_e4m3fnuz": "fp8"}.get(dtype[1], dtype[1])
    rows = [(shape, rate * TERA) for shape, rate in sorted(rates.items())]
    return Imported(
        device=device[1] if device else None,
        curves=(_matmul_curve(name, rows, "torch.mm"),),
        date_utc=_started(text),
    )


def _shape(texts: Iterable[str]) -> tuple[int, int, int]:
    m, n, k = (int(t) for t in texts)
    return m, n, k


def _started(text: str) -> str | None:
    match = re.search(r"Benchmark started on (\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)", text)
    return f"{match[1]}T{match[2]}Z" if match else None


CUBLASLT = re.compile(r"^cublaslt-gemm(?::[^/]*)?/(\w+?)_(\d+)_(\d+)_(\d+)_(\d+)_flops(?::\d+)?$")
HIPBLASLT = re.compile(r"^hipblaslt-gemm(?::[^/]*)?/(\w+?)_(\d+)_(\d+)_(\d+)_(\d+)_flops(?::\d+)?$")
HOST_LINK = re.compile(r"^mem-bw(?::[^/]*)?/(h2d|d2h)_bw(?::\d+)?$", re.IGNORECASE)
FORMATS = {
    "fp8e4m3": "fp8", "fp8e5m2": "fp8", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32",
    "fp64": "float64", "int8": "int8", "fp4e2m1": "nvfp4",
}  # fmt: skip


def read_superbench(request: ImportRequest) -> Imported:
    """Read a ``results-summary.jsonl``: the median over nodes and ranks for each matmul.

    A profile describes one device class, not single nodes; to find slow nodes, use the fleet
    commands.

    Raises
    ------
    InputError
        If the file is not in this format, or holds none of the supported metrics.
    """
    where = str(request.path)
    values: dict[tuple[str, int, int, int], list[float]] = {}
    links: dict[str, list[float]] = {}
    nodes = 0
    others: set[str] = set()
    for line, text in enumerate(request.text.splitlines(), start=1):
        if not text.strip():
            continue
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError("not valid JSON", where=f"{where}, line {line}") from error
        if not isinstance(document, dict):
            raise InputError("not a JSON object", where=f"{where}, line {line}")
        nodes += 1
        others |= {m.split("/")[0].split(":")[0] for m in document if "/" in m}
        for metric, value in document.items():
            if not isinstance(value, int | float) or not value > 0:
                continue
            if (match := CUBLASLT.match(metric) or HIPBLASLT.match(metric)) is not None:
                dtype = FORMATS.get(match[1])
                if dtype is not None and int(match[2]) in (0, 1):  # not a batched matmul
                    key = (dtype, int(match[3]), int(match[4]), int(match[5]))
                    values.setdefault(key, []).append(float(value) * TERA)
            elif (match := HOST_LINK.match(metric)) is not None:
                links.setdefault(match[1].lower(), []).append(float(value) * 1e9)
    if not values and not links:
        raise InputError(
            "holds no cublaslt-gemm, hipblaslt-gemm or mem-bw result of a shape; it holds "
            + ", ".join(sorted(others)[:8]),
            where=where,
            remedy="screen its nodes with: groundspeed fleet screen FILE",
        )
    by_dtype: dict[str, list[tuple[tuple[int, int, int], float]]] = {}
    for (dtype, m, n, k), rates in sorted(values.items()):
        by_dtype.setdefault(dtype, []).append(((m, n, k), statistics.median(rates)))
    curves = [_matmul_curve(dtype, rows, "cublaslt") for dtype, rows in by_dtype.items()]
    for direction, rates in sorted(links.items()):
        rate = statistics.median(rates)
        point = imported_point({"bytes": COPY_BYTES}, COPY_BYTES / rate, COPY_BYTES)
        config_key = {"direction": direction, "memory": "pinned"}
        curves.append(ImportedCurve("host_link", config_key, "superbench", (point,)))
    note = f"medians over {nodes} nodes" if nodes > 1 else "measured on one node"
    return Imported(device=None, curves=curves, warnings=(note,))


COPY_BYTES = 64.0 * 2**20
"""[bytes] Default size of a host copy in SuperBench's mem-bw."""


def _matmul_curve(
    dtype: str, rows: list[tuple[tuple[int, int, int], float]], backend: str
) -> ImportedCurve:
    spec = OPERATIONS["matmul"]
    points: list[Point] = []
    for (m, n, k), rate in rows:
        case = {"m": float(m), "n": float(n), "k": float(k)}
        flops = 2.0 * m * n * k
        columns = {c: _single(v) for c, v in case.items()}
        moved = float(spec.bytes(columns, {"dtype": dtype})[0])
        points.append(imported_point(case, flops / rate, moved, flops=flops))
    return ImportedCurve("matmul", {"dtype": dtype}, backend, points)


def _single(value: float) -> Array:
    return np.array([value])
