"""Screening finds slow GPUs and nodes in a real fleet and in simulated fleets with known faults."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from findings import judged, named
from groundspeed.estimator import find_model
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.engine import find_engine
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload
from groundspeed.fleet.reading.fleet_files import read_fleet
from groundspeed.fleet.screen.cost import cost_of
from groundspeed.fleet.screen.findings import CAUSES, Screening
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import clean_fleet
from groundspeed.fleet.trial.baseline_detectors import DETECTORS
from groundspeed.fleet.trial.simulated_fleet import Fault, simulate_fleet
from program import groundspeed


def csv_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.csv"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def azure(reference: Path) -> Screening:
    """Screen one SuperBench run on 153 real nodes with eight A100 each."""
    return screen(read_fleet([reference / "fleet" / "azure_a100_153_nodes.csv.gz"]))


def test_eighteen_slow_nodes_give_18_node_findings_not_135_gpu_findings(azure: Screening) -> None:
    findings = judged(azure, cause="clocks_or_software")
    assert len(findings) == 18
    assert all(f.level == "node" and f.gpu is None and f.verdict == "FAIL" for f in findings)
    assert all(0.54 < (f.loss_fraction or 0) < 0.58 for f in findings)
    assert all("matmul_fp64_vector" in f.metrics for f in findings)


def test_half_width_pcie_link_and_its_slow_network_are_one_finding(azure: Screening) -> None:
    findings = judged(azure, cause="pcie_width")
    assert [(f.node, f.gpu) for f in findings] == [("node025", 4), ("node025", 5), ("node088", 7)]
    assert all("all_reduce_ib_8GiB" in f.metrics and "pcie_h2d" in f.metrics for f in findings)
    # A finding for the network would report the same cause twice.
    assert not judged(azure, cause="network", level="node")


def test_missing_results_are_inconclusive_and_not_slow(azure: Screening) -> None:
    missing = [f for f in azure.findings if f.verdict == "INCONCLUSIVE"]
    assert len(missing) == azure.inconclusive > 50
    assert all(f.z is None and f.loss_fraction is None and f.cause == "missing" for f in missing)


def test_real_fleet_has_fewer_than_80_findings(azure: Screening) -> None:
    """The fleet has 1,224 GPUs. SuperBench's own rule rejected 94 of the 153 nodes."""
    assert len(judged(azure)) < 80
    assert {f.cause for f in azure.findings} <= CAUSES.keys()


def test_order_of_the_rows_does_not_change_the_screening(azure: Screening, reference: Path) -> None:
    table = read_fleet([reference / "fleet" / "azure_a100_153_nodes.csv.gz"])
    mixed = table.rows.sample(frac=1.0, random_state=1).reset_index(drop=True)
    settings = table.settings.sample(frac=1.0, random_state=2)
    again = screen(replace(table, rows=mixed, settings=settings))
    assert again.model_dump_json() == azure.model_dump_json()


# Simulated fleets.


@pytest.mark.parametrize("nodes", [1, 4, 32])
@pytest.mark.parametrize(("loss", "least"), [(0.05, 0.95), (0.03, 0.65)])
def test_slow_gpus_are_flagged_and_healthy_ones_are_not(
    nodes: int, loss: float, least: float
) -> None:
    hits = trials = false = 0
    for seed in range(40 if nodes < 32 else 20):
        rng = np.random.default_rng(seed)
        fault = Fault(int(rng.integers(nodes)), int(rng.integers(8)), loss)
        fleet = simulate_fleet(nodes, seed=seed, faults=(fault,))
        blamed = named(screen(clean_fleet(fleet.table, "simulated")))
        truth = {(f"n{fault.node:05d}", fault.gpu)}
        hits += len(blamed & truth)
        false += len(blamed - truth)
        trials += 1
    assert hits / trials >= least
    assert 1000.0 * false / (trials * nodes * 8 * 3) <= 2.0


