"""Measurement plans are reproducible, respect the device's limits and cover real models."""

import math
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from groundspeed.calibrate.design.candidates import matmul_candidates
from groundspeed.calibrate.design.measurement_plan import (
    MODES,
    Limits,
    PlannedCase,
    expected_s,
    make_plan,
    matmul_kernel,
    reference_cases,
)
from groundspeed.calibrate.design.peak_search import LARGEST, SMALLEST, walk_to_peak
from groundspeed.calibrate.fit.dispatch import fit_curve_law
from groundspeed.calibrate.run.build_profile import WARM
from groundspeed.kernels.memory.gather import PAGE_BYTES
from groundspeed.kernels.memory.stream import ARRAYS, array_items
from groundspeed.profiles import InputError
from groundspeed.profiles.datasheet import find_device
from groundspeed.profiles.operations import item_bytes
from groundspeed.profiles.schema import Curve, Device, Point

H200 = Device(
    name="NVIDIA H200",
    kind="cuda",
    vendor="nvidia",
    architecture="sm_90",
    compute_units=132,
    memory_bytes=150e9,
    last_level_cache_bytes=62914560.0,
)
CPU = H200.model_copy(update={"name": "cpu", "kind": "cpu", "compute_units": 2})
FAST = Limits(
    0.05,
    {"bfloat16": 7e14, "float16": 7e14, "float32": 5e13, "tf32": 4e14, "fp8": 1.2e15,
     "fp8_row": 1.1e15, "int8": 1.2e15},
    4e14,
    2.0**32,
)  # fmt: skip
SLOW = Limits(0.05, {"bfloat16": 8e11, "float16": 5e10, "float32": 1.8e11}, 1e11, 2.0**29)


