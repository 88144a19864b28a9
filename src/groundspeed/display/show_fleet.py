"""Print a fleet screening: one line for each incident, its evidence, and what was not judged."""

from rich.console import Console
from rich.table import Table

from groundspeed.display.terminal import make_table, plain, safe
from groundspeed.fleet.node_names import fold_names
from groundspeed.fleet.screen.findings import CAUSES, Finding, Incident, Screening

COLOURS = {"FAIL": "red", "WARN": "yellow", "FLAKY": "yellow", "INCONCLUSIVE": "dim"}
MOST_ROWS = 40
MOST_REASONS = 12
MOST_UNJUDGED = 6


def show_screening(console: Console, screening: Screening, *, unfold: bool = False) -> None:
    """Print the incidents, worst first, with their evidence; then what could not be judged.

    Parameters
    ----------
    console : Console
    screening : Screening
    unfold : bool
        Print each finding instead of each incident. Default: incidents.
    """
    console.print(
        plain(
            f"{screening.nodes} nodes, {screening.gpus} GPUs, {screening.metrics} metrics, "
            f"{screening.measurements:,} measurements: {screening.fail} FAIL, "
            f"{screening.warn} WARN, {screening.inconclusive} INCONCLUSIVE"
        )
    )
    for line in screening.excluded:
        console.print(plain(f"left out or changed: {line}"), style="yellow")
    for line in screening.notes:
        console.print(plain(f"note: {line}"), style="yellow")
    judged = [i for i in screening.incidents if i.verdict != "INCONCLUSIVE"]
    if judged:
        console.print()
        if unfold:
            _show_findings(console, screening)
        else:
            _show_incidents(console, screening, judged)
    _show_unjudged(console, screening)


def _show_incidents(console: Console, screening: Screening, incidents: list[Incident]) -> None:
    costs = any(i.tokens_per_s is not None for i in incidents)
    table = _table(costs=costs)
    for incident in incidents[:MOST_ROWS]:
        first = screening.findings[incident.findings[0]]
        more = len(incident.units) - 1
        unit = first.unit if not more else _together(screening, incident)
        table.add_row(*_row(first, unit, incident.loss_fraction, costs=costs,
                            tokens_per_s=incident.tokens_per_s))  # fmt: skip
    console.print(table)
    if len(incidents) > MOST_ROWS:
        console.print(
            plain(f"... and {len(incidents) - MOST_ROWS} more incidents; --json lists all of them")
        )
    console.print()
    said: set[str] = set()
    for incident in incidents[:MOST_REASONS]:
        what = "" if incident.cause in said else f" ({CAUSES[incident.cause]})"
        said.add(incident.cause)
        console.print(f"[bold]{incident.cause}[/bold]: {safe(incident.title + what)}")
    if any(len(i.units) > 1 for i in incidents):
        console.print(plain("each unit by itself: --unfold"), style="dim")


def _together(screening: Screening, incident: Incident) -> str:
    """Return how the units of an incident are called together."""
    findings = [screening.findings[i] for i in incident.findings]
    gpus = {f.gpu for f in findings}
    if findings[0].level == "gpu":
        nodes = {f.node for f in findings}
        if len(gpus) == 1 and len(nodes) > 1:
            return f"gpu {findings[0].gpu} of {len(nodes)} nodes"
        return f"{len(findings)} GPUs of {len(nodes)} node{'s' * (len(nodes) > 1)}"
    return f"{len(findings)} {findings[0].level}{'es' if findings[0].level == 'class' else 's'}"


def _show_findings(console: Console, screening: Screening) -> None:
    judged = [f for f in screening.findings if f.verdict != "INCONCLUSIVE"]
    costs = any(f.cost for f in judged)
    table = _table(costs=costs)
    for f in judged:
        tokens = f.cost.tokens_per_s if f.cost else None
        table.add_row(*_row(f, f.unit, f.loss_fraction, costs=costs, tokens_per_s=tokens))
    console.print(table)
    console.print()
    for cause in dict.fromkeys(f.cause for f in judged):
        console.print(f"[bold]{cause}[/bold]: {safe(CAUSES[cause])}")


def _table(*, costs: bool) -> Table:
    names = ["verdict", "unit", "loss", "z", "worst metric", "cause"]
    table = make_table(*names, *(["TPOT", "token/s"] if costs else []))
    for column in (1, 4, 5):
        table.columns[column].justify = "left"
    return table


def _row(
    f: Finding, unit: str, loss: float | None, *, costs: bool, tokens_per_s: float | None
) -> list[str]:
    more = f" +{len(f.metrics) - 1}" if len(f.metrics) > 1 else ""
    colour = COLOURS[f.verdict]
    row = [
        f"[{colour}]{f.verdict}[/{colour}]",
        safe(middle_cut(unit)),
        f"{loss:.1%}" if loss is not None else "",
        f"{f.z:.1f}" if f.z is not None else "",
        safe(f.metric) + more,
        f.cause,
    ]
    if costs:
        row += (
            [f"{f.cost.tpot_fraction:+.1%}" if f.cost else "", f"{-tokens_per_s:,.0f}"]
            if tokens_per_s is not None else ["", ""]
        )  # fmt: skip
    return row


LONGEST_NAME = 48


def middle_cut(name: str, most: int = LONGEST_NAME) -> str:
    """Return a name without its middle if it is long: names differ at their ends.

    >>> middle_cut("a-very-long-name-of-a-node-2", 12)
    'a-ver...de-2'
    """
    if len(name) <= most:
        return name
    left = (most - 3 + 1) // 2
    return f"{name[:left]}...{name[-(most - 3 - left) :]}"


def _show_unjudged(console: Console, screening: Screening) -> None:
    """Print what could not be judged, by cause, each node once."""
    missing = [f for f in screening.findings if f.verdict == "INCONCLUSIVE"]
    if not missing:
        return
    console.print()
    for cause in dict.fromkeys(f.cause for f in missing):
        mine = [f for f in missing if f.cause == cause]
        nodes = dict.fromkeys(f.unit for f in mine)
        console.print(
            f"[bold]not judged, {cause}[/bold]: "
            + safe(f"{CAUSES[cause]} ({len(nodes)}: {fold_names(nodes)})")
        )
        for evidence, units in _by_evidence(mine).items():
            console.print(plain(f"  {fold_names(units)}: {evidence}"), style="dim")


def _by_evidence(findings: list[Finding]) -> dict[str, list[str]]:
    """Return the units of each sentence of evidence, for the first few sentences."""
    units: dict[str, list[str]] = {}
    for f in findings:
        units.setdefault(f.evidence, []).append(f.unit)
    return dict(list(units.items())[:MOST_UNJUDGED])
