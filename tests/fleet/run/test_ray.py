"""A real Ray cluster on this machine: one worker a node, and a node that dies in the middle."""

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
    """The address of a head that offers no processor, and four nodes with one each."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [made.add_node(num_cpus=1, node_name=f"n{i}") for i in range(4)]
    made.wait_for_nodes()
    yield str(made.address), nodes
    ray.shutdown()
    made.shutdown()


def switch_off(node: Any) -> None:
    """Kill a node's raylet and everything it has started, as a power failure would."""
    ((info, *_),) = [node.all_processes["raylet"]]
    dying = [int(info.process.pid)]
    for pid in dying:  # grows while it is walked: children of children
        listing = subprocess.run(
            ["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False
        )
        dying += [int(child) for child in listing.stdout.split()]
    for pid in dying:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Ray cluster"):
        RayLauncher("127.0.0.1:1").nodes()


def test_a_node_that_ray_does_not_know(cluster: tuple[str, list[Any]], tmp_path: Path) -> None:
    request = RunRequest(Work(str(tmp_path), "", device="cpu"), ("n9",))
    with pytest.raises(InputError, match="no node 'n9'"):
        run_fleet(RayLauncher(cluster[0]), request, lambda event: None)


def test_a_raylet_is_killed_in_the_middle(cluster: tuple[str, list[Any]], tmp_path: Path) -> None:
    """Three of four nodes are asked for; the one that dies is reported, the spare does its work."""
    store = Store(str(tmp_path / "store"))
    events: list[Event] = []

    def on_event(event: Event) -> None:
        """Switch n1 off as soon as it has begun, whatever the others do by then."""
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
