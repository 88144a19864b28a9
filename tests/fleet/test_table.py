"""Reading fleet tables: bad rows are excluded with a reason, and all others are screened."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from findings import judged, named
from groundspeed.fleet.achieved.reference import reference_rates_for
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.reading.fleet_files import read_fleet
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import clean_fleet
from groundspeed.fleet.trial.simulated_fleet import Fault, simulate_fleet
from groundspeed.profiles import InputError

HEAD = "node,gpu,metric,value,unit\n"


def write_table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.csv"
    path.write_text(text)
    return path


def test_bad_rows_are_excluded_with_count_and_reason(tmp_path: Path) -> None:
    good = "".join(f"n{n},{g},matmul_bf16,{700 + g},TFLOPS\n" for n in range(6) for g in range(4))
    bad = (
        "n0,0,matmul_bf16,705,TFLOPS\n"
        "n1,1,matmul_bf16,0.7,PFLOPS\n"
        "<script>alert(1)</script>,0,matmul_bf16,=1+1,TFLOPS\n"
        "../../x,0,matmul_bf16,nan,TFLOPS\n"
        ",0,matmul_bf16,1,TFLOPS\n"
        "n5,3,hbm_copy,inf,GB/s\n"
        "n5,2,hbm_copy,-3,GB/s\n"
    )
    screening = screen(read_fleet([write_table(tmp_path, HEAD + good + bad)]))
    said = " | ".join(screening.excluded)
    assert "1 rows without a node" in said
    assert "1 values that are not numbers (e.g. '=1+1')" in said
    assert "1 rows of matmul_bf16 converted from 'PFLOPS' to 'TFLOPS'" in said
    assert "repeated measurements" in said
    assert not judged(screening)
    json.loads(screening.model_dump_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as a table"),
        ("node,metric\n", "column missing: value"),
        (HEAD, "contains no measurement"),
        ("\x00\x01", "column missing|cannot be read"),
    ],
)
def test_file_without_measurements_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_fleet([write_table(tmp_path, text)])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "<b>", "=x", "../y"]),
            st.integers(-3, 9),
            st.sampled_from(["matmul_bf16", "launch_latency", "thing", "temperature"]),
            st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(0.1, 1e6)),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_any_table_is_screened_or_refused(rows: list[tuple[str, int, str, float]]) -> None:
    frame = pd.DataFrame(rows, columns=["node", "gpu", "metric", "value"]).assign(unit="x")
    try:
        screening = screen(clean_fleet(frame, "any"))
    except InputError as error:
        assert "contains no measurement" in str(error)
        return
    assert screening.measurements <= len(rows)
    json.loads(screening.model_dump_json())


@pytest.mark.parametrize(
    ("metric", "unit", "higher"),
    [
        ("tokens_per_s", "", True), ("samples_per_s", "", True), ("requests_per_s", "1/s", True),
        ("gemm_time_ms", "", False), ("memory_latency_ns", "", False), ("all_reduce", "us", False),
        ("matmul_bf16", "TFLOPS", True), ("time_to_copy", "GB/s", True), ("tpot", "", False),
        ("all_reduce_time_us", "us", False), ("hbm_copy", "", True),
    ],
)  # fmt: skip
def test_direction_of_a_metric_follows_from_its_name_or_unit(
    metric: str, unit: str, *, higher: bool
) -> None:
    assert facts_of(metric, unit=unit).higher_is_better is higher


@pytest.mark.parametrize("name", ["gpu{}", "cuda:{}", "GPU {}", "{}", "{}.0"])
def test_gpu_index_is_read_from_common_spellings(name: str) -> None:
    fleet = simulate_fleet(6, seed=3, faults=(Fault(1, 2, 0.2),)).table
    screening = screen(clean_fleet(fleet.assign(gpu=[name.format(g) for g in fleet["gpu"]]), "x"))
    assert ("n00001", 2) in named(screening)


def test_rows_without_a_gpu_index_are_excluded() -> None:
    fleet = simulate_fleet(6, seed=3).table.astype({"gpu": object})
    fleet.loc[fleet.index[:3], "gpu"] = ["GPU-5f3a", 3.5, float("inf")]
    table = clean_fleet(fleet, "x")
    assert any("2 rows whose gpu is not an index" in line for line in table.excluded)
    assert (table.rows["gpu"] >= 0).all()
    assert list(table.names.values()) == ["GPU-5f3a"]


def test_gpus_with_names_are_units_of_their_own() -> None:
    """Eight UUIDs of a node are eight GPUs, and a finding calls the GPU by its UUID."""
    fleet = simulate_fleet(6, seed=3, faults=(Fault(1, 2, 0.2),)).table
    names = [f"GPU-{node}-{gpu:04}" for node, gpu in zip(fleet["node"], fleet["gpu"], strict=True)]
    screening = screen(clean_fleet(fleet.assign(gpu=names), "x"))
    assert named(screening) == {("n00001", "GPU-n00001-0002")}
    assert screening.gpus == 48


def test_every_failed_test_is_a_finding() -> None:
    """Each NaN is one finding with cause "missing", however many GPUs have the same NaN."""
    for count in (1, 2, 4):
        fleet = simulate_fleet(4, seed=3).table
        failed = (fleet["gpu"] == 0) & (fleet["node"] < f"n{count:05d}")
        fleet.loc[failed & (fleet["metric"] == "hbm_copy"), "value"] = np.nan
        screening = screen(clean_fleet(fleet, "x"))
        assert sum(f.cause == "missing" for f in screening.findings) == count


def test_reference_is_converted_to_the_units_of_the_table() -> None:
    """The reference has SI units and its own names; the table has TFLOPS and another name."""
    fleet = simulate_fleet(5, seed=3).table
    fleet.loc[fleet["node"] == "n00002", "value"] *= 0.5
    table = clean_fleet(fleet, "x")
    reached, notes = reference_rates_for(table, {"matmul_bfloat16": 7e14}, "h200")
    assert reached == {"matmul_bf16": pytest.approx(700.0)}
    assert any("not compared with h200" in n and "hbm_copy" in n for n in notes)
    screening = screen(table, reference=reached)
    assert {(f.node, f.level) for f in judged(screening, verdict="FAIL")} == {("n00002", "node")}


def wide(index: str) -> pd.DataFrame:
    fleet = simulate_fleet(6, seed=4, faults=(Fault(2, 3, 0.3),)).table
    table = fleet.pivot_table(index=["node", "gpu"], columns="metric", values="value")
    return table.reset_index().rename(columns={"gpu": index, "node": "hostname"})


@pytest.mark.parametrize("index", ["index", "minor_number", "GPU Index", "gpu_id"])
def test_columns_of_monitors_are_gpus_in_a_wide_table(index: str) -> None:
    assert named(screen(clean_fleet(wide(index), "x"))) == {("n00002", 3)}


def test_counters_beside_the_values_are_judged() -> None:
    fleet = simulate_fleet(4, seed=4).table.assign(xid=0, row_remap_failure="No")
    odd = (fleet["node"] == "n00002") & (fleet["gpu"] == 3)
    fleet.loc[odd, "xid"] = 79
    (finding,) = judged(screen(clean_fleet(fleet, "x")))
    assert (finding.node, finding.gpu, finding.cause) == ("n00002", 3, "hardware_errors")


def test_a_fleet_with_a_missing_gpu_is_not_healthy() -> None:
    fleet = simulate_fleet(4, seed=4).table
    gone = (fleet["node"] == "n00001") & (fleet["gpu"] == 2)
    screening = screen(clean_fleet(fleet[~gone], "x"))
    assert screening.exit_code == 3
    assert any("7 of 8 GPUs" in f.evidence for f in screening.findings)


def test_several_days_in_one_table_are_runs_and_the_newest_is_screened(tmp_path: Path) -> None:
    days = []
    for day in range(4):
        faults = (Fault(1, 2, 0.2),) if day == 3 else ()
        table = simulate_fleet(4, seed=4, run=day, faults=faults).table
        days.append(table.assign(date=f"2026-01-0{day + 1}T06:00:00Z"))
    path = write_table(tmp_path, pd.concat(days).to_csv(index=False))
    table = read_fleet([path])
    assert named(screen(table)) == {("n00001", 2)}
    assert any("3 older runs" in line for line in table.excluded)


def test_a_sku_has_one_name_and_an_empty_one_is_that_of_the_others() -> None:
    fleet = simulate_fleet(4, seed=4, faults=(Fault(3, 2, 0.2),)).table.assign(sku="NVIDIA H200")
    fleet.loc[fleet["node"] == "n00003", "sku"] = "H200"
    assert ("n00003", 2) in named(screen(clean_fleet(fleet, "x")))
    fleet.loc[fleet["node"] == "n00003", "sku"] = None
    assert ("n00003", 2) in named(screen(clean_fleet(fleet, "x")))


def test_superbench_names_give_the_gpu() -> None:
    fleet = simulate_fleet(6, seed=4, faults=(Fault(1, 2, 0.2),)).table
    fleet["metric"] = fleet["metric"] + ":" + fleet["gpu"].astype(str)
    assert ("n00001", 2) in named(screen(clean_fleet(fleet.drop(columns="gpu"), "x")))
