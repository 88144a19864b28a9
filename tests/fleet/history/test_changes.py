"""Units against their own past: what a screening of one day cannot see."""

from pathlib import Path

import numpy as np
import pytest

from groundspeed.fleet.history.changes import History, read_history
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.screen.simulated_fleet import Fault, simulate_fleet
from groundspeed.fleet.table import FleetTable, clean_fleet
from groundspeed.profiles import InputError
from program import groundspeed

RUNS = 12


def past(
    seed: int, *, nodes: int = 8, since: int = RUNS, faults: tuple[Fault, ...] = ()
) -> list[tuple[str, str, FleetTable]]:
    """Twelve months of one fleet; faults begin with run ``since``."""
    runs_so_far = []
    for run in range(RUNS):
        fleet = simulate_fleet(nodes, seed=seed, faults=faults if run >= since else (), run=run)
        date = f"2026-{run + 1:02d}-01T00:00:00Z"
        runs_so_far.append((f"r{run}", date, clean_fleet(fleet.table, "x")))
    return runs_so_far


def test_a_loss_within_the_class_is_found_and_dated() -> None:
    """2 % down on a good GPU: never an outlier, but not what it was."""
    runs = past(31, since=7, faults=(Fault(4, 2, 0.02),))
    history = read_history(runs)
    changes = {(c.node, c.gpu, c.metric): c for c in history.changes}
    change = changes["n00004", 2, "matmul_bf16"]
    assert change.since_utc == "2026-08-01T00:00:00Z"
    assert change.loss_fraction == pytest.approx(0.02, abs=0.006)
    assert change.after < change.before
    day = screen(runs[-1][2])
    assert not [f for f in day.findings if (f.node, f.gpu) == ("n00004", 2) and f.verdict == "FAIL"]


def test_nothing_happened() -> None:
    """Noise alone changes nobody: twenty fleets of 64 GPUs and three metrics, a year each."""
    blamed = [c for seed in range(20) for c in read_history(past(seed + 100)).changes]
    assert len(blamed) <= 2  # of 3,840 units and metrics; one GPU in ten is restless


def test_recovery_is_told_and_is_no_loss() -> None:
    whole = past(33)
    ill = past(33, since=0, faults=(Fault(1, 1, 0.04),))
    history = read_history([*ill[:6], *whole[6:]])
    (change,) = [c for c in history.changes if (c.node, c.metric) == ("n00001", "matmul_bf16")]
    assert change.loss_fraction < -0.02


def test_a_class_that_fell_is_one_change() -> None:
    runs = past(34)
    slower = [
        (name, date, FleetTable(t.rows.assign(value=t.rows["value"] * 0.93), t.units, ()))
        for name, date, t in runs[8:]
    ]
    history = read_history([*runs[:8], *slower])
    assert {c.level for c in history.changes} == {"class"}
    assert len(history.changes) == 3  # one a metric
    assert all(c.since_utc == "2026-09-01T00:00:00Z" for c in history.changes)


def alone(
    runs: list[tuple[str, str, FleetTable]], after: int, loss: float
) -> list[tuple[str, str, FleetTable]]:
    """From a day on, every node checks itself; one of them is slower as a whole."""
    split = list(runs[:after])
    for name, date, t in runs[after:]:
        for node in t.rows["node"].cat.categories:
            mine = t.rows[t.rows["node"] == node]
            factor = 1.0 - loss if node == "n00003" else 1.0
            rows = mine.assign(value=mine["value"] * factor)
            split.append((f"{name}-{node}", date, FleetTable(rows, t.units, ())))
    return split


def test_checks_of_single_nodes_count_as_their_own_past() -> None:
    """A node that is slower as a whole has no class in a check of itself; nobody else changed."""
    quiet = read_history(alone(past(41), 6, 0.0))
    assert quiet.changes == ()
    history = read_history(alone(past(41), 6, 0.1))
    assert {c.node for c in history.changes} == {"n00003"}
    assert len({c.gpu for c in history.changes}) == 8


def test_strikes_are_counted() -> None:
    history = read_history(past(35, since=9, faults=(Fault(6, 3, 0.15),)))
    worst = history.strikes[0]
    assert (worst.node, worst.gpu, worst.strikes, worst.runs) == ("n00006", 3, 3, RUNS)
    assert worst.last_utc == "2026-12-01T00:00:00Z"


def test_order_does_not_matter() -> None:
    runs = past(36, since=6, faults=(Fault(2, 2, 0.03),))
    shuffled = [runs[i] for i in np.random.default_rng(0).permutation(RUNS)]
    assert read_history(runs) == read_history(shuffled)


def test_no_past() -> None:
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
