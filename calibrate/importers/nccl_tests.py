"""Read the output of nccl-tests and rccl-tests: what they print, or the JSON of ``-J``.

The table does not always name its collective. Then it is inferred from the bus factor
(busbw / algbw), which distinguishes an all-reduce from the other collectives, and from whether the
table names a reduction. If several collectives remain, ``--op`` must be given. Out-of-place times
become the profile; where in-place times disagree, where bandwidth falls with size, or where a rate
is above the wire, a warning says so: those are the logs that people need read.
"""

import json
import math
import statistics
from typing import Any

from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.calibrate.importers.nccl_runs import (
    PROGRAM,
    REDUCTIONS,
    SPELLING,
    Row,
    Run,
    Times,
    rank_groups,
    read_runs,
)
from groundspeed.profiles.busbw import TRAFFIC, bus_factor
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.schema import Interconnect, Point
from groundspeed.profiles.summary import size_text

TOLERANCE = 0.03
"""[1] Relative tolerance of busbw / algbw, because the rates are printed with two decimals."""

LARGE = 2.0**20
"""[bytes] Smallest message for which in place and out of place are compared."""

APART = 1.25
"""Factor between in place and out of place from which they disagree."""

CLIFF = 0.6
"""[1] Share of the best busbw of smaller messages below which a larger one is a fall."""


def read_nccl_tests(request: ImportRequest) -> Imported:
    """Read the text or JSON output of nccl-tests.

    Raises
    ------
    InputError
        If the file is in neither format, or does not identify the ranks and the collective.
    """
    where = str(request.path)
    if request.text.lstrip().startswith("{"):
        run, version = _json_run(request.text, where)
        runs = [run]
    else:
        runs, version = read_runs(request.text, where), None
    if not runs:
        raise InputError(
            "no table of nccl-tests found",
            where=where,
            remedy="give the whole output, including the lines that begin with '# Rank'",
        )
    curves: list[ImportedCurve] = []
    warnings: list[str] = []
    hosts: tuple[str, ...] = ()
    world, gpu = 0, ""
    seen: dict[str, int] = {}
    for run in runs:
        curve, ranks, said = _curve(run, request, where)
        key = " ".join(f"{k}={v}" for k, v in curve.config_key.items())
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            again = {**curve.config_key, "run": str(seen[key])}
            curve = ImportedCurve(curve.operation, again, curve.backend, curve.points)
            said.append(f"{key}: measured {seen[key]} times in one log; each run is kept apart")
        curves.append(curve)
        warnings += said
        first = next(iter(run.ranks.values()), ("", "", 0))
        gpu = gpu or first[1]
        if ranks > world:
            world, hosts = ranks, tuple(dict.fromkeys(h for h, _, _ in run.ranks.values()))
    backend = curves[0].backend
    return Imported(
        device=gpu or None,
        curves=curves,
        interconnect=Interconnect(
            backend="rccl" if backend == "rccl" else "nccl", ranks=world, hosts=hosts,
            launcher="imported", version=version,
        ),
        warnings=tuple(dict.fromkeys(warnings)),
    )  # fmt: skip


