"""The naive method reproduces every figure of the article; the memory bound is far below them."""

import pytest

from groundspeed.estimator import DatasheetHardware, Server, Workload, find_model
from groundspeed.estimator.decisions.naive_method import (
    NaiveWorkload,
    memory_roof_tokens_per_s,
    naive_estimate,
)
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.engine import find_engine
from groundspeed.profiles import InputError, find_device

MODEL = find_model("qwen2.5-32b")
H20 = find_device("h20").spec
WORKLOAD = NaiveWorkload(batch=1, prompt_tokens=1024, output_tokens=1024)
ROWS = {row.quantity: row for row in naive_estimate(MODEL, H20, WORKLOAD).rows}


@pytest.mark.parametrize(
    ("quantity", "printed"),
    [
        ("parameters", "31.98"),
        ("prefill FLOPs, detailed", "65.28"),
        ("prefill FLOPs, closed form", "65.28"),
        ("decode FLOPs a token", "0.06"),
        ("TTFT", "441"),
        ("TTFT at 60%", "735"),
        ("throughput", "2466"),
        ("quick prefill FLOPs", "64.0"),
        ("quick TTFT", "432"),
        ("quick decode FLOPs a step", "0.064"),
        ("quick throughput", "2312"),
    ],
)
def test_naive_figure_equals_the_printed_one(quantity: str, printed: str) -> None:
    row = ROWS[quantity]
    assert f"{row.printed / row.scale:.{row.decimals}f}" == printed


@pytest.mark.parametrize(
    ("quantity", "exact", "digits"),
    [
        ("parameters", 31.984, 3),
        ("prefill FLOPs, detailed", 65.2835, 4),
        ("prefill FLOPs, closed form", 65.2835, 4),
        ("decode FLOPs a token", 0.064425, 6),
        ("throughput", 2297, 0),
        ("quick prefill FLOPs", 65.5, 1),
    ],
)
def test_exact_value_is_given_beside_the_printed_figure(
    quantity: str, exact: float, digits: int
) -> None:
    row = ROWS[quantity]
    assert round(row.exact / row.scale, digits) == exact


def test_memory_bound_is_62_tokens_per_s_and_listed_as_left_out() -> None:
    assert round(memory_roof_tokens_per_s(MODEL, H20, WORKLOAD, with_cache=False), 1) == 62.5
    assert round(memory_roof_tokens_per_s(MODEL, H20, WORKLOAD, with_cache=True), 1) == 62.1
    text = " ".join(naive_estimate(MODEL, H20, WORKLOAD).left_out)
    for said in ("memory-bound", "62.5", "62.1", "2.7%", "32.76 B", "64.0 GB", "half of the score"):
        assert said in text


@pytest.mark.parametrize(
    ("gpu", "tokens_per_s"), [("h20", 62.1), ("h200", 74.5), ("h100-sxm", 52.0), ("mi300x", 82.3)]
)
def test_default_method_gives_memory_bound_decode_and_compute_bound_prefill(
    gpu: str, tokens_per_s: float
) -> None:
    hardware = DatasheetHardware(find_device(gpu).spec)
    p = Server(MODEL, Deployment(), find_engine("bare"), hardware).predict(Workload(kind="static"))
    assert p.tpot_s is not None
    assert 1 / p.tpot_s == pytest.approx(tokens_per_s, abs=0.06)
    assert p.limits.startswith("Prefill is compute-bound")
    assert "decode is memory-bound" in p.limits


def test_gpu_without_a_bfloat16_peak_is_refused() -> None:
    with pytest.raises(InputError, match="mi308x gives no bfloat16 peak"):
        naive_estimate(MODEL, find_device("mi308x").spec, WORKLOAD)


@pytest.mark.parametrize("utilization", [0.0, -0.1, 1.1, float("nan")])
def test_utilization_outside_0_to_1_is_refused(utilization: float) -> None:
    with pytest.raises(InputError, match="utilization"):
        naive_estimate(MODEL, H20, WORKLOAD, utilization=utilization)
