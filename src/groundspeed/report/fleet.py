"""Build the report of a screening: slow units, causes, costs, and a heat map of all nodes."""

import numpy as np
import pandas as pd

from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.findings import CAUSES, Finding, Screening
from groundspeed.fleet.screen.score import FAIL, FAIL_Z, WARN, Scores
from groundspeed.fleet.table import NODE_LEVEL, FleetTable
from groundspeed.profiles.operations import Array
from groundspeed.report.page import Axis, Figure, Page, Section, Table, Trace, numbers

MOST_NODES = 1500
"""Most rows of the heat map; in larger fleets nodes with findings come first."""

MOST_DISTRIBUTIONS = 6
MOST_DOTS = 4000
"""Approximate number of unflagged units drawn per metric; all flagged units are drawn."""

MOST_SEVERE = 2.0
"""Severity at which the colour scale of the heat map ends; worse units get the same red."""


def fleet_page(table: FleetTable, scores: Scores, screening: Screening, source: str) -> Page:
    """Build the report of a screening.

    Parameters
    ----------
    table : FleetTable
        All measurements of the fleet.
    scores : Scores
        Scores of all measurements, in the order of the table.
    screening : Screening
        Findings of the fleet, with counts.
    source : str
        Names of the files or stores that the table was read from.
    """
    judged = [f for f in screening.findings if f.verdict != "INCONCLUSIVE"]
    rows = table.rows.assign(loss=scores.loss, z=scores.z, tier=scores.tier)
    names = [str(m) for m in rows["metric"].cat.categories if facts_of(str(m)).kind not in UNJUDGED]
    lost = sum(f.cost.tokens_per_s for f in judged if f.cost is not None)
    facts = [
        ("nodes", f"{screening.nodes:,}"),
        ("GPUs", f"{screening.gpus:,}"),
        ("FAIL", f"{screening.fail}"),
        ("WARN", f"{screening.warn}"),
        ("inconclusive", f"{screening.inconclusive}"),
    ]
    if lost:
        facts.append(("throughput gained by draining", f"{lost:,.0f} token/s"))
    return Page(
        title="Fleet screening",
        subtitle=f"{source}: {screening.measurements:,} measurements of "
        f"{screening.metrics} metrics",
        facts=facts,
        warnings=[f"left out: {line}" for line in screening.excluded],
        sections=[
            _incidents(screening),
            _findings(judged),
            _heat(rows, screening, names),
            _distributions(rows, judged, names),
            _missing(screening),
        ],
    )


def _incidents(screening: Screening) -> Section:
    """Build the table of incidents: findings with one cause are one line."""
    incidents = [i for i in screening.incidents if i.verdict != "INCONCLUSIVE"]
    costs = any(i.tokens_per_s is not None for i in incidents)
    columns = ["verdict", "cause", "units", "loss", "what happened"]
    columns += ["token/s change"] if costs else []
    rows = [
        [
            i.verdict,
            i.cause,
            f"{len(i.units)}",
            f"{i.loss_fraction:.1%}" if i.loss_fraction is not None else "",
            i.title,
            *([f"{-i.tokens_per_s:,.0f}" if i.tokens_per_s is not None else ""] if costs else []),
        ]
        for i in incidents
    ]
    table = Table(columns, rows, "Incidents", words=(1, 4), marks=[i.verdict for i in incidents])
    return Section(
        "Incidents",
        "Findings with one cause are one incident; each unit is listed below."
        if incidents
        else "Nothing happened.",
        tables=[table] if incidents else [],
        lines=list(screening.notes),
    )


def _findings(judged: list[Finding]) -> Section:
    costs = any(f.cost for f in judged)
    columns = ["unit", "verdict", "loss", "z", "worst metric", "cause", "evidence"]
    columns += ["TTFT change", "TPOT change", "token/s change"] if costs else []
    rows, marks = [], []
    for f in judged:
        row = [
            f.unit,
            f.verdict,
            f"{f.loss_fraction or 0.0:.1%}",
            f"{f.z:.1f}" if f.z is not None else "",
            f.metric,
            f.cause,
            f.evidence,
        ]
        if costs:
            row += (
                [f"{f.cost.ttft_fraction:+.1%}", f"{f.cost.tpot_fraction:+.1%}",
                 f"{-f.cost.tokens_per_s:,.0f}"] if f.cost else ["", "", ""]
            )  # fmt: skip
        rows.append(row)
        marks.append(f.verdict)
    causes = dict.fromkeys(f.cause for f in judged)
    table = Table(columns, rows, "Findings", filtered=True, words=(4, 5, 6), marks=marks)
    return Section(
        "Findings",
        "One row per unit and cause, worst first." if judged else "No unit is slow.",
        tables=[table] if judged else [],
        lines=[f"{cause}: {CAUSES[cause]}." for cause in causes],
    )


def _severity(rows: pd.DataFrame) -> pd.Series:
    """Return the severity of each measurement: its loss or z over the FAIL limit, the smaller.

    A FAIL needs both the loss and z to exceed their limits, so the smaller ratio counts. A severity
    of 1 is a FAIL; 0.5 to 1 is about a WARN. Metrics that vary by nature have higher limits.
    """
    fail = rows["metric"].map({str(m): facts_of(str(m)).fail_loss
                               for m in rows["metric"].cat.categories}).astype(float)  # fmt: skip
    # A unit without a class has no z: then its loss against the reference alone counts.
    both = pd.DataFrame({"loss": rows["loss"] / fail, "z": rows["z"] / FAIL_Z})
    return both.min(axis=1).clip(lower=0.0)


