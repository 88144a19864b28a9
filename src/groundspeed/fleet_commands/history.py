"""``groundspeed fleet history``: compare each GPU and node with its own earlier runs."""

from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, deliver
from groundspeed.profiles.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from groundspeed.fleet.history.changes import History


def history_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="The store that holds the runs (folder or URL), or tables: one with a column run "
            "or date, or one file for each run."
        ),
    ],
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
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="NAME=COLUMN: which column of the files holds node, gpu, metric, value, unit, run "
            "or date_utc, if it has none of the usual names; repeat it for several.",
        ),
    ] = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Show how often each GPU was flagged, and what changed. Exit code 1: something became worse.

    Example: groundspeed fleet history /shared/fleet
    """
    from groundspeed.fleet.history.changes import FEWEST_RUNS, read_history
    from groundspeed.fleet.history.sources import open_runs
    from groundspeed.fleet.reading.columns import parse_map

    runs = open_runs(sources, parse_map(columns or ()))
    if node is not None:
        known = sorted({str(n) for _, _, table in runs for n in table.rows["node"].unique()})
        if node not in known:
            raise InputError(
                f"no run has a node '{node}'", where="--node", remedy=did_you_mean(node, known)
            )
    history = read_history(runs, lower_is_better=lower_is_better or ())
    if history.runs < FEWEST_RUNS:
        typer.echo(
            f"groundspeed: {history.runs} run{'s' * (history.runs > 1)}: a change of a rate needs "
            f"{FEWEST_RUNS} or more",
            err=True,
        )
    if node is not None:
        history = history.model_copy(
            update={
                "strikes": tuple(s for s in history.strikes if s.node == node),
                "changes": tuple(c for c in history.changes if c.node == node),
                "settings": tuple(c for c in history.settings if c.node == node),
                "gone": tuple(g for g in history.gone if g.node == node),
            }
        )
    if as_json or output is not None:
        deliver(history.model_dump_json(indent=1), output, force=force)
    else:
        _show(history)
    raise typer.Exit(1 if history.worse else 0)


MOST_ROWS = 30
"""Maximum number of rows of each printed table."""


def _show(history: "History") -> None:
    from groundspeed.display.terminal import make_console, make_table, plain, safe

    console = make_console()
    console.print(plain(f"{history.runs} runs from {history.first_utc} to {history.last_utc}"))

    def unit(name: str, gpu: int | str | None) -> str:
        if gpu is None:
            return safe(name)
        return safe(f"{name} gpu {gpu}" if isinstance(gpu, int) else f"{name} {gpu}")

    if history.changes:
        table = make_table("unit", "metric", "since", "before", "now", "loss", "t", "cause")
        for column in (0, 1, 2, 7):
            table.columns[column].justify = "left"
        for c in history.changes[:MOST_ROWS]:
            name = unit(c.node, c.gpu) + (f" ({len(c.gpus)} GPUs)" if c.gpus else "")
            table.add_row(
                f"class {name}" if c.level == "class" else name, safe(c.metric), c.since_utc[:10],
                f"{c.before:.4g}", f"{c.after:.4g}", f"{c.loss_fraction:+.1%}", f"{c.t:.0f}",
                c.cause,
            )  # fmt: skip
        console.print(table)
    elif not history.settings and not history.gone:
        console.print("no GPU or node has changed")
    for lost in history.gone[:MOST_ROWS]:
        what = f": no {safe(lost.metric)}" if lost.metric else ": nothing"
        console.print(
            f"[red]gone[/red] {unit(lost.node, lost.gpu)}{what} in the newest run, last seen "
            f"{lost.last_utc[:10]}"
        )
    for new in history.settings[:MOST_ROWS]:
        who = f"class {safe(new.node)}" if new.level == "class" else unit(new.node, new.gpu)
        values = f"{safe(new.before)} -> {safe(new.after)}"
        console.print(f"{who}: {new.setting.replace('_', ' ')} {values} since {new.since_utc[:10]}")
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
