"""Measure a fleet: choose the nodes, run the node's program through a launcher, record the run.

Each run has a name. If a run is started again under the same name, only the nodes without a result
are measured, including those that were lost. Without a name, a run that was killed is continued, or
a new run is begun.

    record = run_fleet(LocalLauncher(), RunRequest(Work("/shared/fleet", "run1")), print)
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace

from groundspeed.fleet.history.store import AGAIN, RunRecord, Store, check_run_name
from groundspeed.fleet.run.launcher import Event, Launcher, OnEvent
from groundspeed.fleet.run.worker import Work
from groundspeed.profiles.errors import InputError, did_you_mean


@dataclass(frozen=True)
class RunRequest:
    """Work to do in a run, and the nodes to measure."""

    work: Work
    """Work of one node. If its ``run`` is empty, an open run is found or a new name is made."""
    nodes: tuple[str, ...] = ()
    """Names of the nodes to measure. Empty: every node of the launcher."""
    new: bool = False
    """Begin a new run even if another one is unfinished."""


def run_fleet(launcher: Launcher, request: RunRequest, on_event: OnEvent) -> RunRecord:
    """Start a new run or continue an unfinished one.

    Parameters
    ----------
    launcher : Launcher
    request : RunRequest
    on_event : callable
        Function that receives every event, including those of nodes that were done before.

    Returns
    -------
    RunRecord
        Record of the run, including the nodes that were lost and why.

    Raises
    ------
    InputError
        If the launcher does not answer, a node is unknown, or the store cannot be written.
    """
    store = Store(request.work.store)
    record = find_run(store, launcher, request)
    store.write_run(record)
    done = set(store.nodes_done(record.run))
    for node in sorted(done):
        on_event(Event(node, "done"))
    lost: dict[str, str] = {}

    def remember(event: Event) -> None:
        if event.kind == "lost":
            lost[event.node] = event.reason
        elif event.kind == "done":
            lost.pop(event.node, None)
        on_event(event)

    missing = [n for n in record.nodes if n not in done]
    launcher.run(replace(request.work, run=record.run), missing, remember)
    nodes = tuple(dict.fromkeys((*record.nodes, *store.nodes_done(record.run))))
    finished_run = record.model_copy(update={"finished": True, "lost": lost, "nodes": nodes})
    store.write_run(finished_run)
    return finished_run


def find_run(store: Store, launcher: Launcher, request: RunRequest) -> RunRecord:
    """Return the record of the run to continue, or of a new run."""
    nodes = chosen_nodes(launcher, request.nodes)
    name = request.work.run
    for known in reversed(store.runs()):
        open_run = not known.finished and not request.new and AGAIN not in known.run
        same = known.run == name if name else open_run
        if not same or known.level != request.work.level:
            if known.run == name:
                raise InputError(
                    f"run '{name}' has level {known.level}", remedy="give the new run another name"
                )
            continue
        if not name and request.nodes and set(request.nodes) != set(known.nodes):
            continue
        more = (n for n in nodes if n not in known.nodes) if request.nodes else ()
        return known.model_copy(update={"nodes": (*known.nodes, *more), "finished": False})
    now = datetime.datetime.now(datetime.UTC)
    return RunRecord(
        run=check_run_name(name or now.strftime("%Y%m%dT%H%M%SZ")),
        date_utc=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        level=request.work.level,
        launcher=launcher.name,
        nodes=nodes,
    )


def chosen_nodes(launcher: Launcher, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the nodes to measure: the named ones, or else all nodes of the launcher.

    Raises
    ------
    InputError
        If the launcher has no node, or does not have a named one.
    """
    known = launcher.nodes()
    for node in wanted:
        if node not in known:
            raise InputError(
                f"{launcher.name} has no node '{node}' that can be measured now",
                where="--nodes",
                remedy=did_you_mean(node, list(known)),
            )
    if not known:
        raise InputError(f"{launcher.name} has no node that can be measured now")
    return tuple(dict.fromkeys(wanted)) or known
