"""Find the best GEMM shape of a data type, and measure the rate that it sustains for seconds.

A sweep over shapes finds a good one. From there the search walks: it doubles or halves dimensions,
keeps a step that raises the rate, and goes on from there until no neighbour is faster. A dozen
measurements are enough instead of thousands. A
burst of a millisecond shows what the compute units can do; ten seconds show the rate that power
limit and cooling allow.
"""

import itertools
import time
from collections.abc import Callable

import numpy as np

from groundspeed.calibrate.timing.measure_case import Harness, Measured, measured_point, prepared
from groundspeed.kernels.kernel import Case, Kernel

CHUNK_S = 0.1
"""[s] Approximate duration of the samples taken between two looks at the clock."""
SMALLEST = 64.0
"""Smallest GEMM dimension that the search tries."""
LARGEST = 32768.0
"""Largest GEMM dimension that the search tries."""


Shape = dict[str, float]

AXES: tuple[str, ...] = ("m", "n", "k")


def moves() -> list[Shape]:
    """Factors of each dimension that the search tries: all at once, one, and a trade of two."""
    every: list[Shape] = [dict.fromkeys(AXES, factor) for factor in (2.0, 0.5)]
    single = [{axis: factor} for axis, factor in itertools.product(AXES, (2.0, 0.5))]
    trades = [{up: 2.0, down: 0.5} for up, down in itertools.permutations(AXES, 2)]
    return every + single + trades


def walk_to_peak(
    start: Case, rate: float, rate_of: Callable[[Shape], float], *, steps: int
) -> tuple[Shape, float]:
    """Walk from a shape to a faster one until no neighbour is faster.

    A move that raised the rate is tried again first, so a distant optimum takes about as many
    measurements as there are doublings to it.

    Parameters
    ----------
    start : mapping of str to float
        Shape from which to start, with columns m, n and k.
    rate : float
        [FLOP/s] Its rate.
    rate_of : callable
        [FLOP/s] Measures the rate of a shape; 0 if it cannot be measured.
    steps : int
        Largest number of shapes to measure.

    Returns
    -------
    (dict, float)
        The fastest shape and its rate [FLOP/s].
    """
    best = {axis: float(start[axis]) for axis in AXES}
    seen = {tuple(best.values())}
    queue = moves()
    while queue and steps > 0:
        move = queue.pop(0)
        shape = {axis: best[axis] * move.get(axis, 1.0) for axis in AXES}
        inside = all(SMALLEST <= size <= LARGEST for size in shape.values())
        if not inside or tuple(shape.values()) in seen:
            continue
        seen.add(tuple(shape.values()))
        steps -= 1
        measured = rate_of(shape)
        if measured > rate:
            best, rate = shape, measured
            queue = [move, *(m for m in moves() if m != move)]
    return best, rate


def sustained(
    kernel: Kernel, case: Case, bench: Harness, seconds: float, *, tags: tuple[str, ...] = ()
) -> Measured:
    """Run a case without pause and summarize the second half of its samples.

    Parameters
    ----------
    kernel : Kernel
        Kernel to measure.
    case : mapping of str to float
        Numeric columns of the case.
    bench : Harness
        Operand pool, timer and telemetry; its stop rule is not used.
    seconds : float
        [s] Duration of the run.
    tags : tuple of str, optional
        Additional tags of the point.

    Returns
    -------
    Measured
        Statistics of the samples of the second half, when the clock is steady.
    """
    error = kernel.check(case, bench.pool)
    timed = prepared(kernel, kernel.prepare(case, bench.pool), bench)
    begin = bench.telemetry.begin_span()
    count = max(1, int(CHUNK_S / max(timed.sample_s, 1e-6)))
    stream: list[float] = []
    half = 0
    while (elapsed := time.monotonic() - begin) < seconds:
        if elapsed < seconds / 2.0:
            half = len(stream)
        stream += timed.sample(count)
    settled = np.array(stream[half:] or stream)
    span = bench.telemetry.span(begin + seconds / 2.0, time.monotonic())
    notes = (*tags, *span.tags, *timed.notes)
    return measured_point(kernel, case, settled, error, span, stop="time-cap", tags=notes)
