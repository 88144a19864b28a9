"""The best shape of a data type, and what is left of its rate after seconds of running.

A sweep over shapes finds a good one; from there a step to twice or half of one dimension at a
time, kept when it pays, finds the best in a dozen measurements instead of thousands. A burst of a
millisecond then says what the units can do, ten seconds what the power and cooling let them.
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np

from groundspeed.calibrate.timing.measure_case import Harness, Measured, measured_point, prepared
from groundspeed.kernels.kernel import Case, Kernel

CHUNK_S = 0.1
SMALLEST = 64.0
LARGEST = 32768.0


def neighbours(start: Case, *, steps: int) -> Iterator[dict[str, float]]:
    """Shapes around a start, one dimension doubled or halved at a time.

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
    """Run a case without pause and report the second half of the time.

    Parameters
    ----------
    kernel : Kernel
    case : mapping of str to float
    harness : Harness
    seconds : float
        [s] How long to run.
    tags : tuple of str, optional

    Returns
    -------
    Measured
        Statistics of the samples of the second half: the clock has settled by then.
    """
    error = kernel.check(case, bench.pool)
    timed = prepared(kernel, kernel.prepare(case, bench.pool), bench)
    begin = time.monotonic()
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
