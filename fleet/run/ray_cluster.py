"""Ray launcher: one placement group per node, with one worker in it that has all GPUs of the node.

The placement group keeps other work off the node while it is measured. Ray's own node label pins
the group to its node, so that the suspect is measured and not its neighbour. If a node dies, its
work moves to a node that has not been measured, if there is one; the dead node is always reported.
"""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from groundspeed.fleet.run.launcher import Event, OnEvent
from groundspeed.fleet.run.worker import Work
from groundspeed.profiles.errors import InputError

PLACEMENT_TIMEOUT_S = 60.0
"""[s] Time limit for Ray to place a worker; a node that takes longer counts as busy."""
NOTICE_TIMEOUT_S = 30.0
"""[s] Time that Ray may need to notice a dead node: a few periods of its health check."""
POLL_S = 1.0
"""[s] Interval at which a run checks whether a node has finished."""


@dataclass(frozen=True)
class _Node:
    id: str
    name: str
    gpus: float


@dataclass
class RayLauncher:
    """Launcher that measures nodes of a Ray cluster.

    Parameters
    ----------
    address : str
        Address of the cluster. Default: ``auto``, the cluster that this machine is part of.
    """

    address: str = "auto"
    name: str = field(default="ray", init=False)

    def nodes(self) -> tuple[str, ...]:
        """Return the names of all nodes that are alive and offer at least one CPU."""
        return tuple(n.name for n in self._alive())

    def run(self, work: Work, nodes: Sequence[str], on_event: OnEvent) -> None:
        """Place one worker on each node and report events until all nodes have finished."""
        if nodes:
            _Placement(self._alive(), list(nodes), work, on_event).run()

    def _alive(self) -> list[_Node]:
        ray = _connected(self.address)
        return alive_nodes(ray)


def alive_nodes(ray: Any) -> list[_Node]:  # noqa: ANN401  (ray is imported where it is used)
    """Return the live nodes of the cluster, under the shortest names that distinguish them."""
    alive = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0.0) >= 1.0]
    for key in ("NodeManagerHostname", "NodeName", "NodeID"):
        names = [str(n[key]) for n in alive]
        if len(set(names)) == len(names):
            break
    nodes = [
        _Node(str(n["NodeID"]), name, float(n["Resources"].get("GPU", 0.0)))
        for n, name in zip(alive, names, strict=True)
    ]
    return sorted(nodes, key=lambda n: n.name)


@dataclass
class _Attempt:
    """A node, its own placement group, and the task that runs in the group."""

    node: _Node
    group: Any
    task: Any = None
    placed_by: float = field(default_factory=lambda: time.monotonic() + PLACEMENT_TIMEOUT_S)
    """[s] Deadline on the monotonic clock, after which the node counts as busy."""
    broke: str = ""
    """Name of the error that ended the task; empty if none did."""
    noticed_by: float = 0.0
    """[s] Deadline on the monotonic clock; a node that Ray still lists after it is really alive."""


