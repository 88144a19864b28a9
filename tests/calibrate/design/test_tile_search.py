"""The tuner takes the fastest tile that is right, and the profiler says what ran."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from groundspeed.calibrate.design.measurement_plan import MODES, PlannedCase, only_dtypes
from groundspeed.calibrate.design.tile_search import fastest, tile_name, trials, tuned_shapes
from groundspeed.calibrate.timing.kernel_names import kernel_name
from groundspeed.kernels.matmul.matmul_triton import TILES

SHAPE = {"m": 64.0, "n": 256.0, "k": 128.0}


def test_the_fastest_tile_that_ran_wins() -> None:
    times = {case.key: 1.0 + 0.1 * i for i, case in enumerate(trials(SHAPE))}
    wrong, slow, *_ = times
    times[slow] = 0.5

    def trial(case: PlannedCase) -> float | None:
        return None if case.key == wrong else times[case.key]

    best = fastest(trials(SHAPE), trial)
    assert best is not None and best.key == slow
    assert tile_name(best) == f"tile:{TILES[1].name}"
    assert fastest(trials(SHAPE), lambda case: None) is None


def test_each_tile_is_its_own_entry_of_the_journal() -> None:
    keys = [case.key for case in trials(SHAPE)]
    assert len(set(keys)) == len(TILES)
    unaligned = {**SHAPE, "n": 257.0}
    assert len(trials(unaligned)) == sum(not t.persistent for t in TILES)


def test_a_minute_tunes_one_shape_and_more_time_a_decode_step_too() -> None:
    assert len(tuned_shapes(MODES["quick"])) == 1
    assert min(s["m"] for s in tuned_shapes(MODES["standard"])) == 16.0


def test_name_of_what_ran() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, w = (torch.randn(256, 256, device=device) for _ in range(2))
    name = kernel_name([lambda: torch.nn.functional.linear(x, w)], device)
    assert name is not None
    assert name == "aten::mm" if device.type == "cpu" else "gemm" in name.lower()


def test_chosen_data_types_replace_those_of_the_mode() -> None:
    mode = only_dtypes(MODES["quick"], ("float32", "int8"))
    assert set(mode.matmul_points) == {"float32", "int8"}
    assert only_dtypes(MODES["quick"], ()) is MODES["quick"]
