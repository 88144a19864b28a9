"""Measure one case: check the result, warm up, sample until it is enough, sum up."""

import itertools
import time
from dataclasses import dataclass

import torch

from groundspeed.calibrate.clock import CpuTimer, GpuTimer
from groundspeed.calibrate.sampling import sample_until
from groundspeed.calibrate.statistics import summarize
from groundspeed.calibrate.stopping import StopRule
from groundspeed.calibrate.telemetry import Telemetry
from groundspeed.kernels.glue import rms_norm
from groundspeed.kernels.kernel import Call, Case, Kernel
from groundspeed.kernels.launch import GRAPH_CALLS, Launch
from groundspeed.kernels.operands import OperandPool
from groundspeed.profiles.schema import Point

BETWEEN_PRODUCTS = ("glue", "attention_prefill", "attention_decode")
"""What a model runs between matrix products."""

QUEUED_RUNS = 200
"""Tiny kernels between two events: enough that the events themselves vanish."""

SWEEP_SHAPE = (2, 8192, 1024)


@dataclass(frozen=True)
class Bench:
    """What a case is measured with."""

    pool: OperandPool
    timer: CpuTimer | GpuTimer
    telemetry: Telemetry
    rule: StopRule


@dataclass(frozen=True)
class Measured:
    """A measurement and the samples behind it."""

    point: Point
    samples_s: tuple[float, ...]


def measure(kernel: Kernel, case: Case, bench: Bench, *, tags: tuple[str, ...] = ()) -> Measured:
    """Measure one case of a kernel.

    Parameters
    ----------
    kernel : Kernel
    case : mapping of str to float
    bench : Bench
    tags : tuple of str, optional
        Marks to put on the point (``winner``).

    Returns
    -------
    Measured
        A wrong result gives a point with ``valid=False``: it is kept, and no law uses it.

    Raises
    ------
    MemoryError, torch.OutOfMemoryError, UnsupportedCaseError
        If the case cannot run here.
    """
    error = kernel.check(case, bench.pool)
    calls = kernel.prepare(case, bench.pool)
    per_call = 1
    if isinstance(kernel, Launch) and isinstance(bench.timer, GpuTimer):
        # "eager" is what the host pays, so the host's clock tells; the others are the device's.
        host = kernel.op == "eager"
        timed = (
            CpuTimer().prepare(calls)
            if host
            else bench.timer.prepare(
                calls, graph=False, runs_per_sample=QUEUED_RUNS if kernel.op == "queued" else 1
            )
        )
        per_call = GRAPH_CALLS if kernel.op == "graph" else 1
    elif isinstance(bench.timer, CpuTimer):
        timed = bench.timer.prepare(calls, between=_neighbour(kernel, bench.pool))
    else:
        timed = bench.timer.prepare(calls)
    begin = time.monotonic()
    sampled = sample_until(timed, bench.rule)
    stream = sampled.samples_s / per_call
    summary = summarize(stream)
    span = bench.telemetry.span(begin, time.monotonic())
    cost = kernel.cost(case)
    point = Point(
        case={name: float(value) for name, value in case.items()},
        time_s=summary.median_s,
        q10_s=summary.q10_s,
        q90_s=summary.q90_s,
        low_s=summary.low_s,
        high_s=summary.high_s,
        samples=summary.samples,
        flops=cost.flops,
        bytes=cost.bytes,
        stop=sampled.stop,
        tags=(*tags, *sampled.tags, *span.tags, *timed.notes),
        clock_mhz=span.clock_mhz or None,
        power_w=span.power_w or None,
        temperature_c=span.temperature_c,
        error=min(error, 1e29),
        valid=error <= 1.0,
    )
    return Measured(point, tuple(float(s) for s in stream))


def _neighbour(kernel: Kernel, pool: OperandPool) -> Call | None:
    """What a processor has just done in a model when this operation starts.

    Before a small operation, a matrix product has swept the caches. Before a matrix product, a
    small operation ran on one core, and the other cores must be woken up.
    """
    if kernel.operation in BETWEEN_PRODUCTS:
        m, n, k = SWEEP_SHAPE
        x = pool.take((m, k), torch.bfloat16)
        weights = itertools.cycle([pool.take((n, k), torch.bfloat16) for _ in range(8)])
        return lambda: torch.nn.functional.linear(x, next(weights))
    if kernel.operation == "matmul":
        row, weight = (pool.take(size, torch.bfloat16) for size in ((1, 1024), (1024,)))
        return lambda: rms_norm(row, weight)
    return None
