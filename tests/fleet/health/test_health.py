"""Node health checks: verdicts, exit codes, and output for Nagios, Prometheus and Slurm."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from groundspeed.calibrate.run.quick_check import check_cases
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.fleet.health.baseline import (
    GPU_CASES,
    Baseline,
    Usual,
    baseline_of,
    reference_rates,
)
from groundspeed.fleet.health.dashboard import dashboard_json
from groundspeed.fleet.health.node_health import Health, judge_node, unknown_health
from groundspeed.fleet.health.report_formats import (
    NPD_CHARACTERS,
    nagios_line,
    npd_line,
    registry_of,
)
from groundspeed.fleet.run.node_lock import hold_node_lock
from groundspeed.fleet.run.worker import node_name
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import clean_fleet
from groundspeed.fleet.trial.simulated_fleet import Fault, simulate_fleet
from groundspeed.profiles import InputError
from program import PATIENCE_S, environment, groundspeed

FAULT = Fault(2, 5, 0.06)


def node_rows(faults: tuple[Fault, ...], node: str = "n00002") -> pd.DataFrame:
    fleet = simulate_fleet(16, seed=11, faults=faults, run=1).table
    return fleet[fleet["node"] == node]


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return baseline_of(clean_fleet(simulate_fleet(16, seed=11).table, "x"), "sixteen nodes")


def test_node_check_finds_the_same_fault_as_a_screening(baseline: Baseline) -> None:
    sick = judge_node(node_rows((FAULT,)), "n00002", baseline=baseline, against="x")
    assert sick.state == "FAIL"
    failed = [r for r in sick.rows if r.state == "FAIL"]
    assert {r.gpu for r in failed} == {5}
    whole = screen(clean_fleet(simulate_fleet(16, seed=11, faults=(FAULT,), run=1).table, "x"))
    (finding,) = [f for f in whole.findings if f.node == "n00002" and f.verdict == "FAIL"]
    assert {r.metric for r in failed} == set(finding.metrics)
    well = judge_node(node_rows(()), "n00002", baseline=baseline, against="x")
    assert well.state == "OK"


def test_verdict_changes_exactly_at_the_limits(baseline: Baseline) -> None:
    row = node_rows(()).iloc[[0]]
    baseline = baseline.model_copy(update={"gpus_per_node": None})
    (judged,) = judge_node(row, "n00002", baseline=baseline).rows
    assert judged.warn_at is not None and judged.fail_at is not None
    assert judged.fail_at < judged.warn_at < (judged.expected or 0)
    for limit, above, below in ((judged.warn_at, "OK", "WARN"), (judged.fail_at, "WARN", "FAIL")):
        for factor, state in ((1.0001, above), (0.9999, below)):
            tried = judge_node(row.assign(value=limit * factor), "n00002", baseline=baseline)
            assert tried.rows[0].state == state


def test_check_without_baseline_class_or_result_is_unknown(baseline: Baseline) -> None:
    rows = node_rows(())
    assert judge_node(rows, "n00002").state == "UNKNOWN"
    other = rows.assign(sku="another GPU")
    assert judge_node(other, "n00002", baseline=baseline).state == "UNKNOWN"
    failed = rows.copy()
    failed.loc[failed.index[0], "value"] = np.nan
    failed = failed.assign(note=["driver fell off", *[""] * (len(rows) - 1)])
    health = judge_node(failed, "n00002", baseline=baseline)
    assert health.state == "UNKNOWN"
    assert "driver fell off" in health.summary
    # A missing result does not hide a failure: FAIL takes precedence over UNKNOWN.
    sick = judge_node(
        node_rows((FAULT,)).assign(
            value=lambda f: f["value"].where(f["gpu"] != 0)
        ), "n00002", baseline=baseline
    )  # fmt: skip
    assert sick.state == "FAIL"


def test_missing_gpu_is_a_failure(baseline: Baseline) -> None:
    rows = node_rows(())
    health = judge_node(rows[rows["gpu"] != 6], "n00002", baseline=baseline)
    assert health.state == "FAIL"
    assert "gpus" in health.summary


def test_results_without_a_baseline_median_are_counted_separately(baseline: Baseline) -> None:
    rows = node_rows(())
    some = baseline.model_copy(update={"usual": baseline.usual[:1]})
    health = judge_node(rows, "n00002", baseline=some)
    assert health.state == "OK"
    assert "8 normal results, 16 with nothing to compare with" in health.summary


def test_reference_profile_fails_only_large_losses() -> None:
    healthy = node_rows(())
    products = healthy[healthy["metric"] == "matmul_bf16"]
    reached = {"matmul_bf16": float(products["value"].max())}
    rows = node_rows((Fault(2, 5, 0.3), Fault(2, 6, 0.05)))
    health = judge_node(rows, "n00002", reference=reached, against="a profile")
    assert {r.gpu for r in health.rows if r.state == "FAIL"} == {5}


def test_check_cases_equal_the_cases_predicted_from_a_profile() -> None:
    kernels = {t.metric: t for t in check_cases("gpu")}
    for metric, wanted in GPU_CASES.items():
        test = kernels[metric]
        assert test.kernel.operation == wanted.operation
        assert dict(wanted.config_key).items() <= dict(test.kernel.config_key).items()
        assert dict(test.case) == dict(wanted.case)
    profile = find_hardware("h200-sxm").profile
    assert profile is not None
    rates = reference_rates(profile)
    assert 600e12 < rates["matmul_bfloat16"] < 989e12  # of the datasheet's 989 TFLOPS


HOSTILE = "n|1\n'<script>"


def test_nagios_and_npd_lines_have_the_required_format(baseline: Baseline) -> None:
    sick = judge_node(node_rows((FAULT,)), "n00002", baseline=baseline)
    line = nagios_line(sick)
    assert re.fullmatch(r"GROUNDSPEED FAIL - gpu 5 matmul_\w+ \d\.\d% slow and 1 more \| .+", line)
    data = line.split(" | ")[1].split(" ")
    assert len(data) == len(sick.rows)
    assert all(re.fullmatch(r"'gpu\d_\w+'=[\d.e+]+;[\d.e+]+:;[\d.e+]+:", part) for part in data)
    assert len(npd_line(sick)) <= NPD_CHARACTERS
    hostile = nagios_line(unknown_health(HOSTILE, f"{HOSTILE} did not answer"))
    assert "\n" not in hostile and "|" not in hostile
    assert len(npd_line(unknown_health("x", "y" * 500))) == NPD_CHARACTERS


def test_prometheus_gauges_hold_verdicts_and_match_the_dashboard(baseline: Baseline) -> None:
    from prometheus_client import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    health = judge_node(node_rows((FAULT,)), "n00002", baseline=baseline)
    health = health.model_copy(update={"node": HOSTILE})
    families = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(registry_of(health)).decode())
    }
    verdicts = {
        (s.labels["gpu"], s.labels["metric"]): s.value
        for s in families["groundspeed_verdict"].samples
    }
    assert verdicts["5", "matmul_bf16"] == 2.0
    assert verdicts["4", "matmul_bf16"] == 0.0
    (node,) = families["groundspeed_node_verdict"].samples
    assert (node.labels["node"], node.value) == (HOSTILE, 2.0)
    queried = set(re.findall(r"groundspeed_\w+", dashboard_json())) - {"groundspeed"}
    assert queried <= set(families)
    assert len(json.loads(dashboard_json())["panels"]) == 9


def test_second_check_on_a_node_is_refused_while_one_runs() -> None:
    with (
        hold_node_lock("a node"),
        pytest.raises(InputError, match="is still running"),
        hold_node_lock("a node"),
    ):
        pass
    with hold_node_lock("a node"):
        pass


# The health check command on this machine.


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Health]:
    """Check this machine without a baseline; return the store with the results and the health."""
    store = tmp_path_factory.mktemp("fleet") / "store"
    ran = groundspeed("fleet", "healthcheck", "--device", "cpu", "--store", str(store), "--json")
    assert ran.code == 3
    health = Health.model_validate_json(ran.out)
    assert "no profile of" in health.reason
    return store, health


def write_baseline(path: Path, health: Health, times: float) -> str:
    """Write a baseline with ``times`` the rates that this machine reached; return its path."""
    usual = tuple(
        Usual(cohort=klass_of(path), metric=r.metric, median=r.value * times, spread=0.05, units=8)
        for r in health.rows
        if r.value is not None and r.unit == "bytes/s"
    )
    file = path / f"baseline-{times}.json"
    text = Baseline(source="a test", date_utc="2026-01-01T00:00:00Z", usual=usual)
    file.write_text(text.model_dump_json())
    return str(file)


def klass_of(store: Path) -> str:
    from groundspeed.fleet.history.store import Store

    return str(clean_fleet(Store(str(store)).rows(), "x").rows["cohort"].iloc[0])


@pytest.mark.slow
def test_exit_codes_for_textfile_prolog_npd_and_drain(measured: tuple[Path, Health]) -> None:
    store, health = measured
    fast = write_baseline(store, health, 0.05)
    slow = write_baseline(store, health, 50.0)
    check = ("fleet", "healthcheck", "--device", "cpu")
    ran = groundspeed(*check, "--baseline", fast, "--textfile", str(store / "gs.prom"))
    assert ran.code == 0
    assert ran.out.startswith("GROUNDSPEED OK - ")
    assert "groundspeed_node_verdict" in (store / "gs.prom").read_text()
    assert groundspeed(*check, "--baseline", slow, "--prolog").code == 1
    ran = groundspeed(*check, "--node-problem-detector", "--baseline", "/nowhere.json")
    assert (ran.code, ran.out[:7]) == (2, "UNKNOWN")
    ran = groundspeed(*check, "--prolog", "--baseline", "/nowhere.json")
    assert ran.code == 0  # Slurm must not drain a node for an UNKNOWN verdict
    ran = groundspeed(*check, "--baseline", slow, "--drain", PATH="/nowhere")
    assert (ran.code, ran.out.split(" - ")[0]) == (2, "GROUNDSPEED FAIL")  # the verdict is kept
    assert "scontrol is not installed here" in ran.err


@pytest.mark.slow
def test_repeated_check_serves_its_verdict_to_prometheus(measured: tuple[Path, Health]) -> None:
    store, health = measured
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [
        sys.executable,
        "-P",
        "-m",
        "groundspeed",
        "fleet",
        "healthcheck",
        "--device",
        "cpu",
        "--baseline",
        write_baseline(store, health, 0.05),
        "--every",
        "30",
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
        try:
            text = ""
            deadline = time.monotonic() + PATIENCE_S
            while "groundspeed_node_verdict{" not in text and time.monotonic() < deadline:
                time.sleep(1.0)
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                        text = answer.read().decode()
                except OSError:
                    continue
        finally:
            process.terminate()
    assert f'groundspeed_node_verdict{{node="{node_name()}"}} 0.0' in text


def test_prolog_exits_with_0_on_bad_options_and_excludes_drain() -> None:
    for wrong, code in (("--devise", 3), ("--prolog --devise", 0)):
        ran = groundspeed("fleet", "healthcheck", *wrong.split())
        assert (ran.code, ran.err.count("\n")) == (code, 1)
    ran = groundspeed("fleet", "healthcheck", "--device", "cuda:x")
    assert (ran.code, "is not a device" in ran.out) == (3, True)
    ran = groundspeed("fleet", "healthcheck", "--prolog", "--drain")
    assert ran.code == 3
    assert ran.err.count("\n") == 1
