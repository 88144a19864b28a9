"""Backtest against 592 published measurements by group, and on rows with any bad value."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundspeed.estimator.backtest.attribute import attribute_errors
from groundspeed.estimator.backtest.backtest import RowResult, backtest, summarize
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.hardware.law_lookup import Hardware

GOOD = {
    "model": "Llama-3.1-8B-Instruct", "gpu": "NVIDIA H200", "engine": "vLLM", "tp": "1",
    "isl": "512", "osl": "64", "batch_or_concurrency": "4", "tpot_ms": "6.1", "ttft_ms": "30",
}  # fmt: skip


def find(name: str) -> Hardware:
    return find_hardware(name).best


@pytest.fixture(scope="module")
def results(reference: Path) -> list[RowResult]:
    with (reference / "e2e_dev.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["tier"] != "C"]
    for row in rows:
        early = row["model"] == "DeepSeek-R1"
        row["group"] = " ".join(
            (row["source_id"], row["engine"].split()[0], row["gpu"][:4] if early else "")
        ).strip()
    return backtest(rows, find)


@pytest.mark.parametrize(
    ("group", "metric", "median", "mean"),
    [
        # Median / mean errors in % of the research prototype, on rows its constants were fitted to
        # (TPOT, then TTFT): vLLM H200 3/4 and 8/9, vLLM H100 1.7/2.2 and 11/15, SGLang 1.5/2 and
        # 7/10, TensorRT-LLM 3-5/4-5 and 2-8/3-8. The leading tool on its own rows: 14/34 and 45.
        # One set of effects serves all models of an engine, so single groups are a little off.
        ("inferencex-aic vLLM", "tpot_ms", 5, 6),
        ("inferencex-aic vLLM", "ttft_ms", 11, 12),
        ("nvidia-aic-gap vLLM", "tpot_ms", 6, 10),
        ("nvidia-aic-gap vLLM", "ttft_ms", 24, 38),
        ("nvidia-aic-gap SGLang", "tpot_ms", 5, 6),
        ("nvidia-aic-gap SGLang", "ttft_ms", 9, 10),
        ("trtllm-0.9.0-dli TensorRT-LLM", "tpot_ms", 5, 5),
        ("trtllm-0.9.0-dli TensorRT-LLM", "ttft_ms", 11, 11),
        ("rocm-vllm-devdocker vLLM", "e2e_latency_ms", 5, 6),
        # One set of engine constants per engine, version and platform must reach 15 % on both GPUs.
        ("dstack-dsr1-online SGLang H200", "tpot_ms", 15, 20),
        ("dstack-dsr1-online SGLang MI30", "tpot_ms", 15, 15),
        ("dstack-dsr1-online vLLM H200", "tpot_ms", 15, 20),
        ("dstack-dsr1-online vLLM MI30", "tpot_ms", 15, 15),
        ("dstack-dsr1-online TensorRT-LLM H200", "tpot_ms", 20, 22),
    ],
)
def test_median_and_mean_error_of_each_group_are_below_their_limits(
    results: list[RowResult], group: str, metric: str, median: float, mean: float
) -> None:
    summaries = {(s.group, s.metric): s for s in summarize(results, "group")}
    summary = summaries[group, metric]
    assert summary.n >= 6
    assert summary.median_ape_percent <= median
    assert summary.mape_percent <= mean


def test_no_row_is_skipped_and_intervals_contain_85_percent(results: list[RowResult]) -> None:
    assert {r.skipped_reason for r in results} == {""}
    for summary in summarize(results):
        if summary.metric in ("tpot_ms", "ttft_ms"):
            assert summary.inside_interval_percent >= 85


def test_lengths_may_be_means_of_real_prompts() -> None:
    """A benchmark of real prompts states 199.7 tokens: that is 200, and no reason to skip it.

    A mean of 231.4 is of requests that differ, which do not run in step.
    """
    mean, whole, varied, equal = backtest(
        [GOOD | {"isl": "199.7", "osl": "100"}, GOOD | {"isl": "200", "osl": "100"},
         GOOD | {"isl": "231.4", "osl": "90.7"}, GOOD | {"isl": "231", "osl": "91"}], find,
    )  # fmt: skip
    assert mean.skipped_reason == "" and mean.predicted == whole.predicted
    assert varied.skipped_reason == "" and varied.predicted != equal.predicted


def test_row_with_common_spellings_is_predicted() -> None:
    (result,) = backtest([GOOD], find)
    assert result.skipped_reason == ""
    assert 2 < result.predicted["tpot_ms"] < 12
    assert result.low["tpot_ms"] < result.predicted["tpot_ms"] < result.high["tpot_ms"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "H9000"}, "unknown GPU 'H9000'"),
        ({"model": "gpt-17"}, "unknown model"),
        ({"engine": "llama.cpp"}, "unknown engine"),
        ({"isl": ""}, "missing columns or values: isl"),
        ({"isl": "many"}, "isl is 'many', not a number"),
        ({"tp": "1.5"}, "tp is 1.5, not a whole number"),
        ({"osl": "-3"}, "osl is -3"),
        ({"tp": "3"}, "does not divide"),
        ({"isl": "inf"}, "isl is inf"),
        ({"tpot_ms": "fast"}, "tpot_ms is 'fast'"),
        ({"load_kind": "hammock"}, "unknown load 'hammock'"),
        ({"weight_dtype": "int1"}, "unknown data type 'int1'"),
        ({"gpu": "A100-SXM-80GB", "model": "deepseek-r1", "tp": "8"}, "does not fit"),
        ({"isl": "nan"}, "values: isl|must lie between"),
        ({"batch_or_concurrency": "5000000"}, "too large to simulate"),
    ],
)
def test_bad_row_is_skipped_with_its_reason_and_the_next_is_predicted(
    change: dict[str, str], reason: str
) -> None:
    refused, fine = backtest([GOOD | change, GOOD], find)
    import re

    assert re.search(reason, refused.skipped_reason)
    assert "\n" not in refused.skipped_reason
    assert fine.skipped_reason == ""


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "dp_attn", "ep", "pp", "length_low", "num_prompts", "stat"]),
        st.one_of(
            st.text(max_size=6), st.integers(-5, 10**9).map(str), st.sampled_from(["nan", "0.5"])
        ),
        max_size=4,
    )
)
def test_any_row_is_either_predicted_or_skipped_with_a_reason(change: dict[str, str]) -> None:
    (result,) = backtest([GOOD | change], find)
    assert bool(result.skipped_reason) != bool(result.predicted)


def test_attribution_finds_a_simulated_cost_per_sequence() -> None:
    """The "measured" TPOTs are predictions plus 0.02 ms for each sequence of the batch."""
    rows = [GOOD | {"batch_or_concurrency": str(n)} for n in (1, 2, 8, 32, 64)]
    results = backtest(rows, find)
    slower = [
        r | {
            "tpot_ms": str(t.predicted["tpot_ms"] + 0.02 * int(r["batch_or_concurrency"])),
            "ttft_ms": "",
        }
        for r, t in zip(rows, results, strict=True)
    ]  # fmt: skip
    lines = attribute_errors(slower, backtest(slower, find), find)
    assert "a cost of each sequence (sequence_s" in lines[1]
