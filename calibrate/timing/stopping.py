"""When to stop sampling, and the recorded reason.

Enough is enough when the median is known to the wanted precision. Some cases never get there (a
shared machine, a clock that hunts): then stop when more samples no longer help, or when the time
is used up. The reason goes into the profile, so that a number that ran out of time looks like one.

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
PLATEAU_CHANGE = 0.05


@dataclass(frozen=True)
class StopRule:
    """What is enough for one case."""

    min_samples: int = 10
    min_time_s: float = 0.02
    """[s] Sampled time, not counting preparation."""
    half_width_fraction: float = 0.01
    """Wanted half width of the median's 90 % interval, over the median."""
    time_cap_s: float = 2.0
    max_samples: int = 2000


def stop_reason(samples: Samples, *, elapsed_s: float, rule: StopRule) -> StopReason | None:
    """Decide whether a case has enough samples.

    Parameters
    ----------
    samples : (N,) ndarray
        [s] In the order they were taken.
    elapsed_s : float
        [s] Since sampling of this case began.
    rule : StopRule

    Returns
    -------
    str or None
        ``precise``: the interval is narrow enough. ``noise-plateau``: the spread has stopped
        changing, more samples would not help soon. ``time-cap``, ``sample-cap``: out of budget.
        None: go on. Never stops before ``min_samples``.
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
    """Interquartile range over the median; never zero."""
    q25, q50, q75 = np.quantile(samples, (0.25, 0.5, 0.75))
    return float(max(q75 - q25, 1e-6 * q50) / q50)
