"""Print a fleet screening: flagged units with loss, cause and cost for a deployment."""

from rich.console import Console

from groundspeed.display.terminal import make_table, plain, safe
from groundspeed.fleet.screen.findings import CAUSES, Finding, Screening

COLOURS = {"FAIL": "red", "WARN": "yellow", "FLAKY": "yellow", "INCONCLUSIVE": "dim"}
MOST_ROWS = 40


def show_screening(console: Console, screening: Screening) -> None:
    """Print the findings, worst first, then the number of nodes without a result."""
    console.print(
        plain(
            f"{screening.nodes} nodes, {screening.gpus} GPUs, {screening.metrics} metrics, "
            f"{screening.measurements:,} measurements: {screening.fail} FAIL, "
            f"{screening.warn} WARN, {screening.inconclusive} INCONCLUSIVE"
        )
    )
    for line in screening.excluded:
        console.print(plain(f"left out: {line}"), style="yellow")
    judged = [f for f in screening.findings if f.verdict != "INCONCLUSIVE"]
    costs = any(f.cost for f in judged)
    if judged:
        console.print()
        names = ["verdict", "unit", "loss", "z", "worst metric", "cause"]
        table = make_table(*names, *(["TPOT", "token/s"] if costs else []))
        for column in (1, 4, 5):
            table.columns[column].justify = "left"
        for f in judged[:MOST_ROWS]:
            table.add_row(*_row(f, costs=costs))
        console.print(table)
        if len(judged) > MOST_ROWS:
            console.print(
                plain(f"... and {len(judged) - MOST_ROWS} more findings; --json lists all of them")
            )
        console.print()
        for cause in dict.fromkeys(f.cause for f in judged):
            console.print(f"[bold]{cause}[/bold]: {safe(CAUSES[cause])}")
    missing = [f for f in screening.findings if f.verdict == "INCONCLUSIVE"]
    if missing:
        nodes = ", ".join(f.node for f in missing[:6]) + (" ..." if len(missing) > 6 else "")
        console.print()
        console.print(
            plain(f"inconclusive (not judged slow): {len(missing)} nodes without results ({nodes})")
        )


def _row(f: Finding, *, costs: bool) -> list[str]:
    unit = f.node if f.gpu is None else f"{f.node} gpu {f.gpu}"
    more = f" +{len(f.metrics) - 1}" if len(f.metrics) > 1 else ""
    colour = COLOURS[f.verdict]
    row = [
        f"[{colour}]{f.verdict}[/{colour}]",
        safe(unit if f.level in ("gpu", "node") else f"{f.level} {unit}"),
        f"{f.loss_fraction or 0.0:.1%}",
        f"{f.z:.1f}" if f.z is not None else "",
        safe(f.metric) + more,
        f.cause,
    ]
    if costs:
        row += (
            [f"{f.cost.tpot_fraction:+.1%}", f"{-f.cost.tokens_per_s:,.0f}"] if f.cost else ["", ""]
        )
    return row
