"""Measure one case: check the result, warm up, sample until the stop rule is met, and summarize.

Every calibration, check and comparison measures its cases through this module, so that their
numbers are comparable.

    measured = measure(kernel, {"m": 16.0, "n": 4096.0, "k": 4096.0}, harness)
    measured.point.time_s             # the median
"""

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
"""Operations that a model runs between matrix multiplications."""

QUEUED_RUNS = 200
"""Tiny kernels launched between two events, so many that the cost of the events is negligible."""

SWEEP_SHAPE = (2, 8192, 1024)
"""(m, n, k) of the matrix multiplication that sweeps the CPU caches before a small operation."""


@dataclass(frozen=True)
class Harness:
    """Everything that is needed to measure a case: operands, timer, telemetry and stop rule."""

    pool: OperandPool
    timer: CpuTimer | GpuTimer
    telemetry: Telemetry
    rule: StopRule


@dataclass(frozen=True)
class Measured:
    """Measurement of one case, with its raw samples."""

    point: Point
    samples_s: tuple[float, ...]


def measure(kernel: Kernel, case: Case, bench: Harness, *, tags: tuple[str, ...] = ()) -> Measured:
    """Measure one case of a kernel.

    Parameters
    ----------
    kernel : Kernel
        Kernel to measure.
    case : mapping of str to float
        Numeric columns of the case.
    bench : Harness
        Operand pool, timer, telemetry and stop rule.
    tags : tuple of str, optional
        Additional tags of the point, such as ``winner``.

    Returns
    -------
    Measured
        A wrong result gives a point with ``valid=False``. It is kept, but no law uses it.

    Raises
    ------
    MemoryError, torch.OutOfMemoryError, UnsupportedCaseError
        If the case cannot run on this device.
    """
    error = kernel.check(case, bench.pool)
    calls = kernel.prepare(case, bench.pool)
    per_call = kernel.runs_per_call if isinstance(kernel, ManyRuns) else 1
    timed = prepared(kernel, calls, bench)
    begin = bench.telemetry.begin_span()
    sampled = sample_until(timed, bench.rule)
    span = bench.telemetry.span(begin, time.monotonic())
    notes = (*tags, *sampled.tags, *span.tags, *timed.notes, *_cached(kernel, case, calls, bench))
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
    """Summarize the samples of a case as a measured point."""
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


ALWAYS_WARM = ("elementwise", "launch", "latency", "working_set", "host_link")
"""Operations whose operands are warm on purpose: a model has just touched them, or the case itself
defines what is cached."""


def _cached(kernel: Kernel, case: Case, calls: Sequence[Call], bench: Harness) -> tuple[str, ...]:
    """Return the tag of a case that is too small for its operand sets to exceed the cache."""
    if kernel.operation in ALWAYS_WARM:
        return ()
    rotated = len(calls) * kernel.cost(case).bytes
    return ("warm",) if rotated < 0.9 * bench.pool.cold_bytes else ()


HOST_SIDE = ("eager", "layer-dispatch", "synchronize", "round-trip")
"""Launch variants whose cost is host time. They are timed with the host's clock."""


def prepared(kernel: Kernel, calls: Sequence[Call], bench: Harness) -> Timed:
    """Prepare a case with the timer that fits the kernel and the device."""
    if isinstance(bench.timer, CpuTimer):
        return bench.timer.prepare(calls, between=_neighbour(kernel, bench.pool))
    if kernel.operation == "host_link" and kernel.config_key["memory"] == "pageable":
        # The host copies through a buffer of the driver: it works for as long as the copy takes.
        return CpuTimer().prepare(calls)
    if kernel.operation != "launch":
        return bench.timer.prepare(calls, graph=kernel.operation != "host_link")
    op = kernel.config_key["op"]
    if op in HOST_SIDE:
        return CpuTimer().prepare(calls)
    runs = QUEUED_RUNS if op == "queued" else 1
    return bench.timer.prepare(calls, graph=False, runs_per_sample=runs)


def _neighbour(kernel: Kernel, pool: OperandPool) -> Call | None:
    """Return the operation that a model runs on the CPU just before this one.

    A small operation follows a matrix multiplication, which has swept the caches. A matrix
    multiplication follows a small operation that ran on one core, so the other cores must be woken
    up. None for operations that have no such predecessor.
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
