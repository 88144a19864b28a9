"""Server estimates and backtests on the command line, with valid and with bad input."""

import json
from pathlib import Path

import pytest

from groundspeed.estimating.parsing import parse_concurrency, parse_slo
from groundspeed.estimator.backtest.load_tools import read_load_tool
from groundspeed.profiles import InputError
from program import groundspeed

R1 = ("estimate", "deepseek-r1", "--gpu", "h200", "--tp", "8", "--isl", "3200", "--osl", "800")


def test_estimate_prints_columns_breakdown_memory_and_reasons() -> None:
    ran = groundspeed(*R1, "--engine", "sglang", "--concurrency", "1,4..16")
    assert ran.code == 0, ran.err
    for text in (
        "datasheet", "calibrated", "concurrency 8", "TTFT, ms", "experts", "bound by",
        "profile h200-sxm-imported (published timings)", "TTFT is mostly waiting",
        "requests of this length", "TPOT = (E2E - TTFT) / (output tokens - 1)",
    ):  # fmt: skip
        assert text in " ".join(ran.out.split())  # a long line is folded


def test_json_has_a_prediction_for_each_column_and_concurrency() -> None:
    ran = groundspeed(*R1, "--concurrency", "1,2", "--slo", "ttft=1000,tpot=30", "--json")
    document = json.loads(ran.out)
    assert [(p["column"], p["concurrency"]) for p in document["predictions"]] == [
        ("datasheet", 1), ("datasheet", 2), ("calibrated", 1), ("calibrated", 2),
    ]  # fmt: skip
    last = document["predictions"][-1]
    assert last["ttft"]["p99"] >= last["ttft"]["p50"] > 0
    assert last["goodput_requests_per_s"] <= last["requests_per_s"] * 1.001


