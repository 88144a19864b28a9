"""A real Ray cluster on this machine: one worker per node, and a node that dies during the run."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from groundspeed.fleet.history.store import Store
from groundspeed.fleet.run.launcher import Event
from groundspeed.fleet.run.ray_cluster import RayLauncher
from groundspeed.fleet.run.run_fleet import RunRequest, run_fleet
from groundspeed.fleet.run.worker import Work
from groundspeed.profiles import InputError

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, list[Any]]]:
    """Start a head node without CPUs and four nodes with one CPU each; yield address and nodes."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [made.add_node(num_cpus=1, node_name=f"n{i}") for i in range(4)]
    made.wait_for_nodes()
    yield str(made.address), nodes
    ray.shutdown()
    made.shutdown()


def switch_off(node: Any) -> None:
    """Kill a node's raylet and all its child processes, as a power failure would."""
    ((info, *_),) = [node.all_processes["raylet"]]
    dying = [int(info.process.pid)]
    for pid in dying:  # the loop appends to this list: children of children
        listing = subprocess.run(
            ["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False
        )
        dying += [int(child) for child in listing.stdout.split()]
    for pid in dying:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_address_without_a_ray_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Ray cluster"):
        RayLauncher("127.0.0.1:1").nodes()


def test_unknown_ray_node_is_refused(cluster: tuple[str, list[Any]], tmp_path: Path) -> None:
    request = RunRequest(Work(str(tmp_path), "", device="cpu"), ("n9",))
    with pytest.raises(InputError, match="no node 'n9'"):
        run_fleet(RayLauncher(cluster[0]), request, lambda event: None)


def test_killed_node_is_reported_as_lost_and_a_spare_node_runs(
    cluster: tuple[str, list[Any]], tmp_path: Path
) -> None:
    """Of four nodes, three are requested; one dies and is reported, and the fourth replaces it."""
    store = Store(str(tmp_path / "store"))
    events: list[Event] = []

    def on_event(event: Event) -> None:
        """Kill n1 as soon as it has started, at any state of the other nodes."""
        events.append(event)
        if (event.node, event.kind) == ("n1", "started"):
            switch_off(cluster[1][1])

    launcher = RayLauncher(cluster[0])
    assert launcher.nodes() == ("n0", "n1", "n2", "n3")
    request = RunRequest(Work(store.url, "", device="cpu"), ("n0", "n1", "n2"))
    record = run_fleet(launcher, request, on_event)
    assert list(record.lost) == ["n1"]
    assert "died" in record.lost["n1"]
    done = set(store.nodes_done(record.run))
    assert {"n0", "n2", "n3"} <= done
    rows = store.rows((record.run,))
    assert rows.loc[rows["node"] == "n3", "value"].gt(0).all()
