"""``groundspeed doctor``: list what this machine can do and what is missing for the rest."""

import typer

from groundspeed.commands.options import Json, deliver


def doctor_command(as_json: Json = False) -> None:
    """Show what works on this machine and how to install the rest. Exit code 1: it cannot measure.

    Example: groundspeed doctor
    """
    from groundspeed.measuring.machine_check import diagnose

    diagnosis = diagnose()
    if as_json:
        deliver(diagnosis.model_dump_json(indent=1), None, force=False)
        raise typer.Exit(0 if diagnosis.can["measure"] else 1)
    from groundspeed.display.terminal import make_console, make_table, plain, safe

    console = make_console()
    colours = {"ok": "green", "missing": "red", "warning": "yellow"}
    table = make_table("", "", "")
    table.show_header = False
    table.columns[1].justify = table.columns[2].justify = "left"
    for c in diagnosis.checks:
        colour = colours[c.state]
        needed = f" ([dim]for {safe(c.for_what)}[/dim])" if c.state != "ok" and c.for_what else ""
        remedy = f"\n{safe(c.remedy)}" if c.remedy else ""
        description = f"{safe(c.found)}{needed}{remedy}"
        table.add_row(safe(c.what), f"[{colour}]{c.state}[/{colour}]", description)
    console.print(table)
    console.print()
    for what, can in diagnosis.can.items():
        console.print(plain(f"{'can' if can else 'cannot'} {what}"), style="" if can else "yellow")
    raise typer.Exit(0 if diagnosis.can["measure"] else 1)
