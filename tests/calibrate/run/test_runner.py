"""A run measures disturbed cases again, prefers quieter results, and skips what has killed it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from groundspeed.calibrate.design.measurement_plan import PlannedCase, planned
from groundspeed.calibrate.run import runner
from groundspeed.calibrate.run.journal import Entry, Journal
from groundspeed.calibrate.run.runner import MOST_REPEATED, Run
from groundspeed.kernels.matmul.matmul import TorchMatmul
from groundspeed.profiles.schema import Point

KERNEL = TorchMatmul("float32")


def case(m: int) -> PlannedCase:
    return planned(KERNEL, {"m": float(m), "n": 64.0, "k": 64.0})


def point(time_s: float, *tags: str) -> Point:
    return Point(
        case={"m": 1.0}, time_s=time_s, q10_s=time_s, q90_s=time_s, low_s=time_s, high_s=time_s,
        samples=10, flops=1.0, bytes=1.0, stop="precise", tags=tags,
    )  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "j.jsonl", {"run": 1}) as opened:
        yield opened


def run_with(journal: Journal, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run whose measurements are given by the key of the case: a point, or an error."""
    bench: Any = SimpleNamespace(pool=SimpleNamespace(device=torch.device("cpu")))
    started = Run(journal, bench, lambda *_: None)

    def measure(kernel: Any, sizes: Any, harness: Any, *, tags: Any = ()) -> Any:
        answer = answers[f"m={sizes['m']:.0f}"].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(point=answer, samples_s=(answer.time_s,))

    monkeypatch.setattr(runner, "measure", measure)
    return started


def test_disturbed_case_is_measured_again_and_the_quieter_result_is_used(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "m=1": [point(2.0, "drift"), point(1.0)],
        "m=2": [point(2.0, "bimodal"), point(3.0, "bimodal", "drift")],
        "m=3": [point(2.0, "outliers")],
    }
    run = run_with(journal, answers, monkeypatch)
    plan = [case(m) for m in (1, 2, 3)] * 5  # of which a share may be repeated
    entries = {m: run.entry(case(m)) for m in (1, 2, 3)}
    run.repeat_disturbed(plan)
    used = {m: run.better(case(m), e).point.time_s for m, e in entries.items() if e is not None}
    assert used == {1: 1.0, 2: 2.0, 3: 2.0}
    assert answers == {"m=1": [], "m=2": [], "m=3": []}


def test_only_a_share_of_a_plan_is_repeated(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {f"m={m}": [point(2.0, "drift"), point(1.0)] for m in range(1, 41)}
    run = run_with(journal, answers, monkeypatch)
    plan = [case(m) for m in range(1, 41)]
    for planned_case in plan:
        run.entry(planned_case)
    run.repeat_disturbed(plan)
    again = [key for key in journal.entries if key.startswith("again: ")]
    assert len(again) == round(MOST_REPEATED * len(plan))


def test_failed_case_is_skipped_with_its_reason_and_does_not_end_the_run(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"m=1": [ValueError("no kernel\nmore")], "m=2": [point(1.0)]}
    run = run_with(journal, answers, monkeypatch)
    assert run.entry(case(1)) is None
    assert run.entry(case(2)) is not None
    (reason,) = run.skipped
    assert reason.endswith("m=1 n=64 k=64: ValueError: no kernel")
    assert journal.reason_to_skip(case(1).key) is None  # it has ended: the next run tries again


def test_case_during_which_two_runs_ended_is_not_tried_again(tmp_path: Path) -> None:
    for number in range(3):
        with Journal(tmp_path / "j", {"run": 1}) as opened:
            expected = None if number < 2 else "skipped, because 2 runs ended during it"
            assert opened.reason_to_skip("gemm") == expected
            opened.begin("gemm")  # and the process is killed


def test_case_that_ended_in_an_entry_is_not_blamed_for_the_end_of_a_run(tmp_path: Path) -> None:
    for _ in range(3):
        with Journal(tmp_path / "j", {"run": 1}) as opened:
            opened.begin("gemm")
            opened.append(Entry(key="gemm", point=point(1.0), samples_s=(1.0,)))
    with Journal(tmp_path / "j", {"run": 1}) as opened:
        assert opened.reason_to_skip("gemm") is None
        opened.blame("other", "lost")
    with Journal(tmp_path / "j", {"run": 1}) as opened:
        assert "the GPU was lost during it (lost)" in str(opened.reason_to_skip("other"))


def test_working_set_of_any_size_is_read_by_all_compute_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from groundspeed.kernels.memory import working_set_triton

    monkeypatch.setattr(working_set_triton, "compute_units", lambda device: 132)
    small = working_set_triton.TritonWorkingSet._grid(torch.empty(2**14))
    assert small == (132 * working_set_triton.PROGRAMS_PER_UNIT,)


def test_settings_that_an_older_torch_lacks_are_left_out() -> None:
    from dataclasses import dataclass

    from groundspeed.calibrate.links.local_ranks import _where_known

    @dataclass
    class Older:
        nproc_per_node: int = 1

    @dataclass
    class Newer(Older):
        shutdown_timeout: int = 30

    assert _where_known(Older, shutdown_timeout=5) == {}
    assert _where_known(Newer, shutdown_timeout=5) == {"shutdown_timeout": 5}
