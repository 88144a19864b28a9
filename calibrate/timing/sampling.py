"""Sample a prepared case until the rule says enough, and say what was odd about it.

No torch, no device: anything that can be asked for durations can be sampled, also a simulated
device whose truth is known, which is how this loop is tested.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from groundspeed.calibrate.timing.statistics import Samples, Summary, diagnose, summarize
from groundspeed.calibrate.timing.stopping import StopReason, StopRule, stop_reason

BATCH_S = 0.05
"""About how much is sampled between two questions to the stop rule."""

MAX_BATCH = 100
RESOLUTION_MARGIN = 50.0
"""A sample should be this many ticks of its clock, or its digits are the clock's."""


class Samplable(Protocol):
    """A prepared case that returns durations."""

    @property
    def sample_s(self) -> float:
        """About how long taking one sample takes."""
        ...

    @property
    def resolution_s(self) -> float:
        """Tick of the clock, spread over the runs of one sample."""
        ...

    def sample(self, count: int) -> list[float]:
        """Durations of ``count`` samples [s per run]."""
        ...


@dataclass(frozen=True)
class Sampled:
    """A stream of samples, summed up."""

    samples_s: Samples
    summary: Summary
    stop: StopReason
    tags: tuple[str, ...]


def sample_until(
    timed: Samplable, rule: StopRule, *, now: Callable[[], float] = time.monotonic
) -> Sampled:
    """Sample until it is enough.

    Parameters
    ----------
    timed : Timed
        A prepared case.
    rule : StopRule
    now : callable, default time.monotonic
        [s] The wall clock that the rule's time cap is held against.

    Returns
    -------
    Sampled
    """
    begin = now()
    samples: list[float] = []
    reason: StopReason | None = None
    while reason is None:
        count = int(np.clip(BATCH_S / max(timed.sample_s, 1e-9), 1, MAX_BATCH))
        if not samples and timed.sample_s < BATCH_S:
            count = max(count, rule.min_samples)
        samples += timed.sample(count)
        reason = stop_reason(np.array(samples), elapsed_s=now() - begin, rule=rule)
    stream = np.array(samples)
    summary = summarize(stream)
    tags = list(diagnose(stream))
    if summary.median_s < RESOLUTION_MARGIN * timed.resolution_s:
        tags.append("near-clock-resolution")
    return Sampled(stream, summary, reason, tuple(tags))