def test_measured_values_are_shown_beside_predictions_and_plotted(
    tmp_path: Path, root: Path
) -> None:
    plot = tmp_path / "r1.png"
    ran = groundspeed(
        *R1, "--engine", "sglang", "--engine-version", "0.4.3", "--concurrency", "4..128",
        "--num-prompts", "500", "--measured", str(root / "docs/data/deepseek_r1_h200.csv"),
        "--plot", str(plot), "--simulate",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "measured" in ran.out
    assert "P99" in ran.out
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_rate_and_trace_options_simulate_an_open_loop(tmp_path: Path) -> None:
    few = ("estimate", "llama-3.1-8b", "--gpu", "h200", "--json")
    lengths = ("--isl", "512", "--osl", "64")
    document = json.loads(groundspeed(*few, *lengths, "--rate", "2", "--num-prompts", "100").out)
    assert document["predictions"][-1]["requests_per_s"] == pytest.approx(2, rel=0.3)
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,isl,osl\n0.0,100,10\n0.5,2000,50\n3.0,100,10\n")
    document = json.loads(groundspeed(*few, "--trace", str(trace)).out)
    assert document["predictions"][-1]["ttft"]["p99"] > document["predictions"][-1]["ttft"]["p50"]


def test_separate_pools() -> None:
    ran = groundspeed(
        "estimate", "llama-3.1-70b", "--gpu", "h200", "--tp", "4", "--isl", "4096", "--osl", "512",
        "--concurrency", "64", "--prefill-decode", "1+2",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "1 prefill + 2 decode replicas (12 devices)" in ran.out


def test_a_missing_trace_is_one_line() -> None:
    ran = groundspeed("estimate", "llama-3.1-8b", "--gpu", "h200", "--trace", "/nowhere.csv")
    assert (ran.code, "cannot be read" in ran.err) == (2, True), ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--concurrency", "many"), "'many' is not a whole number from 1 to 1,000,000"),
        (("--concurrency", "0"), "'0' is not a whole number"),
        (("--tp", "3"), "--tp 3 does not divide the 128 attention heads"),
        (("--engine", "vlm"), "unknown engine 'vlm'"),
        (("--isl", "0"), "prompt tokens must lie between"),
        (("--isl", "1000000"), "more than the maximum context of"),
        (("--gpu", "h100-sxm"), "GiB short"),
        (("--slo", "soon"), "'soon' is not a limit on ttft or tpot"),
        (("--cached", "2"), "the cached fraction of a prompt"),
        (("--prefill-decode", "3"), "'3' is not of the form PREFILL+DECODE"),
        (("--dtype", "int1"), "unknown data type 'int1'"),
        (("--replicas", "0"), "--replicas must lie between 1 and 4096"),
        (("--trace", "/nowhere.csv"), "a trace has its own arrivals and lengths"),
        (("--ep", "16"), "does not divide the 8 devices"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, str], message: str) -> None:
    name, value = arguments
    base: list[str] = [*R1]
    if name in base:
        base[base.index(name) + 1] = value
    else:
        base += [name, value]
    closed = () if name in ("--concurrency", "--trace") else ("--concurrency", "1")
    ran = groundspeed(*base, *closed)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_unknown_architecture_is_read_as_dense_with_assume_dense(tmp_path: Path) -> None:
    config = {
        "architectures": ["BrandNewForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    ran = groundspeed("estimate", str(path), "--gpu", "h200", "--concurrency", "1")
    assert ran.code == 2
    assert "--assume dense" in ran.err
    ran = groundspeed("estimate", str(path), "--gpu", "h200", "--concurrency", "1",
                      "--assume", "dense")  # fmt: skip
    assert ran.code == 0, ran.err


def test_concurrency_lists_and_slo_limits_are_parsed() -> None:
    assert parse_concurrency("3,8..40,3") == (3, 8, 16, 32, 40)
    assert parse_slo("ttft=500ms,tpot=50") == (0.5, 0.05)
    with pytest.raises(InputError):
        parse_slo("ttft=500,e2e=3")


ROWS = """model,gpu,engine,tp,isl,osl,batch_or_concurrency,ttft_ms,tpot_ms
Llama-3.1-8B-Instruct,H200,vLLM,1,512,128,8,45,6.9
Llama-3.1-8B,H200,vLLM,1,512,128,16,60,7.4
made-up-13b,H200,vLLM,1,512,128,16,60,7.4
"""


def test_backtest_prints_errors_and_skipped_rows(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(ROWS)
    ran = groundspeed("backtest", str(table), "--by", "model", "--quiet")
    assert ran.code == 0, ran.err
    assert "1 skipped: unknown model 'made-up-13b'" in ran.out
    assert "not given in every row: draft_tokens, length_low" in ran.out
    document = json.loads(groundspeed("backtest", str(table), "--json").out)
    assert {s["metric"] for s in document["summary"]} == {"ttft_ms", "tpot_ms"}
    first, _, third = document["rows"]
    assert first["skipped_reason"] is None
    assert first["low_tpot_ms"] < first["pred_tpot_ms"] < first["high_tpot_ms"]
    assert third["skipped_reason"].startswith("unknown model")
    assert "pred_tpot_ms" not in third


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a CSV table with a line of column names"),
        ("model,gpu,isl,isl\n", "has the column 'isl' twice"),
        ("model,gpu\n", "has no rows"),
        ("name,isl\na,1\n", "no row names a model"),
        ("\x00\x01\x02,\n", "not a CSV table|has no rows|no row names"),
    ],
)
def test_backtest_refuses_a_file_without_usable_rows(
    tmp_path: Path, text: str, message: str
) -> None:
    import re

    table = tmp_path / "rows.csv"
    table.write_text(text)
    ran = groundspeed("backtest", str(table))
    assert ran.code == 2
    assert re.search(message, ran.err)
    assert ran.err.count("\n") == 1


def test_results_of_vllm_and_sglang_load_tools_are_read(tmp_path: Path) -> None:
    """The results have the keys that ``vllm bench serve`` and SGLang's bench_serving write."""
    vllm = {
        "backend": "vllm", "model_id": "meta-llama/Llama-3.1-8B-Instruct", "num_prompts": 80,
        "max_concurrency": 8, "total_input_tokens": 40960, "total_output_tokens": 10240,
        "output_throughput": 1000.0, "total_token_throughput": 5000.0, "mean_ttft_ms": 45.0,
        "mean_tpot_ms": 6.9, "completed": 80, "random_range_ratio": None,
    }  # fmt: skip
    path = tmp_path / "result.json"
    path.write_text(json.dumps(vllm))
    (row,) = read_load_tool(path)
    assert (row["isl"], row["osl"], row["batch_or_concurrency"]) == ("512", "128", "8")
    ran = groundspeed("backtest", str(path), "--gpu", "h200", "--tp", "1", "--quiet")
    assert ran.code == 0, ran.err
    assert "TPOT" in ran.out
    lines = tmp_path / "sglang.jsonl"
    sglang = vllm | {"backend": "sglang", "random_input_len": 512, "random_output_len": 128}
    lines.write_text("\n".join(json.dumps(sglang | {"max_concurrency": n}) for n in (1, 2)))
    assert [r["engine"] for r in read_load_tool(lines)] == ["SGLang", "SGLang"]
    path.write_text('{"a": 1}')
    with pytest.raises(InputError, match="is not a result of vllm bench serve"):
        read_load_tool(path)
