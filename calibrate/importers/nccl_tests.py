"""Read the output of nccl-tests and rccl-tests: the printed table, or the JSON of ``-J``.

The table does not always name its collective. Then it is inferred from the bus factor
(busbw / algbw), which distinguishes an all-reduce from the other collectives, and from whether the
table names a reduction. If several collectives remain, ``--op`` must be given.
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
"""[1] Relative tolerance of busbw / algbw, because the rates are printed with two decimals."""


def read_nccl_tests(request: ImportRequest) -> Imported:
    """Read the text or JSON output of nccl-tests.

    Raises
    ------
    InputError
        If the file is in neither format, or does not identify the ranks and the collective.
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
                    "this row of the table cannot be parsed", where=f"{where}, line {number}"
                ) from error
            clean = wrong == "N/A" or float(wrong) < 1e-3
            if time_us > 0.0 and float(match[1]) > 0.0:
                rows.append((float(match[1]), time_us * 1e-6, algbw, busbw, clean))
    if not rows or len(ranks) < 2:
        raise InputError(
            "no table of nccl-tests found" if not rows else "the table lists fewer than two ranks",
            where=where,
            remedy="give the whole output, including the lines that begin with '# Rank'",
        )
    op = (
        request.op
        or _op_from_name(request)
        or _op_from_bus_factor(rows, len(ranks), reduced, where)
    )
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
        raise InputError("the JSON holds no result, or fewer than two ranks", where=where)
    reduced = any(row.get("redop") not in (None, "none", "") for row in results)
    named = PROGRAM.search(" ".join(map(str, document.get("args", []))))
    op = request.op or (named[1] if named else None) or _op_from_name(request)
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


def _op_from_name(request: ImportRequest) -> str | None:
    """Return the collective named in the output or in the file's name; None if neither names it."""
    match = PROGRAM.search(request.text) or PROGRAM.search(request.path.name)
    if match is None:
        match = re.search("|".join(TRAFFIC), request.path.name)
        return match[0] if match else None
    return match[1]


def _op_from_bus_factor(
    rows: list[tuple[float, float, float, float, bool]], ranks: int, reduced: bool, where: str
) -> str:
    """Infer the collective from the table's bus factor."""
    factor = _measured_bus_factor(rows)
    fitting = [
        op
        for op in TRAFFIC
        if factor is not None and math.isclose(bus_factor(op, ranks), factor, rel_tol=TOLERANCE)
    ]
    fitting = [op for op in fitting if reduced == (op in ("all_reduce", "reduce_scatter"))]
    if len(fitting) == 1:
        return fitting[0]
    names = " or ".join(fitting) or "no known collective"
    raise InputError(
        f"the output does not name its collective ({names} has this bus factor)",
        where=where,
        remedy="give it, for example --op all_gather",
    )


def _measured_bus_factor(rows: list[tuple[float, float, float, float, bool]]) -> float | None:
    """Return busbw / algbw of the largest message size; None if algbw is 0."""
    _, _, algbw, busbw, _ = max(rows)
    return busbw / algbw if algbw > 0 else None


def _require_factor(
    op: str, rows: list[tuple[float, float, float, float, bool]], ranks: int, where: str
) -> None:
    if op not in TRAFFIC:
        raise InputError(f"unknown collective '{op}'", remedy=did_you_mean(op, TRAFFIC))
    factor = _measured_bus_factor(rows)
    if factor is not None and not math.isclose(factor, bus_factor(op, ranks), rel_tol=TOLERANCE):
        raise InputError(
            f"busbw is {factor:.2f} times algbw, but for {op} with {ranks} ranks the factor is "
            f"{bus_factor(op, ranks):.2f}",
            where=where,
            remedy="check --op, and check that the output lists all ranks",
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
