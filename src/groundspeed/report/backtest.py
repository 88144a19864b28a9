"""Build the report of a backtest: predicted against measured values, and their errors by row."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from groundspeed.estimator.backtest.backtest import RowResult, Summary
from groundspeed.report.page import Axis, Figure, Page, Section, Table, Trace, numbers

MILLISECONDS = ("ttft_ms", "tpot_ms", "e2e_latency_ms")
"""Columns of a table that are in milliseconds; plots show them in seconds with SI prefixes."""

LABELS = ("gpu", "model", "engine", "weight_dtype", "tp", "batch_or_concurrency", "isl", "osl")
"""Columns of a table that identify a row in plots and tables of the report."""


def read_row(flat: Mapping[str, object]) -> RowResult:
    """Read a row from the JSON of ``groundspeed backtest``.

    A row holds the columns of the measured table, and those that the backtest adds: predictions
    (``pred_``), their intervals (``low_``, ``high_``), ``saturated`` and ``skipped_reason``.

    Raises
    ------
    KeyError, ValueError
        If a column is missing or is not a number.
    """

    def known(prefix: str) -> dict[str, float]:
        values = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
        return {k: float(str(v)) for k, v in values.items() if v not in (None, "")}

    predicted = known("pred_")
    measured = {m: float(str(flat[m])) for m in predicted if flat.get(m) not in (None, "")}
    return RowResult(
        row=str(flat["row"]),
        labels={k: str(flat[k]) for k in LABELS if flat.get(k) not in (None, "")},
        predicted=predicted,
        low=known("low_"),
        high=known("high_"),
        measured=measured,
        saturated=bool(flat.get("saturated")),
        skipped_reason=str(flat.get("skipped_reason") or ""),
    )


def backtest_page(rows: Sequence[RowResult], summaries: Sequence[Summary], source: str) -> Page:
    """Build the report of a backtest; ``source`` is the name of its file."""
    kept = [r for r in rows if not r.skipped_reason]
    metrics = sorted({m for r in kept for m in r.measured})
    facts = [(f"{s.metric}, median error", f"{s.median_ape_percent:.1f} %") for s in summaries[:3]]
    skipped = [r for r in rows if r.skipped_reason]
    return Page(
        title="Predicted against measured",
        subtitle=f"{source}: {len(kept)} rows",
        facts=[("rows", str(len(kept))), *facts],
        warnings=[f"{r.row}: {r.skipped_reason}" for r in skipped[:20]]
        + ([f"... and {len(skipped) - 20} more rows were skipped"] if len(skipped) > 20 else []),
        sections=[_errors(summaries), *(_metric(m, kept) for m in metrics), _all(kept, metrics)],
    )


def _errors(summaries: Sequence[Summary]) -> Section:
    rows = [
        (
            f"{s.group} {s.metric}".strip(),
            str(s.n),
            f"{s.median_ape_percent:.1f} %",
            f"{s.p90_ape_percent:.1f} %",
            f"{s.mape_percent:.1f} %",
            f"{s.bias_percent:+.1f} %",
            f"{s.inside_interval_percent:.0f} %",
        )
        for s in summaries
    ]
    columns = (
        "group and metric", "rows", "median error", "P90 error", "mean error", "bias",
        "inside the 90 % interval",
    )  # fmt: skip
    return Section("Errors", tables=[Table(columns, rows, "Absolute percentage errors")])


def _metric(metric: str, rows: Sequence[RowResult]) -> Section:
    mine = [r for r in rows if metric in r.measured and metric in r.predicted]
    scale, unit = (1e-3, "s") if metric in MILLISECONDS else (1.0, "")
    measured = scale * np.array([r.measured[metric] for r in mine])
    predicted = scale * np.array([r.predicted[metric] for r in mine])
    traces: list[Trace] = []
    groups = list(dict.fromkeys(_group(r) for r in mine))
    for name in groups:
        chosen = np.array([_group(r) == name for r in mine])
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": name,
                "x": numbers(measured[chosen]), "y": numbers(predicted[chosen]),
                "text": [_label(r) for r, c in zip(mine, chosen, strict=True) if c],
                "marker": {"size": 6, "opacity": 0.75},
                "hovertemplate": "%{text}<br>measured %{x:.4s}" + unit
                + ", predicted %{y:.4s}" + unit + "<extra></extra>",
            }
        )  # fmt: skip
    if measured.size:
        ends = np.array([float(measured.min()) / 1.2, float(measured.max()) * 1.2])
        for factor, name in ((1.0, "equal"), (1.1, "+10 %"), (1 / 1.1, "-10 %")):
            traces.append(
                {
                    "type": "scatter", "mode": "lines", "name": name, "x": numbers(ends),
                    "y": numbers(ends * factor), "hoverinfo": "skip",
                    "line": {"color": "#85898f", "width": 1,
                             "dash": "solid" if factor == 1.0 else "dot"},
                }
            )  # fmt: skip
    scatter = Figure(
        f"scatter-{metric}", f"{metric}.",
        f"Predicted against measured values of {len(mine)} rows. On the solid line both are equal; "
        "on the dotted lines they differ by a factor of 1.1.",
        traces, Axis("measured", log=True, unit=unit), Axis("predicted", log=True, unit=unit),
        height=460,
    )  # fmt: skip
    errors = {
        "type": "histogram", "x": numbers(predicted / measured - 1.0), "name": metric,
        "xbins": {"size": 0.02}, "hovertemplate": "%{x}: %{y} rows<extra></extra>",
    }  # fmt: skip
    histogram = Figure(
        f"errors-{metric}", "Distribution of the errors.",
        "Predicted / measured - 1, in bins of 2 %.",
        [errors], Axis("error", share=True), Axis("number of rows"), height=260,
    )  # fmt: skip
    return Section(metric, figures=[scatter, histogram])


def _group(r: RowResult) -> str:
    words = [r.labels[k] for k in ("gpu", "engine") if r.labels.get(k)]
    return " ".join(words) or "rows"


def _label(r: RowResult) -> str:
    return f"{r.row}: " + ", ".join(f"{k} {v}" for k, v in r.labels.items() if v)


def _all(rows: Sequence[RowResult], metrics: Sequence[str]) -> Section:
    rows_of_cells = []
    for r in rows:
        cells = [_label(r)]
        for m in metrics:
            known = m in r.measured and m in r.predicted and r.measured[m] > 0
            off = r.predicted[m] / r.measured[m] - 1.0 if known else math.nan
            cells.append(f"{off:+.1%}" if known else "")
        rows_of_cells.append(cells)
    caption = "Error of every row: predicted / measured - 1."
    table = Table(("row", *metrics), rows_of_cells, caption, filtered=True)
    return Section("Every row", tables=[table])
