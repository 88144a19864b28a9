"""Timing and sensors on a simulated GPU whose true speed, power and errors are known."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from simulation import MI300X, Chip, Machine, simulate_program

SCENARIOS = Path(__file__).parent / "scenarios.py"
CHIP = Chip()


def scenario(name: str, machine: Machine, folder: Path, **more: str) -> dict[str, Any]:
    """Run one scenario in a process of its own, and return what it prints."""
    ran = simulate_program(machine, [sys.executable, "-P", str(SCENARIOS), name], folder, **more)
    assert ran.code == 0, ran.err[-3000:]
    found: dict[str, Any] = json.loads(ran.out)
    return found


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    machine = Machine(chip=replace(CHIP, power_cap_w=2000.0))
    return scenario("timing", machine, tmp_path_factory.mktemp("timing"))


def test_event_timing_gives_the_time_of_the_simulated_kernel_within_one_percent(
    timed: dict[str, Any],
) -> None:
    long = timed["long"]
    truth = CHIP.kernel_s(flops=long["flops"], cold_bytes=long["bytes"])
    assert long["time_s"] == pytest.approx(truth, rel=0.01)
    assert long["tags"] == []


def test_graph_timing_gives_the_time_of_the_simulated_kernel_within_one_percent(
    timed: dict[str, Any],
) -> None:
    short = timed["short"]
    truth = CHIP.kernel_s(flops=short["flops"], cold_bytes=short["bytes"]) + CHIP.graph_gap_s
    assert short["time_s"] == pytest.approx(truth, rel=0.01)
    assert short["tags"] == []


def test_operands_come_from_memory_and_a_case_too_small_for_that_is_tagged_warm(
    timed: dict[str, Any],
) -> None:
    assert timed["cached_share"] < 0.01
    assert "warm" in timed["tiny"]["tags"]


def test_fast_and_exact_accumulation_of_fp8_are_measured_apart(tmp_path: Path) -> None:
    found = scenario("fp8", Machine(chip=replace(CHIP, power_cap_w=2000.0)), tmp_path)
    for name, dtype in (("fast", "fp8"), ("exact", "fp8_slow")):
        point = found[name]
        truth = CHIP.kernel_s(flops=point["flops"], dtype=dtype, cold_bytes=point["bytes"])
        assert point["time_s"] == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize("host_s", [4e-6, 25e-6])
def test_launch_overhead_of_the_device_does_not_depend_on_a_slow_host(
    tmp_path: Path, host_s: float
) -> None:
    """A queue holds about a thousand launches: more of them would measure the host."""
    found = scenario("launches", Machine(chip=replace(CHIP, launch_host_s=host_s)), tmp_path)
    assert found["queued"] == pytest.approx(CHIP.kernel_start_s, rel=0.01)
    assert found["eager"] == pytest.approx(host_s, rel=0.02)
    assert found["graph"] == pytest.approx(CHIP.kernel_start_s + CHIP.graph_gap_s, rel=0.01)


def test_spin_is_calibrated_at_the_clock_that_the_device_has_under_load(tmp_path: Path) -> None:
    found = scenario("spin", Machine(), tmp_path)
    assert found["cycles_per_s"] == pytest.approx(CHIP.max_clock_hz, rel=0.02)


def test_failed_capture_leaves_the_stream_as_it_was(tmp_path: Path) -> None:
    found = scenario("failed_capture", Machine(), tmp_path)
    assert "not-in-graph" in found["first"]
    assert found["stream"] == 0
    assert found["second"] == []
    expected = CHIP.kernel_start_s + CHIP.graph_gap_s
    assert found["time_s"] == pytest.approx(expected, rel=0.02)


def test_power_belongs_to_the_case_and_not_to_its_predecessor(tmp_path: Path) -> None:
    found = scenario("power", Machine(), tmp_path)
    assert found["hot"]["power_w"] == pytest.approx(CHIP.power_cap_w, rel=0.03)
    cool = found["cool"]
    full_s = CHIP.kernel_s(flops=cool["flops"], dtype="float32", cold_bytes=cool["bytes"])
    at_work = cool["bytes"] / CHIP.memory_bytes_per_s / full_s
    truth = CHIP.idle_w + CHIP.compute_w + CHIP.memory_w * at_work
    assert cool["power_w"] == pytest.approx(truth, rel=0.05)


def test_power_averaged_over_a_second_is_not_reported_for_a_short_case(tmp_path: Path) -> None:
    machine = Machine(driver={"no_instant_power": True})
    found = scenario("power", machine, tmp_path)
    assert found["hot"]["power_w"] == pytest.approx(CHIP.power_cap_w, rel=0.1)
    assert found["cool"]["power_w"] is None
    assert found["cool"]["clock_mhz"] is not None


def test_throttled_case_is_tagged_and_its_clock_is_the_lower_one(tmp_path: Path) -> None:
    machine = Machine(chip=replace(CHIP, power_cap_w=400.0))
    point = scenario("sensors", machine, tmp_path)["point"]
    full_s = CHIP.kernel_s(flops=point["flops"], cold_bytes=point["bytes"])
    memory_share = point["bytes"] / CHIP.memory_bytes_per_s / full_s
    needed = CHIP.compute_w + CHIP.memory_w * memory_share
    fraction = ((400.0 - CHIP.idle_w) / needed) ** (1 / 3)
    truth = CHIP.kernel_s(flops=point["flops"], cold_bytes=point["bytes"], clock_fraction=fraction)
    assert "throttled:power-cap" in point["tags"]
    assert point["time_s"] == pytest.approx(truth, rel=0.02)
    assert point["clock_mhz"] == pytest.approx(CHIP.max_clock_hz * fraction / 1e6, rel=0.02)
    assert point["power_w"] == pytest.approx(400.0, rel=0.03)


def test_own_process_is_not_counted_as_another_in_a_container(tmp_path: Path) -> None:
    """In a container NVML lists the process numbers of the host, where ours is unknown."""
    found = scenario("sensors", Machine(driver={"host_pids": True}), tmp_path / "alone")
    assert found["state"]["other_processes"] == 0
    shared = Machine(driver={"host_pids": True, "others": [77]})
    found = scenario("sensors", shared, tmp_path / "shared")
    assert found["state"]["other_processes"] == 1


def test_slice_of_a_gpu_is_found_by_its_own_uuid(tmp_path: Path) -> None:
    found = scenario("sensors", Machine(driver={"mig": True}), tmp_path)
    assert found["state"]["partition_mode"] == "MIG"
    assert "slice" in found["description"]
    assert found["point"]["clock_mhz"] is not None


def test_hardware_errors_during_a_run_are_reported(tmp_path: Path) -> None:
    broken = Machine(driver={"ecc": 3, "remapped": 1, "xids": [63, 63]})
    found = scenario("sensors", broken, tmp_path)
    text = "; ".join(found["errors"])
    assert "3 uncorrected ECC errors" in text
    assert "row remapping waits for a reset" in text
    assert text.count("XID error 63") == 1
    assert found["counters"] == {
        "ecc_uncorrected_volatile": 3.0, "ecc_corrected_volatile": 0.0, "row_remap_pending": 1.0,
        "rows_remapped_corrected": 0.0, "rows_remapped_uncorrected": 1.0, "row_remap_failure": 0.0,
        "pcie_replay_count": 0.0,
    }  # fmt: skip


def test_settings_that_slow_a_gpu_are_read_on_both_vendors(tmp_path: Path) -> None:
    machine = Machine(driver={"pcie_width": 8, "nvlinks": 12, "clock_limit": 1200})
    settings = scenario("sensors", machine, tmp_path / "nvidia")["settings"]
    wanted = {"pcie_width": "8", "pcie_gen": "5", "nvlinks": "12", "clock_limit": "1200",
              "power_cap": "700", "ecc": "1", "driver": "570.124.06"}  # fmt: skip
    assert settings.items() >= wanted.items()
    settings = scenario("sensors", Machine(chip=MI300X), tmp_path / "amd")["settings"]
    assert settings.items() >= {"pcie_width": "16", "pcie_gen": "5", "power_cap": "750"}.items()


@pytest.mark.parametrize("silent", [["power"], ["clock", "throttle"], ["temperature"]])
def test_silent_sensor_leaves_its_value_open_and_the_others_stay(
    tmp_path: Path, silent: list[str]
) -> None:
    point = scenario("sensors", Machine(driver={"silent": silent}), tmp_path)["point"]
    values = {"power": point["power_w"], "clock": point["clock_mhz"],
              "temperature": point["temperature_c"]}  # fmt: skip
    assert {name for name, value in values.items() if value is None} == set(silent) - {"throttle"}


def test_machine_without_nvml_is_measured_without_sensors(tmp_path: Path) -> None:
    found = scenario("sensors", Machine(driver={"no_nvml": True}), tmp_path)
    assert found["description"].startswith("none (NVML: ")
    assert found["point"]["time_s"] > 0


def test_amd_gpu_is_measured_with_throttling_power_and_partition(tmp_path: Path) -> None:
    machine = Machine(
        chip=replace(MI300X, power_cap_w=400.0), driver={"partition": ("CPX", "NPS4")}
    )
    found = scenario("sensors", machine, tmp_path)
    assert "throttled:power-cap" in found["point"]["tags"]
    assert found["state"]["partition_mode"] == "CPX NPS4"
    assert found["state"]["power_cap_w"] == 400.0
    assert found["state"]["other_processes"] == 0
    assert found["point"]["power_w"] == pytest.approx(400.0, rel=0.03)


def test_amd_gpu_without_a_current_power_sensor_reports_no_power_for_short_cases(
    tmp_path: Path,
) -> None:
    machine = Machine(chip=MI300X, driver={"silent": ["current_power"]})
    found = scenario("power", machine, tmp_path)
    assert found["cool"]["power_w"] is None
    assert found["hot"]["power_w"] is not None


def test_whole_gpu_has_its_datasheet_and_a_part_of_it_has_none(tmp_path: Path) -> None:
    whole = scenario("device", Machine(chip=MI300X), tmp_path)
    assert (whole["name"], whole["datasheet"]) == ("AMD Instinct MI300X", "mi300x")
    partition = Machine(
        chip=replace(MI300X, compute_units=38), driver={"partition": ("CPX", "NPS4")}
    )
    part = scenario("device", partition, tmp_path)
    assert part["name"] == "AMD Instinct MI300X, 38 of 304 compute units"
    assert part["datasheet"] is None and "only a part" in part["note"]
    mig = Machine(chip=replace(CHIP, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", compute_units=16))
    part = scenario("device", mig, tmp_path)
    assert part["datasheet"] is None and "slice of a GPU" in part["note"]


def test_journals_of_two_gpus_that_processes_see_as_number_zero_differ(tmp_path: Path) -> None:
    machine = Machine(gpus=2)
    names = {
        scenario("device", machine, tmp_path, CUDA_VISIBLE_DEVICES=visible)["journal"]
        for visible in ("0", "1", "0,1")
    }
    assert len(names) == 2  # the first and the last show the same GPU as number 0