def plan(device: Device, mode: str) -> list[PlannedCase]:
    return make_plan(device, MODES[mode], FAST if device.kind == "cuda" else SLOW, seed=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("device", [H200, CPU], ids=lambda d: d.kind)
def test_plan_is_reproducible_and_lists_each_case_once(device: Device, mode: str) -> None:
    keys = [case.key for case in plan(device, mode)]
    assert keys == [case.key for case in plan(device, mode)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("device", [H200, CPU], ids=lambda d: d.kind)
def test_every_case_is_within_the_time_and_memory_limits(device: Device) -> None:
    limits = FAST if device.kind == "cuda" else SLOW
    for case in plan(device, "full"):
        cost = case.kernel.cost(case.case)
        dtype = case.kernel.config_key.get("dtype", "bfloat16")
        if case.kernel.operation in ("matmul", "matmul_projections"):
            assert cost.flops / limits.flops_per_s[dtype] <= limits.seconds, case.key
        assert max(cost.read_bytes, cost.written_bytes) <= limits.operand_bytes, case.key


def test_gpu_plan_covers_the_prefill_of_real_models() -> None:
    """Qwen2.5-7B's gate-up product on 4096 tokens takes 1.1 TFLOP; its head reads 1.1 GB."""
    matmuls = [c for c in plan(H200, "quick") if c.key.startswith("matmul bfloat16 torch")]
    costs = [c.kernel.cost(c.case) for c in matmuls]
    assert max(c.flops for c in costs) > 1.2e12
    assert max(c.bytes for c in costs) > 1.2e9
    assert sum(c.flops / 7e14 > 50e-6 for c in costs) >= 8


def test_stream_cases_include_two_sizes_above_four_times_the_cache() -> None:
    beyond = [
        c
        for c in plan(H200, "quick")
        if c.key.startswith("stream copy float32 torch") and c.case["bytes"] > 4 * 62914560
    ]
    assert len(beyond) >= 2


def test_standard_gpu_plan_has_every_kernel_family() -> None:
    operations = {c.kernel.operation for c in plan(H200, "standard")}
    assert {
        "matmul", "stream", "attention_prefill", "attention_decode", "elementwise", "launch",
        "latency", "host_link", "experts", "mla_decode", "mla_prefill",
    } <= operations  # fmt: skip
    full = {c.kernel.operation for c in plan(H200, "full")}
    assert {"matmul_projections", "matmul_alignment"} <= full
    assert set(WARM) <= operations


def test_cpu_plan_has_only_torch_kernels_and_cpu_data_types() -> None:
    backends = {c.kernel.backend for c in plan(CPU, "full")}
    assert backends == {"torch"}
    assert MODES["full"].dtypes("cpu") == ["bfloat16", "float16", "float32"]


def test_reference_cases_take_more_than_100_us() -> None:
    """On an H200, a reference case below 100 us would mostly measure its launch latency."""
    sticks = reference_cases("cuda")
    compute = matmul_kernel("bfloat16").cost(sticks.references["compute"])
    memory = matmul_kernel("bfloat16").cost(sticks.references["memory"])
    assert compute.flops / 989e12 > 100e-6
    assert memory.bytes / 4.8e12 > 100e-6


def test_quick_plan_is_expected_to_take_under_a_minute_on_an_h200() -> None:
    assert expected_s(plan(H200, "quick"), MODES["quick"], FAST) < 60.0


def test_unknown_dtype() -> None:
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        matmul_kernel("bfloat61")


def surface(optimum: dict[str, float]) -> Callable[[dict[str, float]], float]:
    """A rate that falls with the distance from an optimum, in doublings of each dimension."""

    def rate(shape: dict[str, float]) -> float:
        away = sum(abs(math.log2(shape[a] / optimum[a])) for a in optimum)
        return 1e15 / (1.0 + 0.1 * away)

    return rate


@pytest.mark.parametrize(
    "optimum", [(8192.0, 8192.0, 8192.0), (16384.0, 4096.0, 1024.0), (64.0, 32768.0, 4096.0)]
)
@pytest.mark.parametrize("start", [(1024.0, 1024.0, 1024.0), (4096.0, 512.0, 16384.0)])
def test_peak_search_walks_to_a_distant_optimum(
    optimum: tuple[float, ...], start: tuple[float, ...]
) -> None:
    rate = surface(dict(zip("mnk", optimum, strict=True)))
    begin = dict(zip("mnk", start, strict=True))
    best, reached = walk_to_peak(begin, rate(begin), rate, steps=60)
    assert best == dict(zip("mnk", optimum, strict=True))
    assert reached == pytest.approx(1e15)


def test_peak_search_reaches_a_large_square_within_the_steps_of_a_quick_calibration() -> None:
    rate = surface(dict.fromkeys("mnk", 8192.0))
    begin = dict.fromkeys("mnk", 1024.0)
    assert walk_to_peak(begin, rate(begin), rate, steps=MODES["quick"].peak_steps)[0] == (
        dict.fromkeys("mnk", 8192.0)
    )


@pytest.mark.parametrize("steps", [0, 4, 12])
def test_peak_search_measures_distinct_shapes_within_bounds(steps: int) -> None:
    measured: list[dict[str, float]] = []

    def rate(shape: dict[str, float]) -> float:
        measured.append(shape)
        return 0.0

    begin = {"m": 64.0, "n": 32768.0, "k": 1024.0}
    assert walk_to_peak(begin, 1.0, rate, steps=steps) == (begin, 1.0)
    assert len(measured) <= steps
    assert all(SMALLEST <= v <= LARGEST for s in measured for v in s.values())
    assert len({tuple(s.values()) for s in measured}) == len(measured)


def test_every_planned_stream_has_arrays_that_are_multiples_of_sixteen_elements() -> None:
    """Triton compiles 16-byte loads only for sizes that are multiples of 16."""
    streams = [c for c in plan(H200, "full") if c.kernel.operation == "stream"]
    assert len({c.case["bytes"] for c in streams}) >= 20
    for case in streams:
        mode = case.kernel.config_key["mode"]
        if mode == "gather":
            assert case.case["bytes"] % (2 * PAGE_BYTES) == 0
            continue
        items = array_items(case.case, mode, case.kernel.config_key["dtype"])
        assert items % 16 == 0
        assert items * sum(ARRAYS[mode]) * 4 == case.case["bytes"]


@pytest.mark.parametrize("dtype", sorted({d for m in MODES.values() for d in m.matmul_points}))
def test_every_planned_data_type_has_a_size_and_a_law(dtype: str) -> None:
    """A data type without them would fail after all measurements, when the laws are fitted."""
    assert item_bytes(dtype) > 0
    kernel = matmul_kernel(dtype)
    assert kernel.config_key["dtype"] == dtype
    points = tuple(
        Point(
            case=case, time_s=t, q10_s=t, q90_s=t, low_s=t, high_s=t, samples=10, flops=cost.flops,
            bytes=cost.bytes, stop="precise",
        )
        for case in matmul_candidates(0)[:40]
        for cost in [kernel.cost(case)]
        for t in [2e-6 + max(cost.flops / 7e14, cost.bytes / 3e12)]
    )  # fmt: skip
    curve = Curve(
        operation="matmul", config_key=dict(kernel.config_key), backend="torch", cache="cold",
        origin="measured", source="test", points=points,
    )  # fmt: skip
    sheet = find_device("h100-sxm").spec
    law = fit_curve_law(curve, "test", datasheet=sheet, on_cpu=False)
    assert law is not None and law.config_key["dtype"] == dtype
