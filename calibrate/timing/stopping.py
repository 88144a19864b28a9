"""Decide when to stop sampling a case, and record the reason.

Sampling stops when the median is known to the requested precision. Some cases never reach it, for
example on a shared machine or with an unstable clock; these stop when more samples no longer help
or when the time is used up. The profile stores the reason, so that a case that ran out of time can
be recognized.

>>> import numpy as np
>>> rule = StopRule(min_samples=10, half_width_fraction=0.01)
>>> stop_reason(np.full(10, 1e-3), elapsed_s=0.3, rule=rule)
'precise'
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from groundspeed.calibrate.timing.statistics import Samples, quick_half_width

StopReason = Literal["precise", "noise-plateau", "time-cap", "sample-cap"]

PLATEAU_WINDOW = 32
"""Number of latest samples whose effect on the spread is checked."""
PLATEAU_CHANGE = 0.05
"""Relative change of the spread below which it counts as constant."""


@dataclass(frozen=True)
class StopRule:
    """Precision and limits that end the sampling of one case."""

    min_samples: int = 10
    min_time_s: float = 0.02
    """[s] Minimum sampling time, without preparation."""
    half_width_fraction: float = 0.01
    """[1] Requested half width of the median's 90 % interval, divided by the median."""
    time_cap_s: float = 2.0
    """[s] Maximum sampling time."""
    max_samples: int = 2000


def stop_reason(samples: Samples, *, elapsed_s: float, rule: StopRule) -> StopReason | None:
    """Decide whether a case has enough samples.

    Parameters
    ----------
    samples : (N,) ndarray
        [s] Durations in the order in which they were taken.
    elapsed_s : float
        [s] Time since sampling of this case began.
    rule : StopRule
        Precision and limits.

    Returns
    -------
    str or None
        ``precise``: the interval is narrow enough. ``noise-plateau``: the spread no longer changes
        and half of the time cap is used, so more samples would hardly help. ``time-cap`` or
        ``sample-cap``: the limit of time or of samples is reached. None: continue sampling.
        Sampling never stops before ``min_samples``.
    """
    if samples.size < rule.min_samples:
        return None
    if elapsed_s >= rule.min_time_s and quick_half_width(samples) <= rule.half_width_fraction:
        return "precise"
    if samples.size >= 4 * PLATEAU_WINDOW:
        spread_now = _spread(samples)
        spread_before = _spread(samples[:-PLATEAU_WINDOW])
        if abs(spread_now / spread_before - 1.0) < PLATEAU_CHANGE and elapsed_s >= (
            0.5 * rule.time_cap_s
        ):
            return "noise-plateau"
    if elapsed_s >= rule.time_cap_s:
        return "time-cap"
    if samples.size >= rule.max_samples:
        return "sample-cap"
    return None


def _spread(samples: Samples) -> float:
    """Interquartile range divided by the median, at least 1e-6."""
    q25, q50, q75 = np.quantile(samples, (0.25, 0.5, 0.75))
    return float(max(q75 - q25, 1e-6 * q50) / q50)