def _heat(rows: pd.DataFrame, screening: Screening, names: list[str]) -> Section:
    part = rows[rows["metric"].isin(names)].copy()
    part["severity"] = _severity(part)
    order = part.sort_values("severity").drop_duplicates(["node", "metric"], keep="last")
    worst, loss = (
        order.pivot_table(index="node", columns="metric", values=v, observed=True)
        for v in ("severity", "loss")
    )
    if len(worst) > MOST_NODES:
        named = {f.node for f in screening.findings}
        chosen = [n for n in worst.index if n in named][:MOST_NODES]
        others = [n for n in worst.index if n not in named]
        worst = worst.loc[sorted([*chosen, *others[: MOST_NODES - len(chosen)]])]
    loss = loss.loc[worst.index]
    trace = {
        "type": "heatmap", "x": [str(c) for c in worst.columns], "y": [str(n) for n in worst.index],
        "z": _lines(worst),
        "customdata": _lines(loss),
        "zmin": 0.0, "zmax": MOST_SEVERE,
        "colorscale": [[0, "rgba(128,134,143,0.12)"], [0.25, "rgba(128,134,143,0.3)"],
                       [0.4, "#e9c46a"], [0.5, "#e76f51"], [1, "#9b1c31"]],
        "colorbar": {"tickvals": [0, 0.8, 1.1, 2], "ticktext": ["fine", "WARN", "FAIL", "worse"]},
        "hovertemplate": "%{y}<br>%{x}<br>%{customdata:.1%} below its class<extra></extra>",
    }  # fmt: skip
    figure = Figure(
        "heat", "Nodes and metrics.",
        f"The worst GPU of each of {len(worst)} nodes, coloured by severity relative to the limits "
        "of the metric: yellow is about a WARN, red a FAIL. Drag to zoom, double-click to reset.",
        [trace], Axis("", names=True), Axis("", names=True), height=min(1600, 220 + 7 * len(worst)),
    )  # fmt: skip
    return Section("All nodes and metrics", figures=[figure])


def _lines(table: pd.DataFrame) -> list[list[float | None]]:
    values: Array = table.to_numpy(dtype=np.float64)
    return [numbers(line) for line in values.round(4)]


def _distributions(rows: pd.DataFrame, judged: list[Finding], names: list[str]) -> Section:
    """Build one plot per flagged metric: all units, with the flagged ones marked."""
    counts: dict[str, int] = {}
    for f in judged:
        for metric in f.metrics:
            counts[metric] = counts.get(metric, 0) + 1
    chosen = sorted(counts, key=lambda m: (-counts[m], m))[:MOST_DISTRIBUTIONS] or names[:3]
    figures = []
    for number, metric in enumerate(chosen):
        part = rows[(rows["metric"] == metric) & rows["loss"].notna()]
        slow = part["tier"].isin((WARN, FAIL))
        fine = part[~slow]
        step = max(1, len(fine) // MOST_DOTS)
        groups = (("others", fine.iloc[::step], "#85898f"),
                  ("flagged", part[slow], "#d14b3a"))  # fmt: skip
        traces: list[Trace] = []
        for name, mine, colour in groups:
            if mine.empty:
                continue
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "name": name,
                    "x": numbers(np.round(-mine["loss"].to_numpy(), 5)),
                    "y": numbers(_spread_out(len(mine), number)),
                    "text": [
                        node if gpu == NODE_LEVEL else f"{node} gpu {gpu}"
                        for node, gpu in zip(mine["node"].astype(str), mine["gpu"], strict=True)
                    ],
                    "marker": {"size": 5 if name != "flagged" else 8, "color": colour,
                               "opacity": 0.6 if name != "flagged" else 1.0},
                    "hovertemplate": "%{text}<br>%{x:+.1%}<extra></extra>",
                }
            )  # fmt: skip
        figures.append(
            Figure(
                f"metric-{number}", f"{metric}.",
                f"{len(part)} units relative to their class's median; {int(slow.sum())} flagged.",
                traces, Axis("deviation from the class median", share=True), Axis(""), height=260,
            )
        )  # fmt: skip
    intro = "The vertical position of a dot has no meaning: it only separates the dots."
    return Section("Distributions", intro, figures=figures)


def _spread_out(count: int, seed: int) -> np.ndarray:
    return np.round(np.random.default_rng(seed).random(count), 3)


def _missing(screening: Screening) -> Section:
    missing = [f for f in screening.findings if f.verdict == "INCONCLUSIVE"]
    rows = [(f.node, f.cause, f.evidence) for f in missing]
    table = Table(("node", "cause", "evidence"), rows, "Inconclusive units are not judged slow",
                  filtered=len(rows) > 12, words=(1, 2))  # fmt: skip
    return Section(
        "Units that could not be judged",
        "" if rows else "All units were judged.",
        tables=[table] if rows else [],
    )