def _curve(run: Run, request: ImportRequest, where: str) -> tuple[ImportedCurve, int, list[str]]:
    """Return the curve of a run, its number of ranks, and what to warn of."""
    if run.lone:
        raise InputError(
            "two processes are both rank 0: built without MPI, each ran alone and sent nothing",
            where=where,
            remedy="build nccl-tests with MPI=1, or run one process with -g N",
        )
    groups = list(rank_groups(run))
    sizes = {len(g) for g in groups}
    ranks = max(len(groups[0]) if groups else 0, run.promised if len(groups) < 2 else 0)
    if len(sizes) > 1 or ranks < 2:
        raise InputError(
            "the table lists fewer than two ranks" if ranks < 2 else
            f"the ranks are split into groups of {sorted(sizes)}: groups of one size are needed",
            where=where,
            remedy="give the whole output, including the lines that begin with '# Rank'",
        )  # fmt: skip
    op = _operation(run, request, ranks, where)
    _require_factor(op, run.rows, ranks, where)
    hosts = max((len({h for h, _ in g}) for g in groups), default=1)
    gpu = groups[0][0][1] if groups else ""
    amd = any(word in gpu.lower() for word in ("amd", "instinct", "gfx", "mi2", "mi3"))
    config_key = {"op": op, "world_size": str(ranks), "mode": "graph" if run.graph else "eager"}
    if hosts > 1:
        config_key["hosts"] = str(hosts)
    warnings = _notable(run, op)
    if len(groups) > 1:
        config_key["groups"] = str(len(groups))
        warnings.append(f"{op}: {len(groups)} groups of {ranks} ranks at once (column Group)")
    if len(run.ranks) < ranks and len(groups) < 2:
        warnings.append(f"{op}: {ranks} ranks by nGpus and the bus factor; {len(run.ranks)} listed")
    points = _points(run.rows)
    return (
        ImportedCurve("collective", config_key, "rccl" if amd else "nccl", points),
        ranks,
        warnings,
    )


def _points(rows: list[Row]) -> list[Point]:
    """Return a point for each size: the median of its rows, as a size may be repeated."""
    by_size: dict[float, list[Times]] = {}
    for row in rows:
        by_size.setdefault(row.bytes, []).append(row.out_of_place)
    return [
        imported_point(
            {"bytes": size},
            statistics.median(t.time_s for t in times),
            size,
            valid=all(t.right for t in times),
        )
        for size, times in sorted(by_size.items())
    ]


def _notable(run: Run, op: str) -> list[str]:
    """Return what a reader should know: disagreement, a fall with size, wrong results."""
    notes = []
    large = [r for r in run.rows if r.bytes >= LARGE and r.in_place is not None]
    for row in sorted(large, key=lambda r: -r.bytes):
        inside = row.in_place
        if inside is None:
            continue
        ratio = row.out_of_place.busbw / inside.busbw if inside.busbw > 0 else 1.0
        if not 1.0 / APART < ratio < APART:
            notes.append(
                f"{op}: busbw {row.out_of_place.busbw:.4g} GB/s out of place but "
                f"{inside.busbw:.4g} GB/s in place at {size_text(row.bytes)}: check both"
            )
            break
    best, best_at = 0.0, 0.0
    for row in sorted(run.rows, key=lambda r: r.bytes):
        if best > 0 and row.out_of_place.busbw < CLIFF * best and row.bytes >= LARGE:
            rest = [r.out_of_place.busbw for r in run.rows if r.bytes >= row.bytes]
            if max(rest) < CLIFF * best:
                fall = 1.0 - max(rest) / best
                notes.append(
                    f"{op}: busbw falls by {fall:.0%}, from {best:.4g} GB/s at "
                    f"{size_text(best_at)} to {max(rest):.4g} GB/s at {size_text(row.bytes)} and "
                    "above"
                )
                break
        if row.out_of_place.busbw > best:
            best, best_at = row.out_of_place.busbw, row.bytes
    wrong = sum(not r.out_of_place.right for r in run.rows)
    if wrong:
        notes.append(f"{op}: {wrong} sizes gave wrong results and are marked invalid")
    return notes


def _operation(run: Run, request: ImportRequest, ranks: int, where: str) -> str:
    """Return the collective of a run: as given, as named in the log or its file, or inferred."""
    if request.op is not None:
        return SPELLING.get(request.op, request.op)
    if run.program is not None:
        return run.program
    match = PROGRAM.search(request.path.name)
    if match is not None:
        return SPELLING.get(match[1], match[1])
    name = request.path.stem.lower()
    for op in sorted(TRAFFIC, key=len, reverse=True):
        if op in name or op.replace("_", "") in name:
            return op
    return _op_from_bus_factor(run, ranks, where)


