"""Measure one case: check the result, warm up, sample until it is enough, sum up."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.calibrate.timing.sampling import sample_until
from groundspeed.calibrate.timing.statistics import Samples, summarize
from groundspeed.calibrate.timing.stopping import StopRule
from groundspeed.calibrate.timing.telemetry import Span, Telemetry
from groundspeed.calibrate.timing.timers import CpuTimer, GpuTimer, Timed
from groundspeed.kernels.decoder.elementwise import rms_norm
from groundspeed.kernels.kernel import Call, Case, Kernel, ManyRuns
from groundspeed.kernels.operands import OperandPool
from groundspeed.profiles.schema import Point

BETWEEN_PRODUCTS = ("elementwise", "attention_prefill", "attention_decode")
"""What a model runs between matrix products."""

QUEUED_RUNS = 200
"""Tiny kernels between two events: enough that the events themselves vanish."""

SWEEP_SHAPE = (2, 8192, 1024)


@dataclass(frozen=True)
class Harness:
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


def measure(kernel: Kernel, case: Case, bench: Harness, *, tags: tuple[str, ...] = ()) -> Measured:
    """Measure one case of a kernel.

    Parameters
    ----------
    kernel : Kernel
    case : mapping of str to float
    harness : Harness
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
    per_call = kernel.runs_per_call if isinstance(kernel, ManyRuns) else 1
    timed = prepared(kernel, calls, bench)
    begin = time.monotonic()
    sampled = sample_until(timed, bench.rule)
    span = bench.telemetry.span(begin, time.monotonic())
    notes = (*tags, *sampled.tags, *span.tags, *timed.notes)
    stream = sampled.samples_s / per_call
    return measured_point(kernel, case, stream, error, span, stop=sampled.stop, tags=notes)


def measured_point(
    kernel: Kernel,
    case: Case,
    stream: Samples,
    error: float,
    span: Span,
    *,
    stop: str,
    tags: tuple[str, ...],
) -> Measured:
    """Sum a stream of samples up."""
    summary = summarize(stream)
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
        stop=stop,
        tags=tags,
        clock_mhz=span.clock_mhz or None,
        memory_clock_mhz=span.memory_clock_mhz or None,
        power_w=span.power_w or None,
        temperature_c=span.temperature_c,
        error=min(error, 1e29),
        valid=error <= 1.0,
    )
    return Measured(point, tuple(float(s) for s in stream))


HOST_SIDE = ("eager", "layer-dispatch", "synchronize", "round-trip")
"""Launches that cost the host: its clock tells."""


def prepared(kernel: Kernel, calls: Sequence[Call], bench: Harness) -> Timed:
    """The case with the clock that fits it."""
    if isinstance(bench.timer, CpuTimer):
        return bench.timer.prepare(calls, between=_neighbour(kernel, bench.pool))
    if kernel.operation != "launch":
        return bench.timer.prepare(calls, graph=kernel.operation != "host_link")
    op = kernel.config_key["op"]
    if op in HOST_SIDE:
        return CpuTimer().prepare(calls)
    runs = QUEUED_RUNS if op == "queued" else 1
    return bench.timer.prepare(calls, graph=False, runs_per_sample=runs)


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
