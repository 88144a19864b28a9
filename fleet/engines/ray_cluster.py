"""Ray: a placement group that spreads one worker over each node.

Bundles that must lie on different nodes keep each node to itself. When a node dies, Ray moves its
bundle to a node that has none, if there is one, and the work is done there; the node that died is
reported either way.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from groundspeed.fleet.engines.engine import Event, Tell
from groundspeed.fleet.worker import Work
from groundspeed.profiles.errors import InputError

PLACEMENT_TIMEOUT_S = 60.0
POLL_S = 1.0
MOVE_TIMEOUT_S = 30.0
"""How long a bundle of a dead node may look for another."""


@dataclass(frozen=True)
class _Node:
    id: str
    name: str
    gpus: float


@dataclass
class RayEngine:
    """Runs on a Ray cluster.

    Parameters
    ----------
    address : str
        Of the cluster; ``auto`` finds the one this machine is part of.
    """

    address: str = "auto"
    name: str = field(default="ray", init=False)

    def nodes(self) -> tuple[str, ...]:
        """Every node that is alive and has a processor to offer."""
        return tuple(n.name for n in self._alive())

    def run(self, work: Work, nodes: Sequence[str], tell: Tell) -> None:
        """Place one worker a node and follow them."""
        if nodes:
            _Placed(self._alive(), list(nodes), work, tell).run()

    def _alive(self) -> list[_Node]:
        ray = _connected(self.address)
        return alive_nodes(ray)


def alive_nodes(ray: Any) -> list[_Node]:  # noqa: ANN401  (ray is imported where it is used)
    """Nodes of the cluster, by the shortest name that tells them apart."""
    found = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0.0) >= 1.0]
    for key in ("NodeManagerHostname", "NodeName", "NodeID"):
        names = [str(n[key]) for n in found]
        if len(set(names)) == len(names):
            break
    nodes = [
        _Node(str(n["NodeID"]), name, float(n["Resources"].get("GPU", 0.0)))
        for n, name in zip(found, names, strict=True)
    ]
    return sorted(nodes, key=lambda n: n.name)


class _Placed:
    """One run on a placement group."""

    def __init__(self, alive: list[_Node], wanted: list[str], work: Work, tell: Tell) -> None:
        import ray

        self.ray: Any = ray
        self.work, self.tell = work, tell
        self.names = {n.id: n.name for n in alive}
        by_name = {n.name: n for n in alive}
        self.wanted = [by_name[n] for n in wanted if n in by_name]
        for name in wanted:
            if name not in by_name:
                tell(Event(name, "lost", "Ray does not know it"))
        self.done: set[str] = set()
        self.lost: set[str] = set()

    def run(self) -> None:
        from ray.util import placement_group, remove_placement_group

        if not self.wanted:
            return
        bundles = [{"CPU": 1.0, **({"GPU": n.gpus} if n.gpus else {})} for n in self.wanted]
        group = placement_group(bundles, strategy="STRICT_SPREAD", name="groundspeed")
        try:
            if not group.wait(PLACEMENT_TIMEOUT_S):
                raise InputError(
                    f"Ray found no room for one worker on each of {len(bundles)} nodes",
                    remedy="the cluster is busy: wait, or measure fewer nodes with --nodes",
                )
            self._follow(group)
        finally:
            remove_placement_group(group)

    def _follow(self, group: Any) -> None:  # noqa: ANN401
        task = self.ray.remote(num_cpus=1, max_retries=0)(_on_node)
        running: dict[Any, tuple[int, str]] = {}

        def start(bundle: int) -> None:
            node = self._node_of(group, bundle)
            strategy = self.ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=bundle
            )
            gpus = self.wanted[bundle].gpus
            reference = task.options(scheduling_strategy=strategy, num_gpus=gpus).remote(
                self.work, self.names
            )
            running[reference] = (bundle, node)
            if node:
                self.tell(Event(node, "started"))

        for bundle in range(len(self.wanted)):
            start(bundle)
        while running:
            ready, _ = self.ray.wait(list(running), num_returns=1, timeout=POLL_S)
            for reference in ready:
                bundle, node = running.pop(reference)
                try:
                    node, why = self.ray.get(reference)
                except self.ray.exceptions.RayError as error:
                    self._lose(node, f"the node died ({type(error).__name__})")
                    if self._spare() and self._moved(group, bundle, node):
                        start(bundle)
                    continue
                if why:
                    self._lose(node, why)
                else:
                    self.done.add(node)
                    self.tell(Event(node, "done"))

    def _lose(self, node: str, why: str) -> None:
        self.lost.add(node)
        self.tell(Event(node, "lost", why))

    def _spare(self) -> bool:
        """Whether a node is alive that nobody measures."""
        taken = self.done | self.lost | {n.name for n in self.wanted}
        return any(self.names.get(n.id, n.name) not in taken for n in alive_nodes(self.ray))

    def _moved(self, group: Any, bundle: int, old: str) -> bool:  # noqa: ANN401
        """Wait until Ray has found another node for a bundle."""
        deadline = time.monotonic() + MOVE_TIMEOUT_S
        while time.monotonic() < deadline:
            now = self._node_of(group, bundle)
            if now and now != old:
                return True
            time.sleep(POLL_S / 2)
        return False

    def _node_of(self, group: Any, bundle: int) -> str:  # noqa: ANN401
        table = self.ray.util.placement_group_table(group)
        return self.names.get(str(table["bundles_to_node_id"].get(bundle, "")), "")


def _on_node(work: Work, names: dict[str, str]) -> tuple[str, str]:
    """Run the node's program where Ray has put us; the node's name, and why it failed if it did."""
    import ray

    node_id = str(ray.get_runtime_context().get_node_id())
    node = names.get(node_id, node_id)  # one that joined after the run had begun
    told = subprocess.run(
        [sys.executable, *work.command(node)], capture_output=True, text=True, check=False
    )
    if told.returncode == 0:
        return node, ""
    said = told.stderr.strip().splitlines() or [f"it ended with {told.returncode}"]
    return node, said[-1].removeprefix("groundspeed: ")


def _connected(address: str) -> Any:  # noqa: ANN401
    try:
        import ray
    except ImportError as error:
        raise InputError("ray is not installed", remedy="pip install 'groundspeed[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"no Ray cluster at '{address}' ({reason})",
                remedy="start one with: ray start --head, or name it with --address",
            ) from error
    return ray
