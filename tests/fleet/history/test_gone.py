"""What earlier runs had and the newest one lacks: dead nodes, dead GPUs, results that stopped."""

import pandas as pd

from groundspeed.fleet.history.changes import read_history
from groundspeed.fleet.table import FleetTable, clean_fleet
from groundspeed.fleet.trial.simulated_fleet import simulate_fleet


def runs(*missing: tuple[str, int | None, str | None]) -> list[tuple[str, str, FleetTable]]:
    """Six runs of four nodes; the last one lacks some results."""
    found = []
    for number in range(6):
        table = simulate_fleet(4, seed=4, run=number).table
        if number == 5:
            for node, gpu, metric in missing:
                hit = table["node"] == node
                hit &= (table["gpu"] == gpu) if gpu is not None else True
                hit &= (table["metric"] == metric) if metric is not None else True
                table = table[~hit]
        found.append((f"r{number}", f"2026-01-0{number + 1}", clean_fleet(table, "x")))
    return found


def test_dead_node_dead_gpu_and_lost_result_are_named_once() -> None:
    lost = (("n00001", None, None), ("n00002", 3, None), ("n00003", 0, "hbm_copy"))
    history = read_history(runs(*lost))
    assert {(g.node, g.gpu, g.metric) for g in history.gone} == set(lost)
    assert {g.last_utc for g in history.gone} == {"2026-01-05"}
    assert history.worse


def test_nothing_is_gone_from_complete_runs_or_from_the_check_of_one_node() -> None:
    whole = runs()
    assert read_history(whole).gone == ()
    name, date, table = whole[-1]
    rows = table.rows[table.rows["node"] == "n00000"]
    alone = FleetTable(rows.reset_index(drop=True), table.units, ())
    assert read_history([*whole[:-1], (name, date, alone)]).gone == ()
    assert isinstance(rows, pd.DataFrame)
