"""Compare two or more deployments on one workload: which is better at which concurrency.

A difference counts only if it is larger than its uncertainty; otherwise it is a tie. Errors that
two options share (same engine and version) are correlated and cancel; the errors of their devices'
laws are independent and do not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from groundspeed.estimator.engines.distance import distance
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Prediction, Workload
from groundspeed.profiles.errors import InputError, PhysicsError
from groundspeed.profiles.record import Record

HIGHER_IS_BETTER = ("output_tokens_per_s", "tokens_per_s_per_gpu", "tokens_per_price")


class Winner(Record):
    """The best option for one metric at one concurrency."""

    concurrency: int
    metric: str
    values: tuple[float | None, ...]
    """Value of each option; None if it is saturated."""
    winner: str | None
    """Name of the best option; None for a tie."""
    tied: tuple[str, ...] = ()
    """Options that are as good as the best within the noise, the best first."""
    ratio: float | None
    """Best value over second best, at least 1; None if fewer than two options have a value."""
    noise: float | None
    """Ratio that the 90 % intervals would allow for two equal options."""

    @property
    def tie(self) -> str:
        """Between whom there is a tie, in words; empty if there is none."""
        return f"tie of {' and '.join(self.tied)}" if self.tied else ""


class ServingComparison(Record):
    """The comparison of all options at all concurrencies."""

    options: tuple[str, ...]
    rows: tuple[Winner, ...]
    summary: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    """Predictions that would break physics, an error of this program: they are left out."""


@dataclass(frozen=True)
class Option:
    """A named server, with the price of one hour of one of its GPUs."""

    name: str
    server: Server
    price_per_hour: float | None = None


METRICS = ("ttft_s", "tpot_s", "tokens_per_s_per_gpu")


def compare_servers(
    options: Sequence[Option], workload: Workload, concurrency: Sequence[int]
) -> ServingComparison:
    """Predict every option at every concurrency, and find the best one for each metric.

    Raises
    ------
    InputError
        If there are fewer than two options, or one cannot serve the workload.
    """
    if len(options) < 2:
        raise InputError(
            "a comparison needs at least two options", remedy="give --option twice or more"
        )
    metrics = (*METRICS, "tokens_per_price") if _priced(options) else METRICS
    rows: list[Winner] = []
    skipped: list[str] = []
    for n in concurrency:
        predictions: list[Prediction | None] = []
        for option in options:
            try:
                prediction = option.server.predict(replace(workload, concurrency=n))
            except PhysicsError as error:
                skipped.append(f"{option.name}, concurrency {n}: {error}")
                predictions.append(None)
                continue
            predictions.append(None if prediction.saturated else prediction)
        rows += [_winner(metric, n, options, predictions) for metric in metrics]
    summary = tuple(_summary(metric, [r for r in rows if r.metric == metric]) for metric in metrics)
    return ServingComparison(
        options=tuple(o.name for o in options),
        rows=tuple(rows),
        summary=summary,
        skipped=tuple(skipped),
    )


def _priced(options: Sequence[Option]) -> bool:
    return all(o.price_per_hour is not None for o in options)


def _value(metric: str, option: Option, p: Prediction) -> float | None:
    if metric == "tokens_per_s_per_gpu":
        return p.output_tokens_per_s / p.devices
    if metric == "tokens_per_price":
        return p.output_tokens_per_s * 3600.0 / (p.devices * (option.price_per_hour or 1.0))
    value: float | None = getattr(p, metric)
    return value


def _spread(metric: str, option: Option, p: Prediction, *, shared: bool) -> float:
    """Return the log of the 90 % factor, without the engine's part if the options share it."""
    which = "ttft" if metric == "ttft_s" else "tpot"
    if which == "tpot" and p.tpot_s is None:
        which = "ttft"
    whole = math.log(getattr(p, f"{which}_high_s") / getattr(p, f"{which}_s"))
    if not shared:
        return whole
    server = option.server
    known = distance(server.engine, server.hardware.architecture, server.model)
    part = math.log(known.ttft if which == "ttft" else known.tpot)
    return math.sqrt(max(whole**2 - part**2, 0.0))


def _winner(
    metric: str, n: int, options: Sequence[Option], predictions: Sequence[Prediction | None]
) -> Winner:
    up = metric in HIGHER_IS_BETTER
    values = tuple(
        _value(metric, o, p) if p is not None else None
        for o, p in zip(options, predictions, strict=True)
    )
    order = sorted(
        (i for i, v in enumerate(values) if v is not None),
        key=lambda i: (values[i] or 0.0) * (-1.0 if up else 1.0),
    )
    if len(order) < 2:
        alone = options[order[0]].name if order else None
        return Winner(
            concurrency=n, metric=metric, values=values, winner=alone, ratio=None, noise=None
        )
    first, *others = order
    leads = [_lead(metric, options, predictions, values, first, i) for i in others]
    ratio, noise = leads[0]
    level = [i for i, (lead, allowed) in zip(others, leads, strict=True) if lead <= allowed]
    return Winner(
        concurrency=n,
        metric=metric,
        values=values,
        winner=None if level else options[first].name,
        tied=tuple(options[i].name for i in (first, *level)) if level else (),
        ratio=ratio,
        noise=noise,
    )


def _lead(
    metric: str,
    options: Sequence[Option],
    predictions: Sequence[Prediction | None],
    values: Sequence[float | None],
    first: int,
    other: int,
) -> tuple[float, float]:
    """Return by which ratio the best option leads another, and what the noise would allow."""
    a, b = values[first] or 1.0, values[other] or 1.0
    ratio = a / b if metric in HIGHER_IS_BETTER else b / a
    engines = {
        (options[i].server.engine.name, options[i].server.engine.from_version,
         options[i].server.engine.platform)
        for i in (first, other)
    }  # fmt: skip
    spreads = [
        _spread(metric, options[i], p, shared=len(engines) == 1)
        for i in (first, other)
        if (p := predictions[i]) is not None
    ]
    return ratio, math.exp(math.hypot(*spreads))


NAMES = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "tokens_per_s_per_gpu": "output per GPU",
    "tokens_per_price": "output per price",
}


def _summary(metric: str, rows: Sequence[Winner]) -> str:
    """Describe which option wins in which range of concurrency."""
    runs: list[tuple[str, int, int]] = []
    for row in rows:
        who = row.winner or row.tie or "nobody"
        if runs and runs[-1][0] == who:
            runs[-1] = (who, runs[-1][1], row.concurrency)
        else:
            runs.append((who, row.concurrency, row.concurrency))
    parts = [f"{who} at {a}" if a == b else f"{who} from {a} to {b}" for who, a, b in runs]
    return f"{NAMES[metric]}: {', '.join(parts)}"
