"""``groundspeed report``: one HTML file to mail, open anywhere, and print."""

import json
from pathlib import Path
from typing import Annotated

import typer

from groundspeed.commands.options import Force, Json, ProfileDir, deliver


def report_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="A profile (two are compared), a fleet (CSV, store, folder of profiles), or the "
            "--json of estimate or backtest."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path(
        "report.html"
    ),
    run: Annotated[str, typer.Option(help="Name of a run in a store. Default: the newest.")] = "",
    reference: Annotated[
        str | None,
        typer.Option(
            help=("Profile whose rates, less 10 %, are the lowest that a fleet's GPUs may reach.")
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Also show what a fleet's findings cost when it serves this model."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="GPU of the fleet, for the cost of findings; needed with --model."),
    ] = None,
    tp: Annotated[int, typer.Option(help="Tensor parallel size, for the cost of findings.")] = 8,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Write a self-contained HTML report: plots, tables, warnings, provenance.

    Example: groundspeed report h200 -o h200.html
    """
    from groundspeed.commands.options import require_writable
    from groundspeed.fleet_commands.screen import served_by
    from groundspeed.report.page import render
    from groundspeed.report.sources import page_of

    require_writable(output, force=force)
    page = page_of(
        sources, run=run, reference=reference, served=served_by(model, gpu, tp),
        profile_dir=profile_dir,
    )  # fmt: skip
    text = render(page)
    deliver(text, output, force=force)
    size = len(text.encode())
    if as_json:
        document = {"title": page.title, "path": str(output), "size_bytes": size}
        deliver(json.dumps(document), None, force=False)
    else:
        typer.echo(f"{page.title}: {output} ({size / 1e6:.1f} MB)")
