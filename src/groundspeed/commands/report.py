"""``groundspeed report``: write one self-contained HTML file, to read offline, mail or print."""

import json
from pathlib import Path
from typing import Annotated

import typer

from groundspeed.commands.options import Force, Json, ProfileDir, deliver


def report_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="What to report: one profile, two profiles to compare, a fleet (CSV files, a "
            "store, folders of profiles), or a JSON file of estimate, plan, compare or backtest."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path(
        "report.html"
    ),
    run: Annotated[
        str, typer.Option(help="Fleet: name of a run in the store. Default: the newest.")
    ] = "",
    reference: Annotated[
        str | None,
        typer.Option(
            help="Fleet: GPU or profile whose rates, less 10 %, are the lowest a GPU may reach. "
            "Not given: GPUs are compared with each other only."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Fleet: also predict what the findings cost, in tokens/s, when the fleet serves "
            "this model. Not given: no cost."
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="Fleet: name of its GPU, e.g. h200. Required with --model."),
    ] = None,
    tp: Annotated[int, typer.Option(help="Fleet: tensor parallel size, with --model.")] = 8,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Write a self-contained HTML report with plots, tables, warnings and sources.

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
