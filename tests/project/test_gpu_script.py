"""``make gpu`` keeps its budget, continues, and never loses a step to the failure of another."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from repository import ROOT
from simulation import Chip, Machine, simulate_program


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "scripts" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_script"] = module
    spec.loader.exec_module(module)
    return module


class Clock:
    """A clock that the steps advance by writing their durations into a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "elapsed"
        self.order = folder / "order"

    def step(self, gpu: ModuleType, name: str, seconds: float, *, expected: float | None = None,
             code: int = 0, resumes: bool = False) -> Any:  # fmt: skip
        script = (
            f"open({str(self.file)!r}, 'a').write('{seconds}\\n');"
            f"open({str(self.order)!r}, 'a').write({name!r} + '\\n');"
            f"import sys; print('done'); print('broken', file=sys.stderr); sys.exit({code})"
        )
        wanted = seconds if expected is None else expected
        return gpu.Step(name, [sys.executable, "-c", script], wanted, resumes)

    def ran(self) -> list[str]:
        return self.order.read_text().split() if self.order.exists() else []


def test_every_call_stays_within_its_budget_and_three_calls_run_all_but_two_steps(
    gpu: ModuleType, tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    durations = [step.expected_s for step in gpu.steps(tmp_path)]
    named = [clock.step(gpu, f"step{i}", s) for i, s in enumerate(durations)]
    now, before = gpu.elapsed_in(clock.file), 0.0
    for call in range(5):
        gpu.run_steps(named, tmp_path, 540.0, now)
        assert now() - before <= 540.0, call
        before = now()
        if call == 2:  # a large model and a full calibration take calls of their own
            assert set(clock.ran()) >= {f"step{i}" for i in range(len(named) - 2)}
    assert sorted(clock.ran()) == sorted({s.name for s in named})
    assert clock.ran()[0] == "step0"


def test_most_valuable_steps_come_first(gpu: ModuleType, tmp_path: Path) -> None:
    names = [step.name for step in gpu.steps(tmp_path)]
    assert names[0] == "quick 1" and names[1].startswith("verify ")
    first_call, used = [], 0.0
    for step in gpu.steps(tmp_path):
        if used + step.expected_s <= 540.0:
            first_call.append(step.name)
            used += step.expected_s
    assert {"quick 1", "quick 2", "health", "peers"} <= set(first_call)
    assert sum(name.startswith("verify ") for name in first_call) >= 2


def test_verifications_cover_twelve_configurations(gpu: ModuleType, tmp_path: Path) -> None:
    configurations = 0
    for step in gpu.steps(tmp_path):
        if step.name in ("verify qwen2.5-7b", "verify llama-3.1-8b", "verify qwen2.5-32b"):
            after = dict(zip(step.command, step.command[1:], strict=False))
            prompts, batches = (after[o].split(",") for o in ("--prompts", "--batches"))
            configurations += len(prompts) * len(batches)
    assert configurations == 12


def test_failed_step_is_told_in_the_table_and_does_not_cost_the_next(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(tmp_path)
    chosen = [clock.step(gpu, "first", 10, code=3), clock.step(gpu, "second", 10)]
    for _ in range(2):
        gpu.run_steps(chosen, tmp_path, 540.0, gpu.elapsed_in(clock.file))
    gpu.table(tmp_path, chosen)
    out = capsys.readouterr().out
    assert clock.ran() == ["first", "second"]
    assert "failed: broken" in out and "second                   done" in out


def test_step_that_does_not_fit_waits_and_a_smaller_one_runs_instead(
    gpu: ModuleType, tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    chosen = [clock.step(gpu, "a", 300), clock.step(gpu, "b", 300), clock.step(gpu, "c", 100)]
    now = gpu.elapsed_in(clock.file)
    gpu.run_steps(chosen, tmp_path, 540.0, now)
    assert clock.ran() == ["a", "c"]
    gpu.run_steps(chosen, tmp_path, 540.0, now)
    assert clock.ran() == ["a", "c", "b"]


def test_repeatability_of_two_calibrations_is_the_median_difference(gpu: ModuleType) -> None:
    rates = [{"quantity": q, "value": v} for q, v in (("a", 100.0), ("b", 10.0), ("c", 1.0))]
    again = [{"quantity": q, "value": v} for q, v in (("a", 101.0), ("b", 10.0), ("c", 2.0))]
    assert gpu.repeatability({"rates": rates}, {"rates": again}) == pytest.approx(0.01)


@pytest.mark.slow
def test_first_steps_on_a_simulated_gpu_fit_their_expected_time(
    gpu: ModuleType, tmp_path: Path
) -> None:
    """The simulated clock tells how long the device and its host would be busy."""
    pytest.importorskip("triton", reason="triton is not installed")
    out = tmp_path / "out"
    command = [sys.executable, "-P", str(ROOT / "scripts" / "gpu.py"), str(out), "--clock",
               str(tmp_path / "elapsed"), "--only", "quick 1,health"]  # fmt: skip
    machine = Machine(chip=Chip(name="Simulated GPU", l2_bytes=6 * 2**20))
    ran = simulate_program(machine, command, tmp_path)
    assert ran.code == 0, ran.err
    profile = json.loads((out / "quick_1.txt").read_text())
    assert {r["quantity"] for r in profile["rates"]} >= {"matmul bfloat16", "memory read"}
    assert {r["metric"] for r in json.loads((out / "health.txt").read_text())["rows"]} >= {
        "matmul_bfloat16", "hbm_read", "ecc_xid_errors",
    }  # fmt: skip
    quick_s = float((tmp_path / "elapsed").read_text().split()[0])
    assert quick_s < 60.0
