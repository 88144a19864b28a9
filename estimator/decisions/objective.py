"""What a plan must keep: limits on the mean or a percentile of TTFT, TPOT and latency.

>>> [str(limit) for limit in parse_limits("ttft=1000,tpot_p99=50")]
['TTFT at most 1000 ms', 'P99 of TPOT at most 50 ms']
"""

from dataclasses import dataclass
from typing import Literal, get_args

from groundspeed.estimator.serving.workload import Prediction
from groundspeed.profiles.errors import InputError, did_you_mean

Metric = Literal["ttft", "tpot", "e2e"]
Statistic = Literal["mean", "p50", "p90", "p99"]


@dataclass(frozen=True)
class Limit:
    """The largest value of one statistic of one metric."""

    metric: Metric
    statistic: Statistic
    seconds: float

    def __str__(self) -> str:
        name = self.metric.upper()
        if self.statistic != "mean":
            name = f"{self.statistic.upper()} of {name}"
        return f"{name} at most {self.seconds * 1e3:g} ms"

    def value(self, p: Prediction) -> float:
        """Return the predicted value [s]; 0 for TPOT if there is only one output token."""
        times = getattr(p, self.metric)
        return float(getattr(times, self.statistic)) if times is not None else 0.0

    def high(self, p: Prediction) -> float:
        """Return the upper end of its 90 % interval [s]: that of the mean, in proportion."""
        mean = getattr(p, f"{self.metric}_s")
        if not mean:
            return 0.0
        if self.metric == "e2e":
            return self.value(p) / p.rate_factors[0]
        return self.value(p) * float(getattr(p, f"{self.metric}_high_s")) / float(mean)


NAMES: dict[str, tuple[Metric, Statistic]] = {
    (metric if statistic == "mean" else f"{metric}_{statistic}"): (metric, statistic)
    for metric in get_args(Metric)
    for statistic in get_args(Statistic)
}


def parse_limits(text: str | None) -> tuple[Limit, ...]:
    """Parse limits in ms such as ``ttft=500,tpot=50,ttft_p99=2000``; None gives none.

    Raises
    ------
    InputError
        If a name is unknown or a limit is not a positive number.
    """
    limits = []
    for part in (text or "").split(","):
        if text is None:
            break
        name, _, value = part.strip().partition("=")
        key = name.strip().lower()
        if key not in NAMES:
            raise InputError(
                f"unknown limit '{name.strip()}'", where="--slo", remedy=did_you_mean(key, NAMES)
            )
        try:
            milliseconds = float(value)
        except ValueError:
            milliseconds = 0.0
        if not 0.0 < milliseconds < 1e9:
            raise InputError(
                f"'{part.strip()}' has no limit above 0 ms",
                where="--slo",
                remedy="give limits in ms such as ttft=500,tpot=50,ttft_p99=2000",
            )
        metric, statistic = NAMES[key]
        limits.append(Limit(metric, statistic, milliseconds / 1e3))
    return tuple(limits)
