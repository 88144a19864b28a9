"""Compare predictions with a user's own measurements, row by row.

The table has the columns of a benchmark: model, GPU, engine, parallelism, lengths, load, and the
measured metrics. Common spellings of names are accepted and missing values get defaults. A row that
cannot be predicted is skipped; its reason is reported and it is counted.
"""

from collections.abc import Callable, Iterable

from groundspeed.estimator.backtest.row_server import Resolver, pools_of, server_and_workload
from groundspeed.estimator.backtest.values import Row, number, text
from groundspeed.estimator.engines.own_engine import OwnEngine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.serving.pools import Disaggregated, predict_disaggregated
from groundspeed.estimator.serving.workload import Prediction
from groundspeed.profiles.errors import InputError, PhysicsError
from groundspeed.profiles.record import Record

METRICS = ("ttft_ms", "tpot_ms", "e2e_latency_ms", "output_tok_s", "total_tok_s")
"""Columns with measured metrics: times in ms, rates in tokens/s of the whole system."""


class RowResult(Record):
    """Prediction and measurement of one row."""

    row: str
    labels: dict[str, str]
    """All columns that are not metrics; a summary can be grouped by one of them."""
    predicted: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    measured: dict[str, float]
    saturated: bool
    skipped_reason: str = ""


class Summary(Record):
    """Errors of one metric over a group of rows."""

    group: str
    metric: str
    n: int
    mape_percent: float
    median_ape_percent: float
    p90_ape_percent: float
    bias_percent: float
    """[%] Median of predicted / measured, minus 1."""
    inside_interval_percent: float


def predict_row(row: Row, resolver: Resolver) -> Prediction | Disaggregated:
    """Predict one row.

    Raises
    ------
    InputError
        If a column is missing or invalid, or if the row cannot be predicted.
    """
    server, workload = server_and_workload(row, resolver)
    pools = pools_of(row, server)
    if pools is not None:
        return predict_disaggregated(pools, workload)
    return server.predict(workload)


def backtest(
    rows: Iterable[Row],
    find: Callable[[str], Hardware],
    *,
    own: OwnEngine | None = None,
    progress: Callable[[], None] | None = None,
) -> list[RowResult]:
    """Predict every row.

    Parameters
    ----------
    rows : iterable of mapping of str to str
        Rows of the table, as :class:`csv.DictReader` returns them.
    find : callable
        Maps the name of a GPU to its hardware.
    own : OwnEngine, optional
        A calibrated engine, whose constants are used for the rows of its engine. Not given: those
        fitted to published rows.
    progress : callable, optional
        Called after each row. Not given: no progress is reported.

    Returns
    -------
    list of RowResult
        One result per row, in the order of the rows.
    """
    resolver = Resolver(find, own)
    results = []
    for index, row in enumerate(rows):
        results.append(_result(index, row, resolver))
        if progress is not None:
            progress()
    return results


def _result(index: int, row: Row, resolver: Resolver) -> RowResult:
    name = text(row, "row_id") or str(index + 1)
    labels = {k: str(v) for k, v in row.items() if k is not None and k not in METRICS and v}
    try:
        measured = {m: v for m in METRICS if (v := number(row, m)) is not None}
        prediction = predict_row(row, resolver)
    except (InputError, PhysicsError) as error:
        return RowResult(
            row=name, labels=labels, predicted={}, low={}, high={}, measured={},
            saturated=False, skipped_reason=str(error),
        )  # fmt: skip
    # The first token of a request is sent by the decode replica, after its cache has arrived.
    waited = prediction.transfer_s if isinstance(prediction, Disaggregated) else 0.0
    predicted = {
        "ttft_ms": (prediction.ttft_s + waited) * 1e3,
        "e2e_latency_ms": prediction.e2e_s * 1e3,
        "output_tok_s": prediction.output_tokens_per_s,
        "total_tok_s": prediction.total_tokens_per_s,
    }
    factors = {"ttft_ms": prediction.ttft_high_s / prediction.ttft_s}
    factors["output_tok_s"] = factors["total_tok_s"] = 1.0 / prediction.rate_factors[0]
    if prediction.tpot_s is not None:
        predicted["tpot_ms"] = prediction.tpot_s * 1e3
        factors["tpot_ms"] = factors["output_tok_s"]
    factors["e2e_latency_ms"] = max(factors.values())
    return RowResult(
        row=name,
        labels=labels,
        predicted=predicted,
        low={m: v / factors[m] for m, v in predicted.items()},
        high={m: v * factors[m] for m, v in predicted.items()},
        measured=measured,
        saturated=prediction.saturated,
    )


def summarize(results: Iterable[RowResult], by: str | None = None) -> list[Summary]:
    """Return the errors of each metric, over all rows or grouped by a column.

    Saturated rows are excluded for TTFT, because there TTFT is mostly queueing time.
    """
    errors: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for result in results:
        if result.skipped_reason:
            continue
        group = result.labels.get(by, "") if by else "all"
        for metric, measured in result.measured.items():
            if measured <= 0 or (result.saturated and metric == "ttft_ms"):
                continue
            if metric not in result.predicted:
                continue
            ratio = result.predicted[metric] / measured
            inside = result.low[metric] <= measured <= result.high[metric]
            errors.setdefault((group, metric), []).append((ratio, inside))
    return [
        _summary(group, metric, group_errors)
        for (group, metric), group_errors in sorted(errors.items())
    ]


def _summary(group: str, metric: str, errors: list[tuple[float, bool]]) -> Summary:
    ratios = sorted(r for r, _ in errors)
    apes = sorted(100.0 * abs(r - 1.0) for r in ratios)
    return Summary(
        group=group,
        metric=metric,
        n=len(errors),
        mape_percent=sum(apes) / len(apes),
        median_ape_percent=_quantile(apes, 0.5),
        p90_ape_percent=_quantile(apes, 0.9),
        bias_percent=100.0 * (_quantile(ratios, 0.5) - 1.0),
        inside_interval_percent=100.0 * sum(i for _, i in errors) / len(errors),
    )


def _quantile(ordered: list[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
