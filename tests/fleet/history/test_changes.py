"""Comparing GPUs with their own past finds changes that the screening of one run cannot find."""

from pathlib import Path

import numpy as np
import pytest

from groundspeed.fleet.history.changes import History, read_history
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import FleetTable, clean_fleet
from groundspeed.fleet.trial.simulated_fleet import Fault, simulate_fleet
from groundspeed.profiles import InputError
from program import groundspeed

RUNS = 12


def past(
    seed: int, *, nodes: int = 8, since: int = RUNS, faults: tuple[Fault, ...] = ()
) -> list[tuple[str, str, FleetTable]]:
    """Return twelve monthly runs of one fleet, with the faults from run ``since`` on."""
    runs_so_far = []
    for run in range(RUNS):
        fleet = simulate_fleet(nodes, seed=seed, faults=faults if run >= since else (), run=run)
        date = f"2026-{run + 1:02d}-01T00:00:00Z"
        runs_so_far.append((f"r{run}", date, clean_fleet(fleet.table, "x")))
    return runs_so_far


def test_loss_too_small_for_a_screening_is_found_and_dated() -> None:
    """A good GPU loses 2 %: it is no outlier in its class, but slower than before."""
    runs = past(31, since=7, faults=(Fault(4, 2, 0.02),))
    history = read_history(runs)
    changes = {(c.node, c.gpu, c.metric): c for c in history.changes}
    change = changes["n00004", 2, "matmul_bf16"]
    assert change.since_utc == "2026-08-01T00:00:00Z"
    assert change.loss_fraction == pytest.approx(0.02, abs=0.006)
    assert change.after < change.before
    day = screen(runs[-1][2])
    assert not [f for f in day.findings if (f.node, f.gpu) == ("n00004", 2) and f.verdict == "FAIL"]


def test_noise_alone_gives_almost_no_change() -> None:
    """Twenty healthy fleets of 64 GPUs, with three metrics, are compared over one year each."""
    blamed = [c for seed in range(20) for c in read_history(past(seed + 100)).changes]
    assert len(blamed) <= 2  # of 3,840 GPU-metric pairs; one GPU in ten is noisy


def test_recovery_is_reported_as_a_negative_loss() -> None:
    whole = past(33)
    ill = past(33, since=0, faults=(Fault(1, 1, 0.04),))
    history = read_history([*ill[:6], *whole[6:]])
    (change,) = [c for c in history.changes if (c.node, c.metric) == ("n00001", "matmul_bf16")]
    assert change.loss_fraction < -0.02


def test_slowdown_of_a_whole_class_is_one_change_per_metric() -> None:
    runs = past(34)
    slower = [
        (name, date, FleetTable(t.rows.assign(value=t.rows["value"] * 0.93), t.units, ()))
        for name, date, t in runs[8:]
    ]
    history = read_history([*runs[:8], *slower])
    assert {c.level for c in history.changes} == {"class"}
    assert len(history.changes) == 3  # one for each metric
    assert all(c.since_utc == "2026-09-01T00:00:00Z" for c in history.changes)


def alone(
    runs: list[tuple[str, str, FleetTable]], after: int, loss: float
) -> list[tuple[str, str, FleetTable]]:
    """Split the runs from ``after`` on into one run per node, and slow n00003 down by ``loss``."""
    split = list(runs[:after])
    for name, date, t in runs[after:]:
        for node in t.rows["node"].cat.categories:
            mine = t.rows[t.rows["node"] == node]
            factor = 1.0 - loss if node == "n00003" else 1.0
            rows = mine.assign(value=mine["value"] * factor)
            split.append((f"{name}-{node}", date, FleetTable(rows, t.units, ())))
    return split


def test_slow_node_is_found_in_checks_of_single_nodes() -> None:
    """A check of one node has no other nodes to compare with, only the node's own past."""
    quiet = read_history(alone(past(41), 6, 0.0))
    assert quiet.changes == ()
    history = read_history(alone(past(41), 6, 0.1))
    assert {c.node for c in history.changes} == {"n00003"}
    assert {(c.gpu, c.gpus) for c in history.changes} == {(None, tuple(range(8)))}


def test_strikes_count_the_runs_in_which_a_gpu_failed() -> None:
    history = read_history(past(35, since=9, faults=(Fault(6, 3, 0.15),)))
    worst = history.strikes[0]
    assert (worst.node, worst.gpu, worst.strikes, worst.runs) == ("n00006", 3, 3, RUNS)
    assert worst.last_utc == "2026-12-01T00:00:00Z"


def test_order_of_the_runs_does_not_matter() -> None:
    runs = past(36, since=6, faults=(Fault(2, 2, 0.03),))
    shuffled = [runs[i] for i in np.random.default_rng(0).permutation(RUNS)]
    assert read_history(runs) == read_history(shuffled)


def test_history_without_runs_is_refused_and_two_runs_give_no_change() -> None:
    with pytest.raises(InputError, match="no run"):
        read_history([])
    assert read_history(past(37)[:2]).changes == ()


def test_on_the_command_line(tmp_path: Path) -> None:
    from groundspeed.fleet.history.store import Store

    store = Store(str(tmp_path / "s"))
    for run in range(6):
        faults = (Fault(3, 1, 0.08),) if run >= 4 else ()
        table = simulate_fleet(8, seed=38, faults=faults, run=run).table
        dated = table.assign(run=f"r{run}", date_utc=f"2026-0{run + 1}-01T00:00:00Z")
        for node, part in dated.groupby("node"):
            store.write_rows(f"r{run}", str(node), part)
    ran = groundspeed("fleet", "history", store.url)
    assert ran.code == 1
    assert "n00003 gpu 1" in ran.out and "2026-05-01" in ran.out
    ran = groundspeed("fleet", "history", store.url, "--node", "n00002", "--json")
    assert ran.code == 0
    history = History.model_validate_json(ran.out)
    assert (history.runs, history.changes) == (6, ())
