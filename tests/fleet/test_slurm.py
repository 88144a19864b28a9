"""A real Slurm on this machine: an array over three nodes, and what happens to a lost one."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundspeed.fleet.engines.engine import Event
from groundspeed.fleet.engines.slurm import SlurmEngine
from groundspeed.fleet.run import Asked, run_fleet
from groundspeed.fleet.store import Store
from groundspeed.fleet.worker import PROGRAM, Work
from groundspeed.profiles import InputError
from slurm_cluster import NODES, SlurmCluster, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    made = SlurmCluster(tmp_path / "slurm")
    try:
        made.start()
        for name in ("PATH", "SLURM_CONF"):
            monkeypatch.setenv(name, made.environment[name])
        yield made
    finally:
        made.stop()


def kinds(events: list[Event], node: str) -> list[str]:
    return [e.kind for e in events if e.node == node]


def test_an_array_over_three_nodes(slurm: SlurmCluster, tmp_path: Path) -> None:
    """One is lost when its job is cancelled; the run, started again, measures that one alone."""
    store = Store(str(tmp_path / "store"))
    engine = SlurmEngine()
    assert engine.nodes() == NODES
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if event.kind == "started" and event.node == "n3":
            jobs = slurm.run("squeue", "--noheader", "--nodelist=n3", "--format=%i")
            slurm.run("scancel", "--signal=KILL", jobs.strip())

    work = Work(store.url, "", device="cpu")
    record = run_fleet(engine, Asked(work), tell)
    assert list(record.lost) == ["n3"]
    assert record.lost["n3"]
    assert store.nodes_done(record.run) == ["n1", "n2"]
    assert kinds(events, "n1") == kinds(events, "n2") == ["started", "done"]

    events.clear()
    again = run_fleet(engine, Asked(Work(store.url, record.run, device="cpu")), events.append)
    assert again.lost == {}
    assert kinds(events, "n1") == kinds(events, "n2") == ["done"]
    assert kinds(events, "n3") == ["started", "done"]
    rows = store.rows((record.run,))
    assert set(rows["node"]) == set(NODES)
    assert rows["value"].gt(0).all()


def test_a_drained_node_is_not_asked(slurm: SlurmCluster, tmp_path: Path) -> None:
    slurm.run("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=disk")
    slurm.wait_for(lambda: slurm.state("n2") == "drain", "n2")
    engine = SlurmEngine()
    assert engine.nodes() == ("n1", "n3")
    with pytest.raises(InputError, match="no node 'n2'"):
        run_fleet(engine, Asked(Work(str(tmp_path), ""), ("n2",)), lambda event: None)


def test_a_partition_that_is_not_there(slurm: SlurmCluster, tmp_path: Path) -> None:
    engine = SlurmEngine(("--account=nobody", "--constraint=nothing"))
    with pytest.raises(InputError, match="sbatch failed"):
        run_fleet(engine, Asked(Work(str(tmp_path), ""), ("n1",)), lambda event: None)
    assert slurm.run("squeue", "--noheader") == ""


def test_no_slurm_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sinfo is not on this machine"):
        SlurmEngine().nodes()


def test_a_killed_run_leaves_no_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    """The one that asked is killed: what it had begun goes on or ends, and a new start finds it."""
    url = str(tmp_path / "store")
    command = [*PROGRAM, "fleet", "run", "--engine", "slurm", "--store", url]
    process = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env=os.environ)  # fmt: skip
    slurm.wait_for(lambda: "R" in slurm.run("squeue", "--noheader", "--format=%t"), "jobs")
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(60.0) != 0
    slurm.wait_for(lambda: slurm.run("squeue", "--noheader") == "", "an empty queue")
    (record,) = Store(url).runs()
    assert not record.finished
