"""A real Slurm cluster on this machine: array jobs, lost nodes, and draining of slow nodes."""

import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundspeed.fleet.health.baseline import Baseline, Usual
from groundspeed.fleet.history.store import Store
from groundspeed.fleet.run.launcher import Event
from groundspeed.fleet.run.run_fleet import RunRequest, run_fleet
from groundspeed.fleet.run.slurm import SlurmLauncher
from groundspeed.fleet.run.worker import PROGRAM, Work, work_here
from groundspeed.fleet.table import clean_fleet
from groundspeed.profiles import InputError
from program import PATIENCE_S, environment, running
from slurm_cluster import NODES, SlurmCluster, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Start one cluster for all tests; n2 and n3 run health checks once a baseline exists."""
    folder = tmp_path_factory.mktemp("slurm")
    program = shlex.join([*PROGRAM, "fleet", "healthcheck", "--device", "cpu", "--drain"])
    script = folder / "check.sh"
    script.write_text(
        "#!/bin/sh\n"
        f'[ "$SLURMD_NODENAME" = n1 ] || [ ! -e {folder}/baseline.json ] && exit 0\n'
        f"export SLURM_CONF={folder}/slurm.conf PYTHONPATH={environment()['PYTHONPATH']}\n"
        f"exec {program} --baseline {folder}/baseline.json >> {folder}/check.log 2>&1\n"
    )
    script.chmod(0o755)
    checks = "HealthCheckInterval=5\nHealthCheckNodeState=IDLE"
    made = SlurmCluster(folder, extra=f"HealthCheckProgram={script}\n{checks}")
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def slurm(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """Let commands of this process reach the cluster; make all its nodes idle after each test."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])  # jobs run this checkout
    yield cluster
    cluster.run("scancel", "--user=root", check=False)
    cluster.wait_for(lambda: cluster.run("squeue", "--noheader") == "", "an empty queue")
    for node in NODES:
        if cluster.state(node) != "idle":
            cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
            cluster.wait_for(lambda node=node: cluster.state(node) == "idle", node)  # type: ignore[misc]


def kinds(events: list[Event], node: str) -> list[str]:
    return [e.kind for e in events if e.node == node]


def test_run_on_three_nodes_reports_a_lost_node_and_a_rerun_measures_it(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node is lost because its job is killed; the restarted run measures only this node."""
    # The store is on a local disk, so no grace time for a slow network file system is needed.
    monkeypatch.setattr("groundspeed.fleet.run.slurm.GRACE_S", 2.0)
    store = Store(str(tmp_path / "store"))
    launcher = SlurmLauncher()
    assert launcher.nodes() == NODES
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if event.kind == "started" and event.node == "n3":
            jobs = slurm.run("squeue", "--noheader", "--nodelist=n3", "--format=%i")
            slurm.run("scancel", "--signal=KILL", jobs.strip())

    work = Work(store.url, "", device="cpu")
    record = run_fleet(launcher, RunRequest(work), on_event)
    assert list(record.lost) == ["n3"]
    assert record.lost["n3"]
    assert store.nodes_done(record.run) == ["n1", "n2"]
    assert kinds(events, "n1") == kinds(events, "n2") == ["started", "done"]

    events.clear()
    again = run_fleet(
        launcher, RunRequest(Work(store.url, record.run, device="cpu")), events.append
    )
    assert again.lost == {}
    assert kinds(events, "n1") == kinds(events, "n2") == ["done"]
    assert kinds(events, "n3") == ["started", "done"]
    rows = store.rows((record.run,))
    assert set(rows["node"]) == set(NODES)
    assert rows["value"].gt(0).all()


def test_drained_node_is_left_out_and_refused_by_name(slurm: SlurmCluster, tmp_path: Path) -> None:
    slurm.run("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=disk")
    slurm.wait_for(lambda: slurm.state("n2") == "drain", "n2")
    launcher = SlurmLauncher()
    assert launcher.nodes() == ("n1", "n3")
    with pytest.raises(InputError, match="no node 'n2'"):
        run_fleet(launcher, RunRequest(Work(str(tmp_path), ""), ("n2",)), lambda event: None)


def test_rejected_sbatch_options_are_reported_and_leave_no_job(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    launcher = SlurmLauncher(("--account=nobody", "--constraint=nothing"))
    with pytest.raises(InputError, match="sbatch failed"):
        run_fleet(launcher, RunRequest(Work(str(tmp_path), ""), ("n1",)), lambda event: None)
    assert slurm.run("squeue", "--noheader") == ""


def test_missing_slurm_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sinfo is not installed here"):
        SlurmLauncher().nodes()


def test_interrupted_run_leaves_no_job_and_an_unfinished_record(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    """The run command is interrupted; its jobs end, and the record lets a new start continue."""
    url = str(tmp_path / "store")
    command = [*PROGRAM, "fleet", "run", "--launcher", "slurm", "--store", url]
    with running([*command, "--device", "cpu"], output=subprocess.DEVNULL) as process:
        slurm.wait_for(lambda: "R" in slurm.run("squeue", "--noheader", "--format=%t"), "jobs")
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) != 0
    slurm.wait_for(lambda: slurm.run("squeue", "--noheader") == "", "an empty queue")
    (record,) = Store(url).runs()
    assert not record.finished


def test_slow_node_is_drained_by_its_check_and_resumed_when_healthy(slurm: SlurmCluster) -> None:
    """Slurm runs the health check, which drains the slow node n2 and later resumes only n2."""
    slurm.run("scontrol", "update", "NodeName=n3", "State=DRAIN", "Reason=disk")
    write_baseline(slurm, times=100.0)
    slurm.wait_for(lambda: slurm.state("n2") == "drain", "n2 drained")
    assert slurm.reason("n2").startswith("groundspeed: ")
    assert "slow" in slurm.reason("n2")
    assert SlurmLauncher().nodes() == ("n1",)
    write_baseline(slurm, times=0.001)
    slurm.wait_for(lambda: slurm.state("n2") == "idle", "n2 resumed")
    assert slurm.state("n3") == "drain"
    assert slurm.reason("n3") == "disk"


def write_baseline(slurm: SlurmCluster, times: float) -> None:
    """Write the baseline that n2 must reach: ``times`` the rate of a usual CPU (1e10)."""
    kind = read_kind(slurm)
    usual = [
        Usual(cohort=kind, metric=m, median=1e10 * times, spread=0.05, units=8)
        for m in ("memory_triad", "memory_read", "matmul_float32")
    ]
    text = Baseline(source="a test", date_utc="2026-01-01T00:00:00Z", usual=tuple(usual))
    path = slurm.folder / "baseline.new"
    path.write_text(text.model_dump_json())
    path.rename(slurm.folder / "baseline.json")


def read_kind(slurm: SlurmCluster) -> str:
    """Return the cohort of this machine, as a check records it."""
    store = Store(str(slurm.folder / "store"))
    if not store.exists():
        work_here(Work(store.url, "first", device="cpu"), "n2")
    return str(clean_fleet(store.rows(("first",)), "").rows["cohort"].iloc[0])
