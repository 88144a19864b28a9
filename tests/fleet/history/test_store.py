"""The result store: resumed runs, lost nodes, queries, corrupt files, and names that are unsafe."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundspeed.fleet.health.baseline import Baseline
from groundspeed.fleet.history.store import RunRecord, Store, check_run_name
from groundspeed.fleet.node_names import file_name
from groundspeed.fleet.run.launcher import Event
from groundspeed.fleet.run.local import LocalLauncher
from groundspeed.fleet.run.run_fleet import RunRequest, find_run, run_fleet
from groundspeed.fleet.run.worker import PROGRAM, Work, run_all
from groundspeed.fleet.trial.simulated_fleet import Fault, simulate_fleet
from groundspeed.profiles import InputError
from program import PATIENCE_S, environment, groundspeed

HOSTILE = ("<script>", "../../x", "=1+1", "a/b", "..", ".", "näme", "'; DROP TABLE x; --", "a\nb")


def rows_of(node: str, value: float = 1.0) -> pd.DataFrame:
    row = {"run": "r", "date_utc": "2026-01-01T00:00:00Z", "node": node, "gpu": 0,
           "metric": "matmul_bf16", "value": value, "unit": "FLOP/s"}  # fmt: skip
    return pd.DataFrame([row])


@pytest.mark.parametrize("scheme", ["folder", "memory"])
def test_files_of_hostile_node_names_stay_inside_the_store(scheme: str, tmp_path: Path) -> None:
    url = str(tmp_path / "a" / "store") if scheme == "folder" else "memory://hostile/store"
    store = Store(url)
    for node in HOSTILE:
        store.write_rows("r", node, rows_of(node))
    assert sorted(store.nodes_done("r")) == sorted(HOSTILE)
    assert sorted(store.rows()["node"]) == sorted(HOSTILE)
    if scheme == "folder":
        outside = [p for p in tmp_path.rglob("*") if p.is_file() and "store" not in p.parts]
        assert outside == []


@given(st.text(min_size=1, max_size=40).filter(lambda s: s.isprintable()))
def test_any_node_name_is_escaped_to_a_safe_file_name(name: str) -> None:
    escaped = file_name(name)
    assert "/" not in escaped
    assert escaped not in (".", "..")


@pytest.mark.parametrize("name", ["", "../x", "a b", ".hidden", "x" * 65, "a/b"])
def test_unsafe_run_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a valid run name"):
        check_run_name(name)


def test_journal_in_a_remote_store_survives_an_interrupted_node() -> None:
    """The lines that a node wrote before it was interrupted are in the store."""
    store = Store("memory://steps/store")
    with pytest.raises(KeyboardInterrupt), store.folder("unfinished", "r", "n1") as folder:
        (folder / "cpu.jsonl").write_text("half\n")
        raise KeyboardInterrupt
    assert store.read("unfinished", "r", "n1", "cpu.jsonl") == b"half\n"
    with store.folder("unfinished", "r", "n1") as folder:
        assert (folder / "cpu.jsonl").read_text() == "half\n"
    store.forget("unfinished", "r", "n1")
    assert store.names("unfinished", "r") == []


def test_unknown_url_scheme_and_empty_store_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        Store("nonsense://x")
    with pytest.raises(InputError, match="no node has finished"):
        Store("memory://empty").rows()


def test_sql_query_is_answered_and_a_bad_query_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_rows("r", "n1", rows_of("n1", 3.0))
    store.write_rows("r", "n2", rows_of("n2", 5.0))
    assert store.query("SELECT max(value) AS best FROM measurements")["best"].tolist() == [5.0]
    with pytest.raises(InputError, match="the query failed"):
        store.query("SELECT nothing FROM nowhere")


@pytest.mark.slow
def test_killed_node_resumes_from_its_journal(tmp_path: Path) -> None:
    """The node is killed in the middle; a second start keeps its journal and completes the run."""
    store = Store(str(tmp_path / "store"))
    work = Work(store.url, "r", device="cpu")
    journal = tmp_path / "store" / "unfinished" / "r" / "n1" / "cpu.jsonl"
    command = [PROGRAM[0], *work.command("n1")]
    with subprocess.Popen(command, env=environment(), start_new_session=True) as process:
        while process.poll() is None and not (
            journal.exists() and journal.read_text().count("\n") > 2
        ):
            time.sleep(0.01)
        assert process.poll() is None, "the node finished before the test could kill it"
        os.killpg(process.pid, signal.SIGKILL)
    kept = journal.read_text().splitlines()
    assert store.nodes_done("r") == []
    (answer,) = run_all([command], timeout_s=PATIENCE_S)
    assert answer.document is not None, answer.reason
    assert store.nodes_done("r") == ["n1"]
    assert not journal.exists()
    assert len(kept) > 2


@pytest.mark.slow
def test_finished_local_run_is_not_measured_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    events: list[Event] = []
    record = run_fleet(
        LocalLauncher(), RunRequest(Work(store.url, "", device="cpu")), events.append
    )
    assert [e.kind for e in events] == ["started", "done"]
    events.clear()
    again = run_fleet(
        LocalLauncher(), RunRequest(Work(store.url, record.run, device="cpu")), events.append
    )
    assert [e.kind for e in events] == ["done"]
    assert again.finished
    with pytest.raises(InputError, match="has level check"):
        run_fleet(LocalLauncher(), RunRequest(Work(store.url, record.run, "quick")), events.append)
    # On the command line, a store and the table exported from it must give the same findings.
    table = tmp_path / "out.csv"
    assert groundspeed("fleet", "export", store.url, "-o", str(table)).code == 0
    direct = json.loads(groundspeed("fleet", "screen", store.url, "--json").out)
    exported = json.loads(groundspeed("fleet", "screen", str(table), "--json").out)
    assert direct["findings"] == exported["findings"]
    assert direct["findings"][0]["cause"] == "no_class"  # a single machine has no class


def keep(store: Store, run: str, date: str, table: pd.DataFrame) -> None:
    """Write a simulated fleet into the store as a finished run."""
    dated = table.assign(run=run, date_utc=date)
    for node, part in dated.groupby("node"):
        store.write_rows(run, str(node), part)
    nodes = tuple(sorted(str(n) for n in dated["node"].unique()))
    record = RunRecord(run=run, date_utc=date, level="check", launcher="local", nodes=nodes)
    store.write_run(record.model_copy(update={"finished": True}))


def test_screening_of_a_store_and_its_confirmation_by_two_reruns(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    fault = (Fault(3, 1, 0.2),)
    keep(store, "may", "2026-05-01T00:00:00Z", simulate_fleet(8, seed=5).table)
    keep(store, "june", "2026-06-01T00:00:00Z", simulate_fleet(8, seed=5, faults=fault).table)
    document = json.loads(groundspeed("fleet", "screen", store.url, "--json").out)
    assert ("n00003", 1) in {(f["node"], f["gpu"]) for f in document["findings"]}
    old = json.loads(groundspeed("fleet", "screen", store.url, "--run", "may", "--json").out)
    assert ("n00003", 1) not in {(f["node"], f["gpu"]) for f in old["findings"]}
    ran = groundspeed("fleet", "screen", store.url, "--confirm")
    assert ran.code == 3
    assert "measure n00003 gpu 1" in ran.err and "as control" in ran.err
    for turn in (1, 2):
        again = simulate_fleet(8, seed=5, faults=fault if turn == 1 else (), run=turn).table
        keep(store, f"june.again{turn}", f"2026-06-02T0{turn}:00:00Z",
             again[again["node"] == "n00003"])  # fmt: skip
    ran = groundspeed("fleet", "screen", store.url, "--confirm", "--json")
    document = json.loads(ran.out)
    (finding,) = [f for f in document["findings"] if (f["node"], f["gpu"]) == ("n00003", 1)]
    assert finding["verdict"] == "FLAKY"
    assert "1 of 2 re-runs" in finding["evidence"]
    for arguments, reason in (
        ((store.url, str(tmp_path / "x.csv")), "a store must be the only source"),
        ((store.url, "--run", "jume"), "did you mean 'june'"),
        ((str(tmp_path / "x.csv"), "--run", "may"), "needs a store"),
    ):
        ran = groundspeed("fleet", "screen", *arguments)
        assert ran.code == 3
        assert reason in ran.err


def test_fault_that_repeats_in_a_second_table_is_confirmed(tmp_path: Path) -> None:
    first = simulate_fleet(8, seed=5, faults=(Fault(3, 1, 0.2),)).table
    again = simulate_fleet(8, seed=5, faults=(Fault(3, 1, 0.2),), run=1).table
    paths = [tmp_path / "first.csv", tmp_path / "again.csv"]
    first.to_csv(paths[0], index=False)
    again[again["node"] == "n00003"].to_csv(paths[1], index=False)
    ran = groundspeed("fleet", "screen", str(paths[0]), "--again", str(paths[1]), "--json")
    (finding,) = [f for f in json.loads(ran.out)["findings"] if f["node"] == "n00003"]
    assert (ran.code, finding["verdict"]) == (2, "FAIL")


def test_lost_nodes_are_findings_with_their_reason(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    keep(store, "may", "2026-05-01T00:00:00Z", simulate_fleet(4, seed=5).table)
    (record,) = store.runs()
    nodes = (*record.nodes, "n99", "n98")
    store.write_run(record.model_copy(update={"nodes": nodes, "lost": {"n99": "it burned"}}))
    document = json.loads(groundspeed("fleet", "screen", store.url, "--json").out)
    away = {f["node"]: f["evidence"] for f in document["findings"] if f["cause"] == "missing"}
    assert set(away) == {"n98", "n99"}
    assert "it burned" in away["n99"]


def test_new_run_does_not_continue_an_unfinished_confirmation(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    keep(store, "may", "2026-05-01T00:00:00Z", simulate_fleet(4, seed=5).table)
    (record,) = store.runs()
    store.write_run(record.model_copy(update={"run": "may.again1", "finished": False}))
    record = find_run(store, LocalLauncher(), RunRequest(Work(store.url, "")))
    assert "again" not in record.run


def test_brackets_in_the_path_and_corrupt_files_are_handled(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "st[1]"))
    store.write_rows("r", "n1", rows_of("n1"))
    assert len(store.rows()) == 1
    (tmp_path / "st[1]" / "rows" / "r" / "tmp123").write_text("left over")
    assert store.nodes_done("r") == ["n1"]
    with pytest.raises(InputError, match="the query has no result"):
        store.query(" ")
    (tmp_path / "st[1]" / "rows" / "r" / "n2.parquet").write_text("not parquet")
    with pytest.raises(InputError, match="the query failed"):
        store.rows()


def test_baseline_is_kept_in_the_store(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    keep(store, "may", "2026-05-01T00:00:00Z", simulate_fleet(4, seed=5).table)
    for _ in range(2):
        assert groundspeed("fleet", "baseline", store.url, "--keep").code == 0
    baseline = Baseline.model_validate_json(store.read("baseline.json") or b"")
    assert baseline.gpus_per_node == 8
    assert groundspeed("fleet", "baseline", store.url, "-o", "s3://b/x.json").code == 2


def test_store_ignores_foreign_files_and_refuses_broken_records(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_rows("r", "n1", rows_of("n1"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("by hand")
    assert store.runs() == []
    (tmp_path / "runs" / "broken.json").write_text("{")
    with pytest.raises(InputError, match="is not a valid run record"):
        store.runs()


def test_stored_values_are_read_back_exactly(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/s")
    value = np.nextafter(7.1e14, 8e14)
    store.write_rows("r", "n1", rows_of("n1", value))
    assert store.rows()["value"].tolist() == [value]
    assert fsspec.filesystem("file").exists(f"{tmp_path}/s/rows/r/n1.parquet")
