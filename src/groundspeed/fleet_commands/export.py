"""``groundspeed fleet export``: write the rows of a store, or a query's answer, as one table."""

import json
from pathlib import Path
from typing import Annotated

import typer

from groundspeed.commands.options import Json, deliver
from groundspeed.profiles.errors import InputError


def export_command(
    store: Annotated[str, typer.Argument(help="Folder or URL of the store that holds the runs.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="File to write; its ending sets the format: .csv, .parquet or .json.",
        ),
    ],
    run: Annotated[
        list[str] | None,
        typer.Option(help="Name of a run to export; repeat it for several. Default: all runs."),
    ] = None,
    sql: Annotated[
        str | None,
        typer.Option(
            help="SQL query in DuckDB's dialect, on the table 'measurements', instead of --run. "
            "Default: all rows."
        ),
    ] = None,
    as_json: Json = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace the output file if it exists. Not given: an existing file is an error.",
        ),
    ] = False,
) -> None:
    """Export the measurements in a store, or the result of an SQL query on them, as one table.

    Example: groundspeed fleet export /shared/fleet -o fleet.csv
    """
    from groundspeed.fleet.history.store import Store
    from groundspeed.profiles.files import write_whole

    kept = Store(store)
    if sql is not None and run:
        raise InputError(
            "--sql and --run cannot be combined",
            remedy="add WHERE run = '...' to the query",
        )
    rows = kept.query(sql) if sql is not None else kept.rows(tuple(run or ()))
    kind = output.suffix.lower()
    if kind == ".csv":
        data = rows.to_csv(index=False).encode()
    elif kind == ".parquet":
        data = rows.to_parquet(None, index=False)
    elif kind == ".json":
        data = (rows.to_json(orient="records", indent=1) or "").encode()
    else:
        raise InputError(
            f"the ending '{kind}' is not a table format",
            where=str(output),
            remedy="use .csv, .parquet or .json",
        )
    write_whole(output, data, force=force)
    if as_json:
        deliver(json.dumps({"path": str(output), "rows": len(rows)}), None, force=False)
    else:
        typer.echo(f"{len(rows)} rows written to {output}")