def _op_from_bus_factor(run: Run, ranks: int, where: str) -> str:
    """Infer the collective from the table's bus factor."""
    factor = _measured_bus_factor(run.rows)
    fitting = [
        op
        for op in COMMON
        if factor is not None and math.isclose(bus_factor(op, ranks), factor, rel_tol=TOLERANCE)
    ]
    reducing = ("all_reduce", "reduce_scatter", "reduce")
    fitting = [op for op in fitting if run.reduced == (op in reducing)]
    # Operations with a root name it; in all others the column is -1 or missing.
    fitting = [op for op in fitting if run.rooted == (op in ("reduce", "broadcast"))]
    if len(fitting) == 1:
        return fitting[0]
    names = " or ".join(fitting) or "no known collective"
    raise InputError(
        f"the output does not name its collective ({names} has this bus factor)",
        where=where,
        remedy="give it, for example --op all_gather",
    )


COMMON = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "broadcast", "sendrecv",
          "reduce")  # fmt: skip
"""Collectives among which an unnamed one is looked for."""


def _measured_bus_factor(rows: list[Row]) -> float | None:
    """Return busbw / algbw of the largest message size; None if algbw is 0."""
    if not rows:
        return None
    largest = max(rows, key=lambda r: r.bytes).out_of_place
    return largest.busbw / largest.algbw if largest.algbw > 0 else None


def _require_factor(op: str, rows: list[Row], ranks: int, where: str) -> None:
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


def _json_run(text: str, where: str) -> tuple[Run, str | None]:
    """Return the run in the JSON of ``-J``, and NCCL's version.

    Raises
    ------
    InputError
        If it is other JSON.
    """
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise InputError("not the JSON of nccl-tests -J (it is not JSON)", where=where) from error
    config = document.get("config") or {}
    results = document.get("results")
    devices = config.get("devices") or document.get("devices")
    if not isinstance(results, list) or not isinstance(devices, list):
        keys = ", ".join(list(document)[:6])
        raise InputError(
            f"JSON of another layout (keys {keys}): results and devices are missing",
            where=where,
            remedy="give the file that nccl-tests -J writes, or its printed table",
        )
    try:
        run = Run(graph=bool(config.get("graph")))
        for place, device in enumerate(devices):
            rank = int(device.get("rank", place))
            run.ranks[rank] = (
                str(device["hostname"]), str(device["device_info"]), int(device.get("group", 0)),
            )  # fmt: skip
        run.promised = int(config.get("nthreads") or 1) * int(config.get("ngpus") or 1)
        run.rooted = any(str(r.get("root", "-1")).strip().isdigit() for r in results)
        run.reduced = any(str(r.get("redop", "none")) in REDUCTIONS for r in results)
        for row in results:
            out, inside = _json_times(row.get("out_of_place")), _json_times(row.get("in_place"))
            first = out or inside
            if first is not None and float(row["size"]) > 0:
                run.rows.append(Row(float(row["size"]), first, inside if out else None))
        named = PROGRAM.search(" ".join(map(str, document.get("args", []))))
        run.program = SPELLING.get(named[1], named[1]) if named else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"not the JSON of nccl-tests -J ({error!r})", where=where) from error
    if not run.rows:
        raise InputError("the JSON holds no result", where=where)
    version = document.get("nccl_version")
    if isinstance(version, int):
        return run, f"{version // 10000}.{version // 100 % 100}.{version % 100}"
    return run, str(version) if version else None


def _json_times(fields: dict[str, Any] | None) -> Times | None:
    if not fields or not fields.get("time"):
        return None
    wrong = fields.get("nwrong")
    right = wrong in (None, "N/A") or float(str(wrong)) == 0.0
    return Times(
        float(fields["time"]) * 1e-6, float(fields["alg_bw"]), float(fields["bus_bw"]), right
    )