def test_other_detectors_miss_a_slow_node_or_a_5_percent_loss() -> None:
    """A rule within one node misses a node at half speed; a 10 % limit misses a loss of 5 %."""
    node = tuple(Fault(3, g, 0.5) for g in range(8))
    rows = simulate_fleet(16, seed=2, faults=(*node, Fault(5, 1, 0.05))).table
    blamed = named(screen(clean_fleet(rows, "simulated")))
    assert blamed == {("n00003", None), ("n00005", 1)}
    part = rows[rows["metric"] == "matmul_bf16"]
    missed = {name: set(part[rule(part)]["node"]) for name, rule in DETECTORS.items()}
    assert "n00003" not in missed["gpu-fryer"]
    assert all("n00005" not in missed[name] for name in ("fixed 10 %", "Megatron", "gpu-fryer"))


def test_two_classes_of_gpus_are_screened_separately() -> None:
    """80 GB GPUs are 6 % faster than 40 GB ones; pooled, one whole class would be outliers."""
    fleet = simulate_fleet(40, seed=3).table
    big = fleet["node"] < "n00005"
    fleet.loc[big, "value"] *= 1.06
    apart = fleet.assign(sku=np.where(big, "A100-80GB", "A100-40GB"))
    kept_apart = named(screen(clean_fleet(apart, "simulated")))
    assert len(kept_apart) <= 4  # of 320; healthy simulated fleets have as many
    # Pooled, the fast GPUs hide slow ones by widening the spread, or make all others outliers.
    assert named(screen(clean_fleet(fleet, "simulated"))) != kept_apart


def test_uniformly_slow_fleet_is_one_finding_with_a_reference_only() -> None:
    """No GPU is an outlier in such a fleet; only a reference shows the loss, as one finding."""
    slow = simulate_fleet(5, seed=3).table
    slow["value"] *= 0.5
    assert len(judged(screen(clean_fleet(slow, "x")))) <= 1
    reached = {"matmul_bf16": 780.0}
    (whole,) = judged(screen(clean_fleet(slow, "x"), reference=reached), cause="below_floor")
    assert (whole.level, whole.gpu, whole.verdict) == ("class", None, "FAIL")
    assert whole.expected == 780.0
    assert 0.4 < (whole.loss_fraction or 0) < 0.6
    # If only one node is slow, the finding names this node and no other.
    fleet = simulate_fleet(5, seed=3).table
    fleet.loc[fleet["node"] == "n00002", "value"] *= 0.5
    screening = screen(clean_fleet(fleet, "x"), reference={"matmul_bf16": 700.0})
    assert {(f.node, f.level) for f in judged(screening, verdict="FAIL")} == {("n00002", "node")}


def test_gpu_alone_in_its_class_is_inconclusive() -> None:
    """A single GPU of another SKU has no class to compare with, and its fleet is not healthy."""
    fleet = simulate_fleet(4, seed=3).table.assign(sku="H200")
    odd = (fleet["node"] == "n00001") & (fleet["gpu"] == 2)
    fleet.loc[odd, "sku"] = "H20"
    screening = screen(clean_fleet(fleet, "x"))
    (finding,) = [f for f in screening.findings if f.cause == "few_units"]
    assert (finding.node, finding.verdict, finding.z) == ("n00001", "INCONCLUSIVE", None)
    assert "H20" in finding.evidence
    alone = screen(clean_fleet(fleet[odd], "x"))
    assert (alone.judged, alone.exit_code) == (0, 3)


def test_a_setting_does_not_make_a_class_of_its_own() -> None:
    """A GPU alone in its power cap is compared with the others, and the cap is its cause."""
    fleet = simulate_fleet(4, seed=4, faults=(Fault(1, 2, 0.4),)).table.assign(power_cap="700")
    odd = (fleet["node"] == "n00001") & (fleet["gpu"] == 2)
    fleet.loc[odd, "power_cap"] = "500"
    (finding,) = screen(clean_fleet(fleet, "x")).findings
    assert (finding.node, finding.gpu, finding.cause) == ("n00001", 2, "power_cap")
    assert "500 W where 97% of its class have 700 W" in finding.evidence
    fleet = simulate_fleet(4, seed=4).table.assign(power_cap="700")
    fleet.loc[odd, "power_cap"] = "500"
    (finding,) = screen(clean_fleet(fleet, "x")).findings
    assert (finding.verdict, finding.cause, finding.loss_fraction) == ("WARN", "power_cap", None)


