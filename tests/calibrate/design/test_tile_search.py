"""The tile search takes the fastest tile with a correct result; the profiler names the kernel."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from groundspeed.calibrate.design.measurement_plan import MODES, PlannedCase, only_dtypes
from groundspeed.calibrate.design.tile_search import fastest, tile_name, trials, tuned_shapes
from groundspeed.calibrate.timing.kernel_names import kernel_name
from groundspeed.kernels.matmul.matmul_triton import TILES

SHAPE = {"m": 64.0, "n": 256.0, "k": 128.0}


def test_search_takes_the_fastest_tile_among_those_that_succeed() -> None:
    times = {case.key: 1.0 + 0.1 * i for i, case in enumerate(trials(SHAPE))}
    wrong, slow, *_ = times
    times[slow] = 0.5

    def trial(case: PlannedCase) -> float | None:
        return None if case.key == wrong else times[case.key]

    best = fastest(trials(SHAPE), trial)
    assert best is not None and best.key == slow
    assert tile_name(best) == f"tile:{TILES[1].name}"
    assert fastest(trials(SHAPE), lambda case: None) is None


def test_each_tile_has_its_own_key_and_unaligned_shapes_skip_persistent_tiles() -> None:
    keys = [case.key for case in trials(SHAPE)]
    assert len(set(keys)) == len(TILES)
    unaligned = {**SHAPE, "n": 257.0}
    assert len(trials(unaligned)) == sum(not t.persistent for t in TILES)


def test_quick_mode_tunes_one_shape_and_standard_mode_also_a_decode_shape() -> None:
    assert len(tuned_shapes(MODES["quick"])) == 1
    assert min(s["m"] for s in tuned_shapes(MODES["standard"])) == 16.0


def test_kernel_name_is_read_from_the_profiler() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, w = (torch.randn(256, 256, device=device) for _ in range(2))
    name = kernel_name([lambda: torch.nn.functional.linear(x, w)], device)
    assert name is not None
    assert name == "aten::mm" if device.type == "cpu" else "gemm" in name.lower()


def test_given_data_types_replace_those_of_the_mode() -> None:
    mode = only_dtypes(MODES["quick"], ("float32", "int8"))
    assert set(mode.matmul_points) == {"float32", "int8"}
    assert only_dtypes(MODES["quick"], ()) is MODES["quick"]
