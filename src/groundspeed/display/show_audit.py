"""Print an audit: the checks of a published claim, and the figures derived from it."""

from rich.console import Console

from groundspeed.display.terminal import digits, make_table, plain, safe
from groundspeed.estimator.decisions.audit import Audit, FairComparison

MARKS = {"ok": "[green]ok[/green]", "warning": "[yellow]note[/yellow]", "wrong": "[red]wrong[/red]"}


def show_audit(console: Console, audit: Audit) -> None:
    """Print the checks of a claim, then the figures derived from it."""
    console.print(f"[bold]{safe(audit.label)}[/bold]  {safe(audit.model)} on {safe(audit.gpu)}")
    for check in audit.checks:
        console.print(f"{MARKS[check.severity]}  {check.name}: {safe(check.text)}")
    if audit.figures:
        console.print()
        table = make_table("derived figure", "value", "unit", "how it is computed")
        table.columns[3].justify = "left"
        for f in audit.figures:
            table.add_row(plain(f.name), digits(f.value), f.unit, plain(f.how))
        console.print(table)
    console.print()


def show_fair_comparison(console: Console, fair: FairComparison) -> None:
    """Print the output rate per GPU of two claims, and the verdict."""
    table = make_table("claim", "output token/s/GPU")
    for name, rate in zip(fair.names, fair.output_per_gpu, strict=True):
        table.add_row(plain(name), digits(rate) if rate else "not stated")
    console.print(table)
    console.print(plain(fair.verdict))
