"""Correct predictions by a handful of a user's own measurements.

Errors inside one deployment are mostly a common factor: an engine's build, a clock, a client. So a
few measured rows give each metric one factor, believed as far as the prior allows (n rows against
the spread that engines have been seen to leave), and the rest of the rows says whether it helped.
Rows that contradict each other beyond what any factor could mend are refused.
"""

import math
import statistics
from collections.abc import Sequence

from groundspeed.estimator.decisions.backtest import METRICS, RowResult
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

PRIOR = 0.15
"""Standard deviation, in log, of the common factor of a deployment: published servers of engines
whose constants are known lie that far from their predictions."""

NOISE = 0.10
"""Standard deviation, in log, of one measurement around it."""

CONTRADICTION = 4.0
"""Ratio between two rows' factors that no common one can mend."""


class Adjustment(Record):
    """The factor of one metric in one group, and what it did for the rows it has not seen."""

    group: str
    metric: str
    used: int
    factor: float
    rest: int
    before_median_percent: float | None
    after_median_percent: float | None


def adjust(
    results: Sequence[RowResult], count: int, by: str | None = None
) -> tuple[list[RowResult], list[Adjustment]]:
    """Adjust every group by its first rows, spread over the group.

    Parameters
    ----------
    results : sequence of RowResult
        Of a backtest.
    count : int
        Rows of each group to learn from.
    by : str, optional
        Column that makes groups; all rows are one group without.

    Returns
    -------
    (list of RowResult, list of Adjustment)
        The rows with adjusted predictions and narrower intervals, and what was done.

    Raises
    ------
    InputError
        If the count is not positive, or rows contradict each other.
    """
    if count < 1:
        raise InputError(f"--adjust {count} adjusts by nothing", remedy="give 1, 3 or 5")
    groups: dict[str, list[int]] = {}
    for index, result in enumerate(results):
        if not result.skipped_reason:
            groups.setdefault(result.labels.get(by, "") if by else "all", []).append(index)
    adjusted = list(results)
    done: list[Adjustment] = []
    for group, members in groups.items():
        for metric in METRICS:
            usable = [i for i in members if _counts(results[i], metric)]
            if not usable:
                continue
            learned = usable[:: max(1, len(usable) // count)][:count]
            logs = [_log(results[i], metric) for i in learned]
            if max(logs) - min(logs) > math.log(CONTRADICTION):
                low, high = (results[learned[logs.index(f(logs))]].row for f in (min, max))
                raise InputError(
                    f"rows {low} and {high} contradict each other in {metric}: they want factors "
                    f"{math.exp(min(logs)):.2f} and {math.exp(max(logs)):.2f}",
                    remedy="group by what differs (--by), or leave one out",
                )
            weight = len(logs) * PRIOR**2 / (len(logs) * PRIOR**2 + NOISE**2)
            factor = math.exp(weight * statistics.median(logs))
            rest = [i for i in usable if i not in learned]
            for i in members:
                adjusted[i] = _scaled(adjusted[i], metric, factor, weight)
            done.append(
                Adjustment(
                    group=group,
                    metric=metric,
                    used=len(learned),
                    factor=factor,
                    rest=len(rest),
                    before_median_percent=_median([results[i] for i in rest], metric),
                    after_median_percent=_median([adjusted[i] for i in rest], metric),
                )
            )
    return adjusted, done


def _counts(result: RowResult, metric: str) -> bool:
    measured = result.measured.get(metric, 0.0) > 0
    return measured and not (result.saturated and metric == "ttft_ms")


def _log(result: RowResult, metric: str) -> float:
    return math.log(result.measured[metric] / result.predicted[metric])


def _scaled(result: RowResult, metric: str, factor: float, weight: float) -> RowResult:
    value = result.predicted[metric]
    shift = value * factor
    spread = math.log(result.high[metric] / value)
    # What the rows have told is certain now; what one row varies is not.
    left = math.sqrt((1.0 - weight) * spread**2 + (1.645 * NOISE) ** 2)
    return result.model_copy(
        update={
            "predicted": result.predicted | {metric: shift},
            "low": result.low | {metric: shift * math.exp(-left)},
            "high": result.high | {metric: shift * math.exp(left)},
        }
    )


def _median(results: Sequence[RowResult], metric: str) -> float | None:
    errors = [100.0 * abs(math.exp(_log(r, metric)) ** -1 - 1.0) for r in results]
    return statistics.median(errors) if errors else None
