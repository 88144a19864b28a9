"""Find the best GEMM shape of a data type, and measure the rate that it sustains for seconds.

A sweep over shapes finds a good one. From there the search doubles or halves one dimension at a
time and keeps a step that raises the rate. A dozen measurements are enough instead of thousands. A
burst of a millisecond shows what the compute units can do; ten seconds show the rate that power
limit and cooling allow.
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np

from groundspeed.calibrate.timing.measure_case import Harness, Measured, measured_point, prepared
from groundspeed.kernels.kernel import Case, Kernel

CHUNK_S = 0.1
"""[s] Approximate duration of the samples taken between two looks at the clock."""
SMALLEST = 64.0
"""Smallest GEMM dimension that the search tries."""
LARGEST = 32768.0
"""Largest GEMM dimension that the search tries."""


def neighbours(start: Case, *, steps: int) -> Iterator[dict[str, float]]:
    """Yield shapes near a start: one dimension doubled or halved, then one doubled and one halved.

    Examples
    --------
    >>> [s["m"] for s in neighbours({"m": 1024.0, "n": 512.0, "k": 512.0}, steps=2)]
    [2048.0, 512.0]
    """
    moves = itertools.product(("m", "k", "n"), (2.0, 0.5))
    for column, factor in itertools.islice(itertools.cycle(moves), min(steps, 6)):
        size = start[column] * factor
        if SMALLEST <= size <= LARGEST:
            yield {**start, column: size}
    for up, down in itertools.islice(itertools.permutations(("m", "k", "n"), 2), max(0, steps - 6)):
        bigger, smaller = start[up] * 2.0, start[down] * 0.5
        if bigger <= LARGEST and smaller >= SMALLEST:
            yield {**start, up: bigger, down: smaller}


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
