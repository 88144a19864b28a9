"""Sample a prepared case until the stop rule ends sampling, and tag unusual samples.

This module needs neither torch nor a device. It samples any object that returns durations, and the
tests use a simulated device whose true time is known.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from groundspeed.calibrate.timing.statistics import Samples, Summary, diagnose, summarize
from groundspeed.calibrate.timing.stopping import StopReason, StopRule, stop_reason

BATCH_S = 0.05
"""[s] Approximate sampling time between two checks of the stop rule."""

MAX_BATCH = 100
RESOLUTION_MARGIN = 50.0
"""A median of fewer clock ticks than this is tagged ``near-clock-resolution``: its digits are those
of the clock."""


class Samplable(Protocol):
    """Protocol of a prepared case that returns sampled durations."""

    @property
    def sample_s(self) -> float:
        """[s] Approximate time needed to take one sample."""
        ...

    @property
    def resolution_s(self) -> float:
        """[s] Clock resolution divided by the number of runs in one sample."""
        ...

    def sample(self, count: int) -> list[float]:
        """[s] Take ``count`` samples and return the duration of one run in each."""
        ...


@dataclass(frozen=True)
class Sampled:
    """Samples of one case with their summary, stop reason and tags."""

    samples_s: Samples
    summary: Summary
    stop: StopReason
    tags: tuple[str, ...]


def sample_until(
    timed: Samplable, rule: StopRule, *, now: Callable[[], float] = time.monotonic
) -> Sampled:
    """Sample a case until the stop rule ends sampling.

    Parameters
    ----------
    timed : Samplable
        The prepared case.
    rule : StopRule
        Precision, minimum, time cap and maximum number of samples.
    now : callable, default time.monotonic
        Clock in seconds for the rule's time cap.

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
