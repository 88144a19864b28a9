"""nccl-tests and rccl-tests: the table they print, and the JSON of ``-J``.

The table does not always say which collective it is of. The bus factor tells an all-reduce from
the others, and a reduction from a plain exchange; what is left open, ``--op`` must say.
"""

import json
import math
import re
from typing import Any

from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.profiles.busbw import TRAFFIC, bus_factor
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.schema import Interconnect, Point

PROGRAM = re.compile(r"(all_reduce|all_gather|reduce_scatter|alltoall|broadcast|sendrecv)_perf")
RANK = re.compile(r"^#\s*Rank\s+(\d+)\s.*?\bon\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s*(.*\S)\s*$")
ROW = re.compile(r"^\s*(\d+)\s+(\d+)\s+([a-z]\w*)\s+(.*)$")
GRAPH = re.compile(r"graph:\s*(\d+)")
TOLERANCE = 0.03
"""Printed rates have two decimals."""


def read_nccl_tests(request: ImportRequest) -> Imported:
    """Read the text or JSON output.

    Raises
    ------
    InputError
        If it is neither, or does not say enough.
    """
    if request.text.lstrip().startswith("{"):
        return _read_json(request)
    return _read_table(request)


def _read_table(request: ImportRequest) -> Imported:
    where = str(request.path)
    ranks: dict[int, tuple[str, str]] = {}
    rows: list[tuple[float, float, float, float, bool]] = []
    reduced = False
    graph = False
    for number, line in enumerate(request.text.splitlines(), 1):
        if match := RANK.match(line):
            ranks[int(match[1])] = (match[2], match[3])
        elif (match := GRAPH.search(line)) and line.startswith("#"):
            graph = int(match[1]) > 0
        elif match := ROW.match(line):
            fields = match[4].split()
            numbers = fields[2:] if len(fields) >= 10 else fields[-8:]
            reduced = reduced or any(f in ("sum", "prod", "min", "max", "avg") for f in fields[:2])
            try:
                time_us, algbw, busbw = (float(x) for x in numbers[:3])
                wrong = numbers[3]
            except (ValueError, IndexError) as error:
                raise InputError(
                    "a row of the table cannot be read", where=f"{where}, line {number}"
                ) from error
            clean = wrong == "N/A" or float(wrong) < 1e-3
            if time_us > 0.0 and float(match[1]) > 0.0:
                rows.append((float(match[1]), time_us * 1e-6, algbw, busbw, clean))
    if not rows or len(ranks) < 2:
        raise InputError(
            "no table of nccl-tests in it" if not rows else "it lists fewer than two ranks",
            where=where,
            remedy="give the whole output, with the lines that begin with '# Rank'",
        )
    op = request.op or _named(request) or _op_from_bus_factor(rows, len(ranks), reduced, where)
    points = [
        imported_point({"bytes": size}, time_s, size, valid=clean)
        for size, time_s, _, _, clean in rows
    ]
    hosts = tuple(dict.fromkeys(host for host, _ in ranks.values()))
    _require_factor(op, rows, len(ranks), where)
    return _imported(op, points, hosts, len(ranks), next(iter(ranks.values()))[1], graph=graph)


def _read_json(request: ImportRequest) -> Imported:
    where = str(request.path)
    try:
        document: dict[str, Any] = json.loads(request.text)
        results, devices = document["results"], document["devices"]
        graph = bool(document.get("config", {}).get("graph"))
        rows = []
        for row in results:
            result = row.get("out_of_place") or row.get("in_place")
            if result and result.get("time") and row["size"]:
                wrong = result.get("nwrong") or 0.0
                rows.append(
                    (float(row["size"]), result["time"] * 1e-6, result["alg_bw"], result["bus_bw"],
                     float(wrong) == 0.0)
                )  # fmt: skip
        hosts = tuple(dict.fromkeys(str(d["hostname"]) for d in devices))
        gpu = str(devices[0]["device_info"]) if devices else ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"not the JSON of nccl-tests ({error!r})", where=where) from error
    if not rows or len(devices) < 2:
        raise InputError("it holds no result, or fewer than two ranks", where=where)
    reduced = any(row.get("redop") not in (None, "none", "") for row in results)
    named = PROGRAM.search(" ".join(map(str, document.get("args", []))))
    op = request.op or (named[1] if named else None) or _named(request)
    op = op or _op_from_bus_factor(rows, len(devices), reduced, where)
    _require_factor(op, rows, len(devices), where)
    points = [imported_point({"bytes": r[0]}, r[1], r[0], valid=r[4]) for r in rows]
    imported = _imported(op, points, hosts, len(devices), gpu, graph=graph)
    version = document.get("nccl_version")
    links = imported.interconnect
    if links is not None and isinstance(version, int):
        text = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
        links = links.model_copy(update={"version": text})
    return Imported(imported.device, imported.curves, links)


def _named(request: ImportRequest) -> str | None:
    """The collective, if the output or the file's name says it."""
    match = PROGRAM.search(request.text) or PROGRAM.search(request.path.name)
    if match is None:
        match = re.search("|".join(TRAFFIC), request.path.name)
        return match[0] if match else None
    return match[1]


def _op_from_bus_factor(
    rows: list[tuple[float, float, float, float, bool]], ranks: int, reduced: bool, where: str
) -> str:
    """The collective whose bus factor is that of the table."""
    factor = _factor(rows)
    fitting = [
        op
        for op in TRAFFIC
        if factor is not None and math.isclose(bus_factor(op, ranks), factor, rel_tol=TOLERANCE)
    ]
    fitting = [op for op in fitting if reduced == (op in ("all_reduce", "reduce_scatter"))]
    if len(fitting) == 1:
        return fitting[0]
    names = " or ".join(fitting) or "none that is known"
    raise InputError(
        f"it does not say which collective it is of ({names} by its bus factor)",
        where=where,
        remedy="say so with --op all_gather",
    )


def _factor(rows: list[tuple[float, float, float, float, bool]]) -> float | None:
    """Busbw over algbw of the largest size."""
    _, _, algbw, busbw, _ = max(rows)
    return busbw / algbw if algbw > 0 else None


def _require_factor(
    op: str, rows: list[tuple[float, float, float, float, bool]], ranks: int, where: str
) -> None:
    if op not in TRAFFIC:
        raise InputError(f"unknown collective '{op}'", remedy=did_you_mean(op, TRAFFIC))
    factor = _factor(rows)
    if factor is not None and not math.isclose(factor, bus_factor(op, ranks), rel_tol=TOLERANCE):
        raise InputError(
            f"busbw is {factor:.2f} times algbw, that of {op} among {ranks} ranks is "
            f"{bus_factor(op, ranks):.2f}",
            where=where,
            remedy="check --op, and that all ranks are listed",
        )


def _imported(
    op: str, points: list[Point], hosts: tuple[str, ...], ranks: int, gpu: str, *, graph: bool
) -> Imported:
    config_key = {"op": op, "world_size": str(ranks), "mode": "graph" if graph else "eager"}
    if len(hosts) > 1:
        config_key["hosts"] = str(len(hosts))
    amd = "amd" in gpu.lower() or "instinct" in gpu.lower()
    backend = "rccl" if amd else "nccl"
    return Imported(
        device=gpu or None,
        curves=[ImportedCurve("collective", config_key, backend, points)],
        interconnect=Interconnect(
            backend="rccl" if amd else "nccl", ranks=ranks, hosts=hosts, launcher="imported"
        ),
    )
