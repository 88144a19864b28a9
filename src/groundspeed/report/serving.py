"""Build the report of an estimate: throughput over latency, time by operator, memory use."""

from collections.abc import Mapping, Sequence

import numpy as np

from groundspeed.display.terminal import shown, shown_interval
from groundspeed.estimator.serving.workload import Prediction
from groundspeed.report.page import Axis, Figure, Page, Section, Table, Trace, numbers

Columns = Mapping[str, Sequence[Prediction]]
"""Predictions over concurrency, by the name of their column, e.g. hardware and origin."""

DASHES = ("solid", "dot", "dash", "dashdot")


def serving_page(columns: Columns) -> Page:
    """Build the report of an estimate.

    Parameters
    ----------
    columns : mapping of str to sequence of Prediction
        Predictions over concurrency, by the name of their column; at least one column.
    """
    first = next(iter(columns.values()))[0]
    best = next((c for c in columns.values() if c[0].origin != "datasheet"), None)
    shown_first = (best or next(iter(columns.values())))[0]
    facts = [
        ("TTFT", shown_interval(shown_first.ttft_s, shown_first.ttft_low_s,
                                shown_first.ttft_high_s, "s")),
        ("TPOT", _interval(shown_first, "tpot")),
        ("output", f"{shown_first.output_tokens_per_s:,.0f} token/s"),
        ("clients", str(shown_first.concurrency)),
    ]  # fmt: skip
    notes = dict.fromkeys(n for c in columns.values() for p in c for n in p.notes)
    return Page(
        title=f"{first.model} on {first.devices} x {first.hardware}",
        subtitle=f"{first.engine} {first.engine_version}, {first.formats}, "
        f"{first.prompt_tokens:,} in / {first.output_tokens:,} out, predicted",
        facts=facts,
        warnings=list(notes),
        sections=[
            _curve(columns),
            _over_concurrency(columns),
            _parts(best or next(iter(columns.values()))),
            _memory(shown_first),
            _assumed(columns),
        ],
    )


def _curve(columns: Columns) -> Section:
    traces: list[Trace] = []
    for dash, (name, predictions) in zip(DASHES * 4, columns.items(), strict=False):
        x = np.array([p.e2e_s for p in predictions])
        y = np.array([p.total_tokens_per_s for p in predictions])
        factors = np.array([p.rate_factors for p in predictions])
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers+text", "name": name,
                "x": numbers(x), "y": numbers(y), "line": {"dash": dash},
                "error_y": {
                    "type": "data", "symmetric": False, "thickness": 1,
                    "array": numbers(y * factors[:, 1] - y),
                    "arrayminus": numbers(y - y * factors[:, 0]),
                },
                "text": [str(p.concurrency) for p in predictions], "textposition": "bottom right",
                "hovertemplate": "%{text} clients<br>%{y:,.0f} token/s at %{x:.2f} s",
            }
        )  # fmt: skip
    figure = Figure(
        "latency-throughput", "Throughput over latency.",
        "Each point is labelled with its concurrency; error bars are 90 % intervals.",
        traces, Axis("end-to-end latency [s]", log=True),
        Axis("input + output tokens per second", log=True, unit=""), height=480,
    )  # fmt: skip
    return Section("Throughput over latency", figures=[figure])


def _over_concurrency(columns: Columns) -> Section:
    figures = []
    for metric, title in (("ttft", "TTFT"), ("tpot", "TPOT")):
        traces: list[Trace] = []
        for dash, (name, predictions) in zip(DASHES * 4, columns.items(), strict=False):
            value, low, high = (
                np.array([getattr(p, f"{metric}{end}_s") or np.nan for p in predictions])
                for end in ("", "_low", "_high")
            )
            traces.append(
                {
                    "type": "scatter", "mode": "lines+markers", "name": name,
                    "x": [p.concurrency for p in predictions], "y": numbers(value),
                    "line": {"dash": dash},
                    "error_y": {"type": "data", "symmetric": False, "thickness": 1,
                                "array": numbers(high - value),
                                "arrayminus": numbers(value - low)},
                    "hovertemplate": "%{x} clients<br>%{y:.4s}s",
                }
            )  # fmt: skip
        figures.append(
            Figure(
                metric, f"{title}.", "Prediction and its 90 % interval over concurrency.", traces,
                Axis("clients", log=True), Axis(title, log=True, unit="s"), height=340,
            )
        )  # fmt: skip
    rows = [
        (
            f"{name}, {p.concurrency}",
            shown_interval(p.ttft_s, p.ttft_low_s, p.ttft_high_s, "s"),
            _interval(p, "tpot"),
            f"{p.output_tokens_per_s:,.0f}",
            f"{p.requests_per_s:.3g}",
            "saturated" if p.saturated else "",
        )
        for name, predictions in columns.items()
        for p in predictions
    ]
    table = Table(("column, clients", "TTFT", "TPOT", "output token/s", "requests/s", ""), rows,
                  first_definition(columns))  # fmt: skip
    return Section("Over concurrency", figures=figures, tables=[table])


def _interval(p: Prediction, metric: str) -> str:
    """Return a latency with its interval; empty if there is none (one output token)."""
    value, low, high = (getattr(p, f"{metric}{end}_s") for end in ("", "_low", "_high"))
    return "" if value is None else shown_interval(value, low, high, "s")


def first_definition(columns: Columns) -> str:
    """Return the definition of TPOT that the predictions use."""
    return next(iter(columns.values()))[0].tpot_definition


def _parts(predictions: Sequence[Prediction]) -> Section:
    """Build stacked plots of decode and prefill time by operator, over concurrency."""
    figures = []
    for phase in ("decode", "prefill"):
        parts = [getattr(p, f"{phase}_parts") for p in predictions]
        names = list(
            dict.fromkeys(part.group for prediction_parts in parts for part in prediction_parts)
        )
        traces: list[Trace] = []
        for name in names:
            value = [
                sum(part.time_s for part in prediction_parts if part.group == name)
                for prediction_parts in parts
            ]
            traces.append(
                {
                    "type": "bar", "name": name, "x": [str(p.concurrency) for p in predictions],
                    "y": numbers(np.array(value)),
                    "hovertemplate": "%{x} clients<br>%{fullData.name}: %{y:.4s}s<extra></extra>",
                }
            )  # fmt: skip
        figures.append(
            Figure(
                f"parts-{phase}", f"{phase.capitalize()}.",
                "Time by operator, over concurrency. Click a name to hide it.", traces,
                Axis("clients", names=True), Axis("time", unit="s"), height=360, stacked=True,
            )
        )  # fmt: skip
    return Section("Time by operator", figures=figures)


def _memory(p: Prediction) -> Section:
    rows = [
        ("weights", shown(p.weight_bytes, "bytes")),
        ("kept by the engine", shown(p.reserved_bytes, "bytes")),
        ("KV cache, all that fits", f"{shown(p.cache_bytes, 'bytes')}, {p.cache_tokens:,} tokens"),
        ("KV cache of one sequence", shown(p.cache_bytes_per_sequence, "bytes")),
        ("most sequences at once", f"{p.most_sequences:,}"),
    ]
    return Section("Memory of one device", tables=[Table(("quantity", "value"), rows)])


def _assumed(columns: Columns) -> Section:
    lines = dict.fromkeys(a for c in columns.values() for p in c for a in p.assumed)
    origins = dict.fromkeys(
        f"{name}: {c[0].hardware}, {c[0].origin}" for name, c in columns.items()
    )
    return Section("Hardware and assumptions", lines=[*origins, *lines])
