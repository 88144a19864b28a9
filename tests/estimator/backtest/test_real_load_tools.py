"""Real results of load tools, and tables with the columns that people write."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from groundspeed.estimator.backtest.columns import read_measurements
from program import groundspeed
from repository import TEST_DATA


def test_results_are_read_or_refused_as_their_answers_say(
    cases: Path, subtests: pytest.Subtests
) -> None:
    with (cases / "truth.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["path"].startswith("loadtools/")]
    assert len(rows) >= 8
    for row in rows:
        with subtests.test(row["id"]):
            arguments = shlex.split(row["command"])[1:]
            paths = [str(cases / a) if "/" in a and (cases / a).exists() else a for a in arguments]
            ran = groundspeed(*paths)
            assert str(ran.code) in set(re.findall(r"\b[0-3]\b", row["exit_expected"])), ran.err


def test_model_and_load_are_found_in_aiperf_and_guidellm(cases: Path) -> None:
    folder = cases / "loadtools"
    (row,) = read_measurements(folder / "aiperf_0.13.0_concurrency4.json")
    assert (row["model"], row["batch_or_concurrency"], row["isl"]) == ("llama-3.1-8b", "4", "128")
    (row,) = read_measurements(folder / "guidellm_0.8.1.json")
    assert (row["model"], row["batch_or_concurrency"]) == ("llama-3.1-8b", "4")
    first, _ = read_measurements(folder / "vllm_bench_l40s_rate.jsonl")
    assert (first["request_rate"], first["replicas"], first["ttft_ms"]) == ("10.0", "4", "54.577")
    assert "batch_or_concurrency" not in first


def test_seconds_become_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Model,GPU,Input Len,Output Len,Concurrency,TTFT (s)\nm,h200,1,2,3,0.5\n")
    (row,) = read_measurements(path)
    assert (row["ttft_ms"], row["isl"], row["batch_or_concurrency"]) == ("500", "1", "3")


def test_time_per_token_follows_its_definition_where_a_tool_has_another() -> None:
    """llmperf divides the TTFT too; inference-perf counts lines: two a token."""
    (row,) = read_measurements(TEST_DATA / "tools" / "llmperf_summary.json")
    assert float(row["tpot_ms"]) == pytest.approx((2317.346 - 582.582) / 171.4, rel=1e-4)
    assert (row["isl"], row["osl"], row["batch_or_concurrency"]) == ("550", "172", "5")
    (row,) = read_measurements(TEST_DATA / "tools" / "inference_perf_stage.json")
    assert float(row["tpot_ms"]) == pytest.approx((480.482 - 31.127) / 62.15, rel=1e-4)
    assert float(row["request_rate"]) == pytest.approx(1.02547, rel=1e-4)


def test_warm_up_of_inference_benchmarker_is_no_measurement() -> None:
    (row,) = read_measurements(TEST_DATA / "tools" / "inference_benchmarker.json")
    assert (row["isl"], row["osl"], row["batch_or_concurrency"]) == ("4000", "127", "16")
    assert float(row["output_tok_s"]) == pytest.approx(220.667, rel=1e-4)


def test_without_streaming_there_is_no_time_of_a_first_token(tmp_path: Path) -> None:
    path = tmp_path / "profile_export_genai_perf.json"
    whole = {"unit": "ms", "avg": 4610.62}
    path.write_text(json.dumps({
        "request_latency": whole, "time_to_first_token": whole,
        "output_sequence_length": {"avg": 568}, "input_sequence_length": {"avg": 200},
        "input_config": {"model": ["llama-3.1-8b"], "concurrency": 100, "backend": "vllm"},
    }))  # fmt: skip
    (row,) = read_measurements(path)
    assert "ttft_ms" not in row
    assert (row["e2e_latency_ms"], row["batch_or_concurrency"]) == ("4610.62", "100")
