"""Confirmation by re-runs: faults become confirmed (FAIL), FLAKY or INCONCLUSIVE."""

from pathlib import Path

import numpy as np
import pandas as pd

from findings import judged, named
from groundspeed.fleet.screen.confirm import (
    confirm,
    control,
    measured_units,
    replace_rows,
    suspects,
)
from groundspeed.fleet.screen.request import ScreenRequest, screen_sources
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import clean_fleet
from groundspeed.fleet.trial.simulated_fleet import Fault, simulate_fleet


def test_no_healthy_gpu_is_flagged_after_confirmation() -> None:
    for seed in range(6):
        runs = [simulate_fleet(64, seed=seed, run=r) for r in range(3)]
        tables = [clean_fleet(r.table, "simulated") for r in runs]
        screenings = [screen(table) for table in tables]
        after = confirm(screenings[0], screenings[1:], [measured_units(t) for t in tables[1:]])
        blamed = {u for u in named(after) if u[1] is not None}
        truth = runs[0].truth
        share = 1.0 - truth["value"] / truth.groupby("metric")["value"].transform("median")
        for node, gpu in blamed:
            mine = (truth["node"] == node) & (truth["gpu"] == gpu)
            assert share[mine].max() >= 0.02


def test_fault_that_is_gone_in_the_rerun_becomes_flaky() -> None:
    fleet = simulate_fleet(16, seed=6, faults=(Fault(4, 4, 0.08),))
    table = clean_fleet(fleet.table, "first")
    screening = screen(table)
    assert ("n00004", 4) in suspects(screening)
    best = control(table, screening)
    assert best is not None and best not in suspects(screening)
    again = simulate_fleet(16, seed=6, run=1).table  # repaired
    part = again[(again["node"] == "n00004") & (again["gpu"] == 4)]
    merged = replace_rows(table, clean_fleet(part, "again"))
    after = confirm(screening, [screen(merged)], [measured_units(clean_fleet(part, "again"))])
    assert ("n00004", 4) not in named(after)
    assert any(f.verdict == "FLAKY" for f in after.findings)


def test_suspect_that_was_not_measured_again_becomes_inconclusive() -> None:
    runs = [simulate_fleet(16, seed=6, faults=(Fault(4, 4, 0.08),), run=r).table for r in (0, 1)]
    table = clean_fleet(runs[0], "first")
    screening = screen(table)
    mine = (runs[1]["node"] == "n00004") & (runs[1]["gpu"] == 4)
    other = clean_fleet(runs[1][runs[1]["node"] == "n00001"], "x")
    crashed = clean_fleet(runs[1][mine].assign(value=np.nan), "x")
    fresh = clean_fleet(runs[1][mine], "x")
    for again, verdict in ((other, "INCONCLUSIVE"), (crashed, "INCONCLUSIVE"), (fresh, "FAIL")):
        after = confirm(screening, [screen(replace_rows(table, again))], [measured_units(again)])
        (finding,) = [f for f in after.findings if (f.node, f.gpu) == ("n00004", 4)]
        assert finding.verdict == verdict


def test_rerun_with_a_slow_control_gpu_is_inconclusive() -> None:
    runs = [simulate_fleet(16, seed=6, faults=(Fault(4, 4, 0.08),), run=r).table for r in (0, 1)]
    table = clean_fleet(runs[0], "first")
    screening = screen(table)
    best = control(table, screening)
    assert best is not None
    mine = (runs[1]["node"] == "n00004") & (runs[1]["gpu"] == 4)
    beside = (runs[1]["node"] == best[0]) & (runs[1]["gpu"] == best[1])
    for factor, verdict in ((1.0, "FAIL"), (0.8, "INCONCLUSIVE")):
        rows = runs[1].assign(value=runs[1]["value"].where(~beside, runs[1]["value"] * factor))
        again = clean_fleet(rows[mine | beside], "again")
        after = confirm(
            screening, [screen(replace_rows(table, again))], [measured_units(again)], best
        )
        (finding,) = [f for f in after.findings if (f.node, f.gpu) == ("n00004", 4)]
        assert finding.verdict == verdict


def test_node_fault_is_confirmed_by_a_rerun_with_three_slow_gpus() -> None:
    def run(gpus: int, number: int) -> pd.DataFrame:
        faults = tuple(Fault(4, g, 0.1) for g in range(gpus))
        return simulate_fleet(16, seed=6, faults=faults, run=number).table

    table = clean_fleet(run(4, 0), "first")
    screening = screen(table)
    (whole,) = [f for f in screening.findings if f.node == "n00004"]
    assert whole.level == "node"
    rows = run(3, 1)
    again = clean_fleet(rows[rows["node"] == "n00004"], "again")
    after = confirm(screening, [screen(replace_rows(table, again))], [measured_units(again)])
    assert [f.verdict for f in after.findings if f.node == "n00004"] == ["FAIL"]


def test_rerun_uses_the_direction_given_for_the_first_run(tmp_path: Path) -> None:
    """The re-run is judged with the same ``lower_is_better`` and the same reference."""
    runs = []
    for number in (0, 1):
        table = simulate_fleet(8, seed=8, run=number).table
        part = table[table["metric"] == "hbm_copy"].assign(metric="quux", unit="")
        slow = (part["node"] == "n00003") & (part["gpu"] == 3)
        part["value"] = part["value"].where(~slow, part["value"] * 1.4)
        runs.append(tmp_path / f"{number}.csv")
        part.to_csv(runs[-1], index=False)
    request = ScreenRequest([str(runs[0])], lower_is_better=["quux"], again=[str(runs[1])])
    _, screening = screen_sources(request)
    assert [(f.node, f.gpu, f.verdict) for f in judged(screening)] == [("n00003", 3, "FAIL")]
