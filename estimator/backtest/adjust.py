"""Correct predictions with a few of the user's own measurements.

Errors within one deployment are mostly a common factor, caused by the engine's build, the clock
frequency or the client. A few measured rows therefore determine one factor per metric. It is
shrunk towards 1 by a prior: the spread of errors seen on published servers, weighed against the
noise of n rows. The remaining rows show whether the factor helped. Rows whose factors differ too
much for a common one are rejected.
"""

import math
import statistics
from collections.abc import Sequence

from groundspeed.estimator.backtest.backtest import METRICS, RowResult
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

PRIOR = 0.15
"""Prior standard deviation of the log of a deployment's common factor: published servers with known
engine constants deviate this much from their predictions."""

NOISE = 0.10
"""Standard deviation of the log of one measurement around the common factor."""

CONTRADICTION = 4.0
"""Largest ratio between the factors of two rows; above it the rows are rejected."""


class Adjustment(Record):
    """The factor of one metric in one group, and the errors of the rows that were not used."""

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
    """Adjust every group with ``count`` of its rows, spread evenly over the group.

    Parameters
    ----------
    results : sequence of RowResult
        Results of a backtest.
    count : int
        Number of rows per group that the factors are fitted to.
    by : str, optional
        Column to group by. Not given: all rows are one group.

    Returns
    -------
    (list of RowResult, list of Adjustment)
        The rows with adjusted predictions and narrower intervals, and the factor of each group.

    Raises
    ------
    InputError
        If the count is not positive, or rows contradict each other.
    """
    if count < 1:
        raise InputError(f"--adjust must be at least 1, not {count}", remedy="give 1, 3 or 5")
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
                    f"rows {low} and {high} contradict each other in {metric}: they need factors "
                    f"{math.exp(min(logs)):.2f} and {math.exp(max(logs)):.2f}",
                    remedy="group by a column that differs (--by), or remove one of the rows",
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
    measured = result.measured.get(metric, 0.0) > 0 and metric in result.predicted
    return measured and not (result.saturated and metric == "ttft_ms")


def _log(result: RowResult, metric: str) -> float:
    return math.log(result.measured[metric] / result.predicted[metric])


def _scaled(result: RowResult, metric: str, factor: float, weight: float) -> RowResult:
    if metric not in result.predicted:
        return result
    value = result.predicted[metric]
    shift = value * factor
    spread = math.log(result.high[metric] / value)
    # The used rows reduce the common error; the noise of a single row (90 %) remains.
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
