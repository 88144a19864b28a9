"""Find nodes, GPUs and results that earlier runs had and the newest one has not.

A node that died is in no table, so nothing in it looks slow. Its own past says that it is missing.
Runs of single nodes (health checks) have few nodes on purpose: only a newest run with at least half
of the known nodes is compared.
"""

from collections.abc import Sequence

from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.table import NODE_LEVEL, FleetTable
from groundspeed.profiles.record import Record

USUAL = 0.5
"""[1] Share of earlier runs in which a result is usual, and of the nodes that a run must have."""


class Gone(Record):
    """A node, a GPU or one of its results that is missing in the newest run."""

    node: str
    gpu: int | str | None
    metric: str | None
    """The missing metric; None if nothing of the unit was measured."""
    last_utc: str
    """Date of the last run that had it."""


Result = tuple[str, int, str]


def gone_units(runs: Sequence[tuple[str, str, FleetTable]]) -> tuple[Gone, ...]:
    """Return what the newest run lacks, in the order of names.

    Parameters
    ----------
    runs : sequence of (name, date, FleetTable)
        Runs in the order of time.
    """
    if len(runs) < 2:
        return ()
    have = [_results(table) for _, _, table in runs]
    nodes = [{node for node, _, _ in results} for results in have]
    known = set.union(*nodes)
    whole = [i for i in range(len(runs)) if len(nodes[i]) >= USUAL * len(known)]
    if len(runs) - 1 not in whole or len(whole) < 2:
        return ()
    counts: dict[Result, list[int]] = {}
    for i in whole[:-1]:
        for result in have[i]:
            counts.setdefault(result, []).append(i)
    usual = {r: seen for r, seen in counts.items() if len(seen) >= USUAL * (len(whole) - 1)}
    newest = have[-1]
    lost = {r: seen[-1] for r, seen in usual.items() if r not in newest}
    units = {(node, gpu) for node, gpu, _ in newest}
    names = {slot: name for _, _, table in runs for slot, name in table.names.items()}
    found: dict[tuple[str, int | None, str | None], int] = {}
    for (node, gpu, metric), last in lost.items():
        if node not in nodes[-1]:
            key: tuple[str, int | None, str | None] = (node, None, None)
        elif (node, gpu) not in units:
            key = (node, gpu, None)
        else:
            key = (node, gpu, metric)
        found[key] = max(last, found.get(key, 0))
    return tuple(
        Gone(
            node=node,
            gpu=None if gpu in (None, NODE_LEVEL) else names.get(gpu, gpu),
            metric=metric,
            last_utc=runs[last][1],
        )
        for (node, gpu, metric), last in sorted(found.items(), key=lambda item: str(item[0]))
        if gpu is None or gpu >= NODE_LEVEL
    )


def _results(table: FleetTable) -> set[Result]:
    rows = table.rows[table.rows["value"].notna()]
    kept = [m for m in rows["metric"].cat.categories if facts_of(str(m)).kind not in UNJUDGED]
    rows = rows[rows["metric"].isin(kept)]
    return {
        (str(node), int(gpu), str(metric))
        for node, gpu, metric in zip(rows["node"], rows["gpu"], rows["metric"], strict=True)
    }
