"""Compare predictions with a user's own measurements, row by row.

The table has the columns of a benchmark: model, GPU, engine, parallelism, lengths, load, and the
measured metrics. Common spellings of names are accepted and missing values get defaults. A row that
cannot be predicted is skipped; its reason is reported and it is counted.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.limits import engine_on, override_limits
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.catalog import find_model
from groundspeed.estimator.model.quantization import NAMES
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Kind, Prediction, Workload
from groundspeed.profiles.errors import InputError, PhysicsError
from groundspeed.profiles.record import Record

Row = Mapping[str, str]

REQUIRED = ("model", "gpu", "isl", "osl")

LENGTHS = ("isl", "osl")
"""Columns that may be means of real prompts, which are no whole numbers."""

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


@dataclass
class Resolver:
    """Looks hardware up by name and caches it."""

    find: Callable[[str], Hardware]
    _found: dict[str, Hardware] = field(default_factory=dict)

    def hardware(self, name: str) -> Hardware:
        """Return the hardware with this name."""
        if name not in self._found:
            self._found[name] = self.find(name)
        return self._found[name]


KINDS: dict[str, Kind] = {
    "static_batch": "static",
    "static": "static",
    "closed_loop_concurrency": "closed",
    "closed_loop": "closed",
    "closed": "closed",
    "concurrency": "closed",
    "offline_batch": "offline",
    "offline": "offline",
    "open_loop_qps": "poisson",
    "open_loop": "poisson",
    "open": "poisson",
    "poisson": "poisson",
}


def predict_row(row: Row, resolver: Resolver) -> Prediction:
    """Predict one row.

    Raises
    ------
    InputError
        If a column is missing or invalid, or if the row cannot be predicted.
    """
    server, workload = server_and_workload(row, resolver)
    return server.predict(workload)


def server_and_workload(row: Row, resolver: Resolver) -> tuple[Server, Workload]:
    """Build the server and the workload that a row describes.

    Raises
    ------
    InputError
        If a column is missing or invalid.
    """
    missing = [c for c in REQUIRED if not _text(row, c)]
    rate = _number(row, "request_rate")
    if not _text(row, "batch_or_concurrency") and not rate:
        missing.append("batch_or_concurrency or request_rate")
    if missing:
        raise InputError(f"missing columns or values: {', '.join(missing)}")
    # Benchmarks with random weights may exceed the maximum context of the model.
    model = find_model(_text(row, "model")).model_copy(update={"max_context": None})
    hardware = resolver.hardware(_text(row, "gpu"))
    dp = max(1, _integer(row, "dp_attn", 1))
    devices = max(1, _integer(row, "n_gpus", 0) or _integer(row, "tp", 1))
    pp = max(1, _integer(row, "pp", 1))
    tp = max(1, _integer(row, "tp", 0) or devices // (dp * pp))
    deployment = Deployment(
        tp=tp,
        pp=pp,
        ep=max(1, _integer(row, "ep", 1)) if model.experts is not None else 1,
        dp=dp,
        dtype=_format(_text(row, "weight_dtype")),
        replicas=max(1, _integer(row, "replicas", 1)),
        kv_dtype="fp8" if _text(row, "kv_dtype").lower().startswith("fp8") else None,
    )
    engine = engine_on(_text(row, "engine") or "vllm", hardware, version=_version(row))
    budget = _integer(row, "token_budget", 0)
    low, high = _number(row, "length_low"), _number(row, "length_high")
    kind = KINDS.get(_text(row, "load_kind").split("(")[0].strip() or "closed")
    if kind is None:
        raise InputError(f"unknown load '{row['load_kind']}'", remedy=f"one of {', '.join(KINDS)}")
    if kind == "static" and engine.name == "trtllm":
        engine = engine.model_copy(update={"policy": "whole_batch"})
    delay = _number(row, "client_delay_ms")
    workload = Workload(
        prompt_tokens=_integer(row, "isl", 0),
        output_tokens=_integer(row, "osl", 0),
        concurrency=_integer(row, "batch_or_concurrency", 1),
        kind=kind,
        length_low=1.0 if low is None else low,
        length_high=1.0 if high is None else high,
        num_prompts=_integer(row, "num_prompts", 0) or None,
        statistic="median" if _text(row, "stat").startswith("median") else "mean",
    )
    if kind == "poisson" and not rate:
        raise InputError("an open loop needs the column request_rate")
    if rate and (kind == "poisson" or not _text(row, "batch_or_concurrency")):
        workload = replace(workload, kind="poisson", request_rate_per_s=rate)
    workload = replace(
        workload,
        cached_share=_number(row, "cached") or 0.0,
        drafted_tokens=_integer(row, "draft_tokens", 0),
        acceptance=_number(row, "acceptance") or 0.0,
    )
    if delay is not None:
        workload = replace(workload, client_delay_s=delay * 1e-3)
    engine = override_limits(
        engine, budget or None, _integer(row, "max_sequences", 0) or None,
        _number(row, "memory_fraction"), _integer(row, "max_model_len", 0) or None,
    )  # fmt: skip
    return Server(model, deployment, engine, hardware), workload


def backtest(
    rows: Iterable[Row],
    find: Callable[[str], Hardware],
    *,
    progress: Callable[[], None] | None = None,
) -> list[RowResult]:
    """Predict every row.

    Parameters
    ----------
    rows : iterable of mapping of str to str
        Rows of the table, as :class:`csv.DictReader` returns them.
    find : callable
        Maps the name of a GPU to its hardware.
    progress : callable, optional
        Called after each row. Not given: no progress is reported.

    Returns
    -------
    list of RowResult
        One result per row, in the order of the rows.
    """
    resolver = Resolver(find)
    results = []
    for index, row in enumerate(rows):
        results.append(_result(index, row, resolver))
        if progress is not None:
            progress()
    return results


def _result(index: int, row: Row, resolver: Resolver) -> RowResult:
    name = _text(row, "row_id") or str(index + 1)
    labels = {k: str(v) for k, v in row.items() if k is not None and k not in METRICS and v}
    try:
        measured = {m: v for m in METRICS if (v := _number(row, m)) is not None}
        prediction = predict_row(row, resolver)
    except (InputError, PhysicsError) as error:
        return RowResult(
            row=name, labels=labels, predicted={}, low={}, high={}, measured={},
            saturated=False, skipped_reason=str(error),
        )  # fmt: skip
    predicted = {
        "ttft_ms": prediction.ttft_s * 1e3,
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


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value).strip()


def _version(row: Row) -> str:
    """Return the number in an engine's version or image tag (``vllm-openai:v0.19.0-cu130``).

    A text without a number, such as ``nightly``, stands for the newest.
    """
    found = re.search(r"\d+\.\d+(?:\.\d+)*", _text(row, "engine_version"))
    return found.group() if found else ""


def _number(row: Row, name: str) -> float | None:
    text = _text(row, name)
    if not text or text.lower() in ("nan", "none", "null", "-"):
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{name} is '{text[:40]}', not a number") from error
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{name} is {text[:40]}, but must be a finite number, 0 or more")
    return value


def _integer(row: Row, name: str, default: int) -> int:
    value = _number(row, name)
    if value is None:
        return default
    if name in LENGTHS:
        return round(value)
    if value != int(value):
        raise InputError(f"{name} is {value:g}, not a whole number")
    return int(value)


def _format(name: str) -> str | None:
    """Return the weight format of a name; None if empty or native: the checkpoint's is used."""
    plain = name.lower().split(" ")[0]
    if "native" in name.lower():
        return None
    return NAMES.get(plain, plain) if plain else None
