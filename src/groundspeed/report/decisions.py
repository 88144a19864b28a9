"""Build the reports of decisions: a plan with its front, and a comparison of deployments."""

import numpy as np

from groundspeed.display.show_comparison import SCALE, UNITS
from groundspeed.display.show_plan import deployment_name
from groundspeed.display.terminal import digits
from groundspeed.estimator.decisions.compare import NAMES, ServingComparison
from groundspeed.estimator.decisions.plan_records import Plan, PlanPoint
from groundspeed.report.page import Axis, Figure, Page, Section, Table, numbers


def plan_page(plan: Plan) -> Page:
    """Build the report of a plan: the front, the best, and the commands that start it."""
    best = plan.best
    facts = [("objective", "; ".join(plan.objective) or "none")]
    if best is not None:
        facts += [
            ("best", f"{deployment_name(best)}, {best.concurrency} clients"),
            ("output per GPU", f"{best.tokens_per_s_per_gpu:,.0f} token/s"),
            ("TPOT", f"{best.tpot_s * 1e3:.1f} ms"),
        ]
    front = sorted(plan.points, key=lambda p: p.tokens_per_s_per_user)
    trace = {
        "type": "scatter", "mode": "lines+markers", "name": "front",
        "x": numbers(np.array([p.tokens_per_s_per_user for p in front])),
        "y": numbers(np.array([p.tokens_per_s_per_gpu for p in front])),
        "text": [f"{deployment_name(p)}, {p.concurrency} clients" for p in front],
        "hovertemplate": "%{text}<br>%{y:,.0f} token/s per GPU, %{x:,.0f} per user<extra></extra>",
    }  # fmt: skip
    figure = Figure(
        "front", "Tokens per second and GPU over tokens per second and user.",
        "Every point is simulated; none is beaten by another in both.", [trace],
        Axis("output tokens per second per user", log=True),
        Axis("output tokens per second per GPU", log=True), height=460,
    )  # fmt: skip
    columns = ("deployment", "clients", "TTFT, ms", "P99", "TPOT, ms", "P99", "token/s per GPU",
               "token/s per user", "price/1M", "objective", "stands on")  # fmt: skip
    sections = [
        Section("Front", plan.advice, figures=[figure],
                tables=[Table(columns, [_row(p) for p in plan.points])]),
    ]  # fmt: skip
    if plan.launch is not None:
        lines = [plan.launch, *([plan.router] if plan.router else [])]
        sections.append(Section("Commands", plan.remark, lines=lines))
    if plan.pools:
        rows = [
            (p.prefill, p.decode, str(p.concurrency), digits(p.ttft_s * 1e3),
             digits(p.tpot_s * 1e3), digits(p.tokens_per_s_per_gpu), p.limited_by)
            for p in plan.pools
        ]  # fmt: skip
        head = ("prefill", "decode", "clients", "TTFT, ms", "TPOT, ms", "token/s per GPU",
                "limited by")  # fmt: skip
        sections.append(
            Section("Separate pools", "A steady state, not simulated.", tables=[Table(head, rows)])
        )
    return Page(
        title=f"Plan of {plan.model}",
        subtitle=f"{plan.prompt_tokens:,} in / {plan.output_tokens:,} out; {plan.tried} "
        f"candidates, {plan.simulated} simulated",
        facts=facts,
        warnings=list(plan.skipped),
        sections=sections,
    )


def _row(p: PlanPoint) -> tuple[str, ...]:
    cost = p.cost_per_million_output_tokens
    return (
        deployment_name(p), str(p.concurrency), digits(p.ttft_s * 1e3), digits(p.ttft_p99_s * 1e3),
        digits(p.tpot_s * 1e3), digits(p.tpot_p99_s * 1e3), digits(p.tokens_per_s_per_gpu),
        digits(p.tokens_per_s_per_user), f"{cost:.2f}" if cost is not None else "",
        "no" if not p.meets else "surely" if p.surely else "yes", p.stands_on,
    )  # fmt: skip


def servers_page(comparison: ServingComparison) -> Page:
    """Build the report of a comparison: a plot and a table for each metric."""
    sections = []
    for metric in dict.fromkeys(r.metric for r in comparison.rows):
        rows = [r for r in comparison.rows if r.metric == metric]
        scale = SCALE.get(metric, 1.0)
        traces = [
            {
                "type": "scatter", "mode": "lines+markers", "name": name,
                "x": [r.concurrency for r in rows if r.values[i] is not None],
                "y": numbers(np.array([scale * v for r in rows if (v := r.values[i]) is not None])),
            }
            for i, name in enumerate(comparison.options)
        ]  # fmt: skip
        title = f"{NAMES[metric]}, {UNITS[metric]}"
        figure = Figure(
            metric.replace("_", "-"), f"{title}.",
            "Over concurrency; saturated points are left out.",
            traces, Axis("clients", log=True), Axis(title, log=True), height=340,
        )  # fmt: skip
        table = Table(
            ("clients", *comparison.options, "winner", "lead", "noise"),
            [
                (
                    str(r.concurrency),
                    *(digits(v * scale) if v is not None else "saturated" for v in r.values),
                    r.winner or r.tie,
                    f"{r.ratio - 1.0:.0%}" if r.ratio else "",
                    f"{r.noise - 1.0:.0%}" if r.noise else "",
                )
                for r in rows
            ],
        )
        sections.append(Section(NAMES[metric], figures=[figure], tables=[table]))
    return Page(
        title="Comparison of deployments",
        subtitle=" against ".join(comparison.options),
        facts=[tuple(line.split(": ", 1)) for line in comparison.summary],  # type: ignore[misc]
        warnings=list(comparison.skipped),
        sections=sections,
    )
