"""``groundspeed fleet history``: compare each GPU and node with its own earlier runs."""

from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, deliver

if TYPE_CHECKING:
    from groundspeed.fleet.history.changes import History


def history_command(
    store: Annotated[str, typer.Argument(help="Folder or URL of the store that holds the runs.")],
    node: Annotated[
        str | None, typer.Option(help="Name of the only node to show. Default: all nodes.")
    ] = None,
    lower_is_better: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a metric for which lower is better; repeat it for several. Not needed "
            "for times, which are recognized by name or unit."
        ),
    ] = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Show how often each GPU was flagged, and which became slower. Exit code 1: at least one.

    Example: groundspeed fleet history /shared/fleet
    """
    from groundspeed.fleet.history.changes import read_history
    from groundspeed.fleet.history.store import AGAIN, Store
    from groundspeed.fleet.table import clean_fleet

    kept = Store(store)
    rows = kept.rows()
    parts = rows[~rows["run"].str.contains(AGAIN, regex=False)].groupby("run", sort=True)
    history = read_history(
        [(str(run), str(part["date_utc"].max()), clean_fleet(part, store)) for run, part in parts],
        lower_is_better=lower_is_better or (),
    )
    if node is not None:
        history = history.model_copy(
            update={
                "strikes": tuple(s for s in history.strikes if s.node == node),
                "changes": tuple(c for c in history.changes if c.node == node),
            }
        )
    if as_json or output is not None:
        deliver(history.model_dump_json(indent=1), output, force=force)
    else:
        _show(history)
    raise typer.Exit(1 if any(c.loss_fraction > 0 for c in history.changes) else 0)


MOST_ROWS = 30
"""Maximum number of rows of each printed table."""


def _show(history: "History") -> None:
    from groundspeed.display.terminal import make_console, make_table, plain, safe

    console = make_console()
    console.print(plain(f"{history.runs} runs from {history.first_utc} to {history.last_utc}"))

    def unit(name: str, gpu: int | None) -> str:
        return safe(name if gpu is None else f"{name} gpu {gpu}")

    if history.changes:
        table = make_table("unit", "metric", "since", "before", "now", "loss", "t")
        for column in (0, 1, 2):
            table.columns[column].justify = "left"
        for c in history.changes[:MOST_ROWS]:
            name = unit(c.node, c.gpu)
            table.add_row(
                f"class {name}" if c.level == "class" else name, safe(c.metric), c.since_utc[:10],
                f"{c.before:.4g}", f"{c.after:.4g}", f"{c.loss_fraction:+.1%}", f"{c.t:.0f}",
            )  # fmt: skip
        console.print(table)
    else:
        console.print("no GPU or node has changed")
    if history.strikes:
        table = make_table("unit", "flagged runs", "runs", "last flagged", "metrics")
        for column in (0, 3, 4):
            table.columns[column].justify = "left"
        for s in history.strikes[:MOST_ROWS]:
            table.add_row(
                unit(s.node, s.gpu), str(s.strikes), str(s.runs), s.last_utc[:10],
                safe(", ".join(s.metrics[:3])),
            )  # fmt: skip
        console.print(table)
