"""``groundspeed fleet links`` and ``rounds``: find slow nodes and links by measuring pairs."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, deliver
from groundspeed.fleet.node_names import expand_names
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import read_text

if TYPE_CHECKING:
    from groundspeed.fleet.links.pairwise import LinkFinding


def links_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help=(
                "CSV files, one row per measured pair of nodes: node, partner, value (a bandwidth "
                "in any unit) and optionally metric."
            )
        ),
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="NAME=COLUMN: which column of the files holds node, partner, value or metric, if "
            "it has none of the usual names; repeat it for several.",
        ),
    ] = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Find the slow nodes and links in pairwise bandwidths. Exit code: 0 none, 2 some, 3 too few.

    Example: groundspeed fleet links pairs.csv
    """
    from groundspeed.fleet.links.pairwise import FEWEST_PAIRS, judge_pairs, read_pairs
    from groundspeed.fleet.reading.columns import parse_map

    tests = read_pairs(paths, parse_map(columns or ()))
    count = sum(len(pairs.first) for pairs in tests.values())
    usable = [int((pairs.bandwidth > 0).sum()) for pairs in tests.values()]
    if max(usable, default=0) < FEWEST_PAIRS:
        message = (
            f"only {sum(usable)} of {count} pairs have a result: measure at least {FEWEST_PAIRS}"
        )
        typer.echo(f"groundspeed: {message}", err=True)
        raise typer.Exit(3)
    findings = tuple(
        f.model_copy(update={"metric": metric})
        for metric, pairs in tests.items()
        for f in judge_pairs(pairs)
    )
    if as_json or output is not None:
        document = {
            "pairs": count,
            "findings": [f.model_dump() for f in findings],
        }
        deliver(json.dumps(document, indent=1), output, force=force)
    else:
        _show(findings, count)
    raise typer.Exit(2 if findings else 0)


def _show(findings: "tuple[LinkFinding, ...]", pairs: int) -> None:
    from groundspeed.display.terminal import make_console, make_table, plain, safe

    console = make_console()
    console.print(plain(f"{pairs} pairs: {len(findings)} findings"))
    if not findings:
        return
    table = make_table("level", "node or link", "test", "loss", "slow pairs", "evidence")
    for column in (0, 1, 2, 5):
        table.columns[column].justify = "left"
    for f in findings:
        table.add_row(
            f.level, safe(" - ".join(f.nodes)), safe(f.metric),
            "no result" if f.loss_fraction is None else f"{f.loss_fraction:.0%}",
            f"{f.slow_pairs} of {f.pairs}", safe(f.evidence),
        )  # fmt: skip
    console.print(table)


def rounds_command(
    nodes: Annotated[
        str,
        typer.Option(
            help="Names of the nodes, separated by commas or as ranges (n[1-4]), or a file with "
            "one per line."
        ),
    ],
    slow_share: Annotated[
        float,
        typer.Option(
            help=(
                "Largest fraction of slow nodes (between 0 and 1) with which the rounds can still "
                "tell slow from good nodes; a larger one needs more rounds."
            )
        ),
    ] = 0.02,
    seed: Annotated[int, typer.Option(help="Random seed of the order of nodes.")] = 0,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Print which pairs of nodes to measure in each round, as CSV: round,node,partner.

    In each round every node has one partner, so all pairs of a round can be measured at once.

    Example: groundspeed fleet rounds --nodes n1,n2,n3,n4,n5,n6
    """
    from groundspeed.fleet.links.pairwise import matchings, rounds_needed

    if Path(nodes).is_file():
        written = read_text(Path(nodes), "list of nodes").split()
        names = [name for text in written for name in expand_names(text)]
    elif "/" in nodes:
        raise InputError(
            "there is no such file", where=f"--nodes {nodes}", remedy="n1,n2 or n[1-4]"
        )
    else:
        written = nodes.split(",")
        names = expand_names(nodes)
    if len(set(written)) != len(written):
        raise InputError(
            "a node is named more than once", where="--nodes", remedy="give each node once"
        )
    rounds = matchings(names, rounds_needed(len(names), slow_share), seed)
    if as_json:
        deliver(json.dumps({"rounds": rounds}, indent=1), output, force=force)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("round", "node", "partner"))
    for number, pairs in enumerate(rounds):
        writer.writerows((number, a, b) for a, b in pairs)
    deliver(text.getvalue(), output, force=force)