def test_notes_of_the_table_appear_in_the_evidence() -> None:
    fleet = simulate_fleet(4, seed=3, faults=(Fault(1, 2, 0.2),)).table.assign(note="")
    fleet.loc[(fleet["node"] == "n00001") & (fleet["gpu"] == 2), "note"] = "windows differ by 30%"
    failed = {"node": "n00003", "gpu": 5, "metric": "hbm_copy", "value": None, "note": "ECC error"}
    rows = fleet[~((fleet["node"] == "n00003") & (fleet["gpu"] == 5))]
    screening = screen(
        clean_fleet(pd.concat([rows, pd.DataFrame([failed])], ignore_index=True), "x")
    )
    assert "windows differ by 30%" in judged(screening, node="n00001")[0].evidence
    (missing,) = [f for f in screening.findings if f.cause == "missing"]
    assert "ECC error" in missing.evidence


def test_three_slow_nodes_of_one_rack_are_one_rack_finding() -> None:
    faults = tuple(Fault(n, g, 0.2) for n in (0, 1, 2) for g in range(8))
    fleet = simulate_fleet(24, seed=4, faults=faults).table
    fleet["rack"] = "r" + (fleet["node"].str[1:].astype(int) // 4).astype(str)
    (finding,) = judged(screen(clean_fleet(fleet, "simulated")))
    assert (finding.level, finding.node) == ("rack", "r0")


def test_telemetry_gives_thermal_and_power_cap_as_causes() -> None:
    fleet = simulate_fleet(16, seed=5, faults=(Fault(2, 3, 0.17), Fault(7, 0, 0.1))).table
    gpus = fleet[["node", "gpu"]].drop_duplicates()
    heat = gpus.assign(metric="temperature", value=62.0, unit="C")
    power = gpus.assign(metric="power_w", value=690.0, unit="W")
    cap = gpus.assign(metric="power_limit", value=700.0, unit="W")
    hot = (gpus["node"] == "n00002") & (gpus["gpu"] == 3)
    heat.loc[hot, "value"], power.loc[hot, "value"] = 84.0, 570.0
    low = (gpus["node"] == "n00007") & (gpus["gpu"] == 0)
    cap.loc[low, "value"] = 500.0
    screening = screen(clean_fleet(pd.concat([fleet, heat, power, cap], ignore_index=True), "x"))
    assert {(f.node, f.cause) for f in judged(screening)} == {
        ("n00002", "thermal"), ("n00007", "power_cap"),
    }  # fmt: skip


def test_cost_of_a_slow_gpu_in_ttft_tpot_and_tokens_per_s() -> None:
    server = Server(
        find_model("llama-3.1-70b"), Deployment(tp=8), find_engine("vllm"),
        find_hardware("h200").best,
    )  # fmt: skip
    fleet = simulate_fleet(8, seed=7, faults=(Fault(1, 1, 0.2), Fault(2, 2, 0.2, ("hbm_copy",))))
    findings = {f.node: f for f in judged(screen(clean_fleet(fleet.table, "x")))}
    w = Workload(4096, 256, 16)
    tensor, memory = (cost_of(findings[n], server, w) for n in ("n00001", "n00002"))
    assert tensor.ttft_fraction > memory.ttft_fraction  # prefill is compute-bound
    assert memory.tpot_fraction > 0.05  # decode is memory-bound
    assert tensor.tokens_per_s > 0
    assert 0 < tensor.ttft_fraction < 0.3  # a loss of 20 % of the rate adds at most 25 % time


def test_pcie_link_at_a_quarter_of_its_rate_has_cause_pcie_width() -> None:
    fleet = simulate_fleet(8, seed=3).table
    link = fleet[fleet["metric"] == "hbm_copy"].assign(metric="pcie_h2d", unit="GB/s")
    slow = (link["node"] == "n00003") & (link["gpu"] == 3)
    link["value"] = link["value"].where(~slow, link["value"] * 0.25)
    screening = screen(clean_fleet(pd.concat([fleet, link], ignore_index=True), "x"))
    assert [f.cause for f in judged(screening, node="n00003")] == ["pcie_width"]


def test_existing_output_file_gives_exit_code_3(tmp_path: Path) -> None:
    path = csv_file(tmp_path, simulate_fleet(8, seed=9).table.to_csv(index=False))
    ran = groundspeed("fleet", "screen", str(path), "--json", "-o", str(path))
    assert (ran.code, "--force" in ran.err) == (3, True)
    assert path.read_text().startswith("node,gpu")


def test_power_cap_is_compared_within_a_class() -> None:
    """The 400 W limit of an A100 is not low, although H100s in the same fleet have 700 W."""
    big, small = (simulate_fleet(6, seed=s).table for s in (3, 4))
    small["node"] = "a" + small["node"]
    hurt = (small["node"] == "an00002") & (small["gpu"] == 3) & (small["metric"] != "hbm_copy")
    small.loc[hurt, "value"] *= 0.8
    parts = [big.assign(sku="H100"), small.assign(sku="A100")]
    for part, watts in zip(list(parts), (700.0, 400.0), strict=True):
        gpus = part[["node", "gpu", "sku"]].drop_duplicates()
        parts.append(gpus.assign(metric="power_limit", value=watts, unit="W"))
    screening = screen(clean_fleet(pd.concat(parts, ignore_index=True), "x"))
    assert judged(screening, node="an00002")[0].cause == "compute"


def test_lower_is_better_if_given_or_known_for_the_metric() -> None:
    fleet = simulate_fleet(8, seed=8).table
    part = fleet[fleet["metric"] == "hbm_copy"].copy()
    slow = (part["node"] == "n00003") & (part["gpu"] == 3)
    part.loc[slow, "value"] *= 1.4
    for name, said in (("step_duration", ("step_duration",)), ("launch_latency", ())):
        rows = part.assign(metric=name, unit="" if said else "us")
        screening = screen(clean_fleet(rows, "x"), lower_is_better=said)
        assert named(screening) == {("n00003", 3)}


def test_on_the_command_line(tmp_path: Path) -> None:
    fine = csv_file(tmp_path, simulate_fleet(8, seed=9).table.to_csv(index=False))
    ran = groundspeed("fleet", "screen", str(fine))
    assert ran.code in (0, 1)
    slow = simulate_fleet(8, seed=9, faults=(Fault(1, 2, 0.2),)).table
    path = csv_file(tmp_path, slow.to_csv(index=False))
    ran = groundspeed("fleet", "screen", str(path), "--model", "llama-3.1-8b", "--gpu", "h200",
                      "--tp", "8")  # fmt: skip
    assert ran.code == 2
    assert "n00001 gpu 2" in ran.out
    assert "token/s" in ran.out
    document = json.loads(groundspeed("fleet", "screen", str(path), "--json").out)
    assert document["findings"][0]["gpu"] == 2
    for arguments in (["/nowhere.csv"], [str(path), "--model", "llama-3.1-8b"]):
        ran = groundspeed("fleet", "screen", *arguments)
        assert ran.code == 3
        assert ran.err.count("\n") == 1


@pytest.mark.parametrize(("usual", "slow"), [(50.0, 25.0), (504.0, 252.0), (16.0, 8.0), (6.0, 4.0)])
@pytest.mark.parametrize("units", [8, 128])
def test_one_link_at_half_of_a_constant_rate_is_found(
    usual: float, slow: float, units: int
) -> None:
    """Rates and widths of links are the same everywhere, to the last digit."""
    rows = [
        {"node": f"n{i // 8}", "gpu": i % 8, "metric": "nvlink_gbs", "value": usual}
        for i in range(units)
    ]
    rows[5]["value"] = slow
    found = screen(clean_fleet(pd.DataFrame(rows), "test"))
    assert [(f.node, f.gpu, f.verdict) for f in found.findings] == [("n0", 5, "FAIL")]
