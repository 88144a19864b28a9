"""A calibration of simulated GPUs: measured rates, faults, several devices, prediction, health."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from groundspeed.profiles import check_profile
from groundspeed.profiles.schema import Point, Profile
from simulation import Chip, Machine, simulate

pytestmark = pytest.mark.slow

H100 = Chip()
SMALL = Chip(name="Simulated GPU", l2_bytes=6 * 2**20, power_cap_w=2000.0)
"""A GPU without a datasheet, with a small cache, so that few operand sets make operands cold."""


def calibrated(machine: Machine, folder: Path, *more: str) -> Profile:
    ran = simulate(
        machine, "calibrate", "--device", "cuda:0", "--json", "--profile-dir",
        str(folder / "profiles"), *more, folder=folder,
    )  # fmt: skip
    assert ran.code == 0, ran.err[-3000:]
    return Profile.model_validate_json(ran.out)


def points(profile: Profile, operation: str, **keys: str) -> list[Point]:
    curves = [
        c
        for c in profile.curves
        if c.operation == operation and keys.items() <= {**c.config_key, "by": c.backend}.items()
    ]
    return [p for c in curves for p in c.points if p.valid]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("h100")


@pytest.fixture(scope="module")
def quick(folder: Path) -> Profile:
    return calibrated(Machine(), folder, "--quick")


def test_quick_calibration_of_an_h100_passes_the_physics_check(quick: Profile) -> None:
    assert [v.what for v in check_profile(quick) if v.severity == "error"] == []
    assert all(p.valid for c in quick.curves for p in c.points)
    assert not [w for w in quick.warnings if w.startswith("not measured")]
    assert quick.datasheet is not None and quick.datasheet.id == "h100-sxm"


def test_every_gemm_that_is_not_throttled_has_the_simulated_time_within_one_percent(
    quick: Profile,
) -> None:
    compared = 0
    for dtype in ("bfloat16", "float32", "fp8"):
        for point in points(quick, "matmul", dtype=dtype, by="torch"):
            if {"throttled:power-cap", "warm"} & set(point.tags):
                continue
            truth = H100.kernel_s(flops=point.flops, dtype=dtype, cold_bytes=point.bytes)
            gap = H100.graph_gap_s if point.time_s < 60e-6 else H100.event_s
            assert point.time_s == pytest.approx(truth + gap, rel=0.01), (dtype, point.case)
            compared += 1
    assert compared >= 30


def test_rates_are_those_of_the_simulated_chip(quick: Profile) -> None:
    rates = {r.quantity: r.value for r in quick.rates}
    truth = {
        "matmul bfloat16": 700e12, "matmul float32": 50e12, "memory read": 3.0e12,
        "memory copy": 3.0e12, "memory triad (triton)": 3.0e12, "read level 1": 7.5e12,
        "host link h2d pinned": 50e9, "host link d2h pageable": 8e9,
    }  # fmt: skip
    for quantity, value in truth.items():
        assert rates[quantity] == pytest.approx(value, rel=0.06), quantity
    assert rates["launch queued"] == pytest.approx(H100.kernel_start_s, rel=0.01)


def test_throttled_points_are_tagged_and_no_other(quick: Profile) -> None:
    tagged = [p for c in quick.curves for p in c.points if "throttled:power-cap" in p.tags]
    assert tagged
    assert {
        p.power_w or 0.0 for p in tagged if (p.power_w or 0.0) < 0.5 * H100.power_cap_w
    } == set()
    streams = points(quick, "stream", mode="read", by="torch")
    assert not [p for p in streams if "throttled:power-cap" in p.tags]


@pytest.mark.parametrize(
    "model",
    [("qwen2.5-7b", "--layers", "4"), ("qwen2.5-7b", "--layers", "4", "--weights", "fp8_row"),
     ("mixtral-8x7b", "--layers", "2")],
    ids=["dense", "fp8", "mixture"],
)  # fmt: skip
def test_verify_predicts_a_decoder_on_the_simulated_gpu_within_a_tenth(
    folder: Path, quick: Profile, model: tuple[str, ...]
) -> None:
    ran = simulate(
        Machine(), "verify", *model, "--json", "--device", "cuda:0",
        "--prompts", "512", "--batches", "1", "--osl", "8", "--seconds", "0.2",
        "--profile-dir", str(folder / "profiles"), folder=folder,
    )  # fmt: skip
    assert ran.code in (0, 1), ran.err[-3000:]
    found = json.loads(ran.out)
    assert abs(found["ttft_median_error_fraction"]) < 0.1
    assert abs(found["tpot_median_error_fraction"]) < 0.1


def test_case_that_kills_the_context_is_named_and_left_out_of_the_next_run(tmp_path: Path) -> None:
    fault = {"kind": "sticky", "op": "_scaled_mm"}
    machine = Machine(chip=SMALL, faults=(fault,))
    command = ("calibrate", "--quick", "--device", "cuda:0", "--json", "--profile-dir",
               str(tmp_path / "profiles"))  # fmt: skip
    first = simulate(machine, *command, folder=tmp_path)
    assert first.code == 2
    assert "the GPU was lost during probe: matmul fp8" in first.err
    second = simulate(machine, *command, folder=tmp_path)
    assert second.code == 0, second.err[-3000:]
    profile = Profile.model_validate_json(second.out)
    (left_out,) = [w for w in profile.warnings if "fp8" in w and w.startswith("not measured")]
    assert "skipped, because the GPU was lost during it" in left_out
    assert points(profile, "matmul", dtype="bfloat16")


def test_device_that_is_lost_does_not_cost_the_others_and_is_resumed(tmp_path: Path) -> None:
    fault = {"kind": "lost", "device": 1, "after_s": 1.0}
    machine = Machine(gpus=2, chip=SMALL, faults=(fault,))
    command = ("calibrate", "--quick", "--device", "cuda:0,cuda:1", "--json", "--profile-dir",
               str(tmp_path / "profiles"), "--dtypes", "bfloat16")  # fmt: skip
    first = simulate(machine, *command, folder=tmp_path)
    assert first.code == 2
    assert "1 of 2 devices could not be measured (cuda:1: the GPU was lost during" in first.err
    (kept,) = (tmp_path / "profiles").glob("*.json")
    assert Profile.model_validate_json(kept.read_bytes()).environment.device_index == 0
    (journal,) = (tmp_path / "profiles" / "unfinished").glob("*.jsonl")
    measured = sum('"key"' in line for line in journal.read_text().splitlines())
    (tmp_path / "lost-1").unlink()  # somebody has reset the GPU
    whole = replace(machine, faults=())
    again = simulate(whole, *(a.replace("cuda:0,", "") for a in command), folder=tmp_path)
    assert again.code == 0, again.err[-3000:]
    profile = Profile.model_validate_json(again.out)
    assert profile.environment.device_index == 1
    assert sum("skipped, because the GPU was lost" in w for w in profile.warnings) <= 1
    (samples,) = [p for p in (tmp_path / "profiles").glob("*.samples.jsonl") if "gpu1" in p.name]
    assert samples.read_text().startswith(journal.read_text() if journal.exists() else "{")
    assert measured > 10


def health(machine: Machine, folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    ran = simulate(
        machine, "fleet", "healthcheck", "--json", "--profile-dir", str(folder / "profiles"),
        *more, folder=folder,
    )  # fmt: skip
    return ran.code, json.loads(ran.out)


def test_health_check_finds_the_gpu_whose_memory_is_slow(folder: Path, quick: Profile) -> None:
    code, found = health(Machine(gpus=2), folder)
    assert (code, found["state"]) == (0, "OK"), found
    slow = {"kind": "slow", "device": 1, "memory_bytes_per_s": 2.0e12}
    code, found = health(Machine(gpus=2, faults=(slow,)), folder)
    assert (code, found["state"]) == (2, "FAIL")
    blamed = {(r["gpu"], r["metric"]) for r in found["rows"] if r["state"] == "FAIL"}
    assert {gpu for gpu, _ in blamed} == {1}
    assert {m for _, m in blamed} >= {"hbm_read", "hbm_triad"}


def test_health_check_fails_on_hardware_errors_alone(folder: Path, quick: Profile) -> None:
    code, found = health(Machine(driver={"ecc": 2, "xids": [94]}), folder)
    assert (code, found["state"]) == (2, "FAIL")
    failed = {r["metric"]: r for r in found["rows"] if r["state"] == "FAIL"}
    assert set(failed) == {"ecc_xid_errors", "ecc_uncorrected_volatile"}
    row = failed["ecc_xid_errors"]
    assert "2 uncorrected ECC errors" in row["note"] and "XID error 94" in row["note"]


def test_standard_calibration_measures_experts_sustained_rates_and_both_accumulations(
    tmp_path: Path,
) -> None:
    chip = replace(SMALL, power_cap_w=H100.power_cap_w)
    profile = calibrated(Machine(chip=chip), tmp_path, "--dtypes", "bfloat16,fp8,fp8_exact")
    assert not [w for w in profile.warnings if w.startswith("not measured: m")]
    experts = [law for law in profile.laws if law.operation == "experts"]
    assert {law.config_key["distribution"] for law in experts} == {"balanced", "zipf"}
    (sustained,) = points(profile, "matmul_sustained", dtype="bfloat16")
    assert sustained.power_w == pytest.approx(chip.power_cap_w, rel=0.03)
    rates = {r.quantity: r.value for r in profile.rates}
    assert rates["matmul fp8"] == pytest.approx(1.2e15, rel=0.05)
    assert rates["matmul fp8_exact"] == pytest.approx(0.9e15, rel=0.05)
    data = {c.config_key["data"]: c.points[0] for c in profile.curves
            if c.operation == "matmul_data"}  # fmt: skip
    assert (data["zeros"].power_w or 0) < 0.8 * (data["normal"].power_w or 0)