class _Placement:
    """One run: one placement group per node, released as soon as that node has finished."""

    def __init__(
        self, alive: list[_Node], wanted: list[str], work: Work, on_event: OnEvent
    ) -> None:
        import ray

        self.ray: Any = ray
        self.work, self.on_event = work, on_event
        by_name = {n.name: n for n in alive}
        for name in wanted:
            if name not in by_name:
                on_event(Event(name, "lost", "Ray has no node of this name"))
        self.attempts = [self._attempt(by_name[n]) for n in wanted if n in by_name]
        self.tried = {a.node.id for a in self.attempts}

    def run(self) -> None:
        try:
            while self.attempts:
                for attempt in [a for a in self.attempts if a.task is None]:
                    (self._find_cause_of_loss if attempt.broke else self._start)(attempt)
                tasks = {a.task: a for a in self.attempts if a.task is not None}
                if not tasks:
                    time.sleep(POLL_S / 10)
                    continue
                ready, _ = self.ray.wait(list(tasks), num_returns=1, timeout=POLL_S)
                for task in ready:
                    self._finish(tasks[task])
                if not ready:
                    self._give_up_dead_nodes()
        finally:
            for attempt in list(self.attempts):
                self._release(attempt)

    def _attempt(self, node: _Node) -> _Attempt:
        bundle = {"CPU": 1.0, **({"GPU": node.gpus} if node.gpus else {})}
        group = self.ray.util.placement_group(
            [bundle],
            strategy="STRICT_PACK",
            bundle_label_selector=[{"ray.io/node-id": node.id}],
        )
        return _Attempt(node, group)

    def _start(self, attempt: _Attempt) -> None:
        if attempt.group.wait(POLL_S / 10):
            strategy = self.ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
                placement_group=attempt.group
            )
            on_node = self.ray.remote(num_cpus=1, num_gpus=attempt.node.gpus, max_retries=0)(
                _on_node
            )
            attempt.task = on_node.options(scheduling_strategy=strategy).remote(
                self.work, attempt.node.name
            )
            self.on_event(Event(attempt.node.name, "started"))
        elif time.monotonic() > attempt.placed_by:
            self._mark_lost(attempt, f"Ray placed no worker on it in {PLACEMENT_TIMEOUT_S:.0f} s")

    def _finish(self, attempt: _Attempt) -> None:
        try:
            reason = self.ray.get(attempt.task)
        except self.ray.exceptions.RayError as error:
            attempt.task = None
            attempt.broke = type(error).__name__
            attempt.noticed_by = time.monotonic() + NOTICE_TIMEOUT_S
            return
        if reason:
            self._mark_lost(attempt, reason)
            return
        self._release(attempt)
        self.on_event(Event(attempt.node.name, "done"))

    def _mark_lost(self, attempt: _Attempt, reason: str) -> None:
        self._release(attempt)
        self.on_event(Event(attempt.node.name, "lost", reason))

    def _find_cause_of_loss(self, attempt: _Attempt) -> None:
        """Report whether the node or only the worker died; Ray notices a dead node with a delay."""
        alive = alive_nodes(self.ray)
        if all(n.id != attempt.node.id for n in alive):
            self._mark_lost(attempt, f"the node died ({attempt.broke})")
            self._pick_spare_node(alive)
        elif time.monotonic() > attempt.noticed_by:
            self._mark_lost(attempt, f"the worker on it died ({attempt.broke})")

    def _give_up_dead_nodes(self) -> None:
        """Report nodes that Ray no longer lists.

        A task that had not started when its node died never fails: Ray keeps it pending until the
        node comes back, which a placement group pinned to that node waits for without end.
        """
        alive = alive_nodes(self.ray)
        ids = {node.id for node in alive}
        for attempt in [a for a in self.attempts if a.task is not None and a.node.id not in ids]:
            self._mark_lost(attempt, "the node died before its worker ended")
            self._pick_spare_node(alive)

    def _pick_spare_node(self, alive: list[_Node]) -> None:
        """Move the work of a dead node to a live node that has not been measured, if any."""
        for node in alive:
            if node.id not in self.tried:
                self.tried.add(node.id)
                self.attempts.append(self._attempt(node))
                return

    def _release(self, attempt: _Attempt) -> None:
        self.attempts.remove(attempt)
        self.ray.util.remove_placement_group(attempt.group)


def _on_node(work: Work, node: str) -> str:
    """Run the node's program on this node; return why it failed, or an empty string."""
    finished = subprocess.run(
        [sys.executable, *work.command(node)], capture_output=True, text=True, check=False
    )
    if finished.returncode == 0:
        return ""
    said = finished.stderr.strip().splitlines() or [f"it exited with code {finished.returncode}"]
    return said[-1].removeprefix("groundspeed: ")


def _connected(address: str) -> Any:  # noqa: ANN401
    try:
        import ray
    except ImportError as error:
        raise InputError("ray is not installed", remedy="pip install 'groundspeed[ray]'") from error
    if not ray.is_initialized():
        host, _, port = address.rpartition(":")
        try:
            if port.isdigit():  # fail early: Ray itself retries for minutes
                socket.create_connection((host, int(port)), timeout=5.0).close()
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"no Ray cluster at '{address}' ({reason})",
                remedy="start one with: ray start --head, or give its address with --address",
            ) from error
    return ray
