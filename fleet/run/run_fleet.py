"""Measure a fleet: choose the nodes, let a launcher run the node's program, keep what came back.

A run has a name. Started again under the same name it does only what is missing, lost nodes too;
without a name, a run that was killed is continued, or a new one is begun.
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
    """What to measure, and on which nodes."""

    work: Work
    """Its ``run`` is empty where the run is to be found or named."""
    nodes: tuple[str, ...] = ()
    """Every node of the launcher, if empty."""
    new: bool = False
    """Begin a new run although one is unfinished."""


def run_fleet(launcher: Launcher, request: RunRequest, on_event: OnEvent) -> RunRecord:
    """Run, or continue a run.

    Parameters
    ----------
    launcher : Launcher
    request : RunRequest
    on_event : callable
        Receives every event, also those of nodes that were done before.

    Returns
    -------
    RunRecord
        With the nodes that were lost, and why.

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
    """The run to continue, or a new one."""
    nodes = chosen_nodes(launcher, request.nodes)
    name = request.work.run
    for known in reversed(store.runs()):
        open_run = not known.finished and not request.new and AGAIN not in known.run
        same = known.run == name if name else open_run
        if not same or known.level != request.work.level:
            if known.run == name:
                raise InputError(
                    f"run '{name}' is of level {known.level}", remedy="give it another name"
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
    """The nodes to measure.

    Raises
    ------
    InputError
        If there are none, or one that is named is not there.
    """
    known = launcher.nodes()
    for node in wanted:
        if node not in known:
            raise InputError(
                f"{launcher.name} has no node '{node}' that could be measured now",
                where="--nodes",
                remedy=did_you_mean(node, list(known)),
            )
    if not known:
        raise InputError(f"{launcher.name} has no node that could be measured now")
    return tuple(dict.fromkeys(wanted)) or known
