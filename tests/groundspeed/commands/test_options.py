"""Every option of ``estimate`` changes the result or is refused: none is without effect."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from groundspeed.cli import app
from groundspeed.estimating.load import BELONGS, NAIVE
from groundspeed.profiles import InputError

STATIC = ("--isl", "512", "--osl", "64")
LOADS = {
    "static": STATIC,
    "closed": (*STATIC, "--concurrency", "8", "--num-prompts", "80"),
    "open": (*STATIC, "--rate", "3"),
}
VALUES = {
    "--batch": ("4",), "--concurrency": ("3",), "--rate": ("5",), "--engine": ("sglang",),
    "--engine-version": ("0.6",), "--slo": ("ttft=500,tpot=50",), "--num-prompts": ("30",),
    "--length-low": ("0.3",), "--length-high": ("1.5",), "--max-sequences": ("2",),
    "--token-budget": ("300",), "--price": ("2.5",), "--draft-tokens": ("3",),
    "--draft": ("ngram", "--draft-tokens", "3"),
    "--kv-dtype": ("fp8",), "--cached": ("0.5",), "--tp": ("2",), "--pp": ("2",), "--ep": ("2",),
    "--dp": ("2",), "--replicas": ("2",), "--dtype": ("fp8",), "--isl": ("700",), "--osl": ("90",),
    "--image-tokens": ("576",),
    "--memory-fraction": ("0.8",), "--max-model-len": ("8192",), "--gpus-per-node": ("4",),
    "--inter-node": ("100Gb/s",), "--gpu-link": ("100GB/s",),
    "--simulate": (), "--prefill-decode": ("1+1",),
}  # fmt: skip
"""A value for each option, and what it needs beside it."""

ELSEWHERE = {"--acceptance", "--engine-profile", "--measured", "--plot", "--trace"}
"""Options with tests of their own, or tested together with another one."""


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["estimate", *arguments])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def test_every_option_is_listed_here() -> None:
    assert set(BELONGS) <= set(VALUES) | ELSEWHERE


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("option", VALUES)
def test_option_changes_the_result_or_is_refused(option: str, load: str) -> None:
    base = ["mixtral-8x7b", "--gpu", "h200", *LOADS[load]]
    if load == "open" and option == "--rate":
        base[base.index("--rate") + 1] = "2"
    if option in base:  # another value of the same option
        index = base.index(option)
        del base[index : index + 2]
    changed = [*base, option, *VALUES[option]]
    if option in ("--gpus-per-node", "--inter-node", "--gpu-link"):  # two nodes
        base += ["--tp", "16"]
        changed += ["--tp", "16"]
    if option in ("--ep", "--dp"):  # two devices, whose experts are spread or split
        base += ["--tp", "2"]
        changed += ["--tp", "2"]
    out = () if option == "--simulate" else ("--json",)
    before = run(*base, *out)
    try:
        after = run(*changed, *out)
    except InputError as error:
        assert load not in BELONGS.get(option, ("static", "closed", "open")) or "needs" in str(
            error
        )
        return
    if out:
        for document in (before, after):
            for prediction in document["predictions"]:
                prediction.pop("assumed")
    assert after != before


@pytest.mark.parametrize("option", sorted(set(BELONGS) - set(NAIVE)))
def test_naive_method_refuses_what_it_does_not_know(option: str, tmp_path: Path) -> None:
    values = {"--trace": "t.csv", "--measured": "m.csv", "--plot": "p.png", "--acceptance": "0.5"}
    value = values.get(option, *VALUES.get(option, ("1",))[:1])
    more = [] if option == "--simulate" else [str(value)]
    if option in ("--tp", "--pp", "--ep", "--dp", "--replicas"):
        more = ["2"]
    with pytest.raises(InputError, match=f"{option}: has no effect on the naive method"):
        run("qwen2.5-32b", "--gpu", "h20", "--method", "naive", option, *more)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine-version", "abc", "--engine", "vllm"], "'abc' is not a version"),
        (["--token-budget", "0", "--concurrency", "2"], "--token-budget: must lie between 1"),
        (["--max-sequences", "0"], "--max-sequences: must lie between 1"),
        (["--concurrency", "8..1"], "'8..1' ends below its start"),
        (["--batch", "8", "--concurrency", "8"], "--batch: belongs to a static batch"),
        (["--acceptance", "0.5", "--concurrency", "2"], "--acceptance: needs --draft-tokens"),
        (["--draft", "ngram", "--concurrency", "2"], "--draft: needs --draft-tokens"),
        (["--slo", "ttft=5", "--batch", "2"], "--slo: belongs to a closed loop"),
        (["--utilization", "0.5"], "--utilization: has no effect without --method naive"),
        (["--rate", "2", "--concurrency", "4"], "--concurrency: belongs to a closed loop"),
        (["--rate", "nan"], "arrival rate must be above 0"),
        (["--engine-version", "0.12"], "--engine-version: needs --engine"),
        (["--slo", "ttft=nan,tpot=1"], "must be above 0 ms"),
        (["--slo", "ttft=0"], "must be above 0 ms"),
        (["--kv-dtype", "int4"], "no KV cache in int4 is modelled"),
        (["--engine", "bare", "--engine-version", "0.12"], "bare is no engine"),
        (["--prefill-decode", "1+1", "--replicas", "2"], "names the replicas itself"),
        (["--price", "2", "--price", "3"], "2 prices for 1 GPUs"),
        (["--batch", "2", "--length-low", "0.5"], "--length-low: belongs to a closed loop"),
    ],
)
def test_nonsense_is_refused_in_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("..", r"\.\.")) as refused:
        run("llama-3.1-8b", "--gpu", "h200", *arguments)
    assert "\n" not in str(refused.value)


def test_batch_with_tp_is_a_static_batch_and_not_a_closed_loop() -> None:
    document = run("llama-3.1-8b", "--gpu", "h200", "--batch", "8", "--tp", "8", "--json")
    assert {p["kind"] for p in document["predictions"]} == {"static"}
    assert {p["devices"] for p in document["predictions"]} == {8}


def test_two_gpus_have_their_own_memory_power_and_reasons() -> None:
    text = " ".join(
        run("llama-3.1-8b", "--gpu", "h200", "--gpu", "a100-sxm-80gb", "--concurrency", "4").split()
    )
    for gpu, watts in (("h200", "700"), ("a100-sxm-80gb", "400")):
        assert f"{gpu}: memory of the device" in text
        assert f"{gpu}: energy: at least" in text
        assert f"at {watts} W per device" in text
        assert f"{gpu}: TTFT is" in text


def test_one_output_token_has_no_tpot() -> None:
    document = run("llama-3.1-8b", "--gpu", "h200", "--osl", "1", "--concurrency", "4", "--json")
    assert all(p["tpot_s"] is None and p["decode_parts"] == [] for p in document["predictions"])


def test_trace_has_its_own_lengths(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,isl,osl\n0.0,100,10\n0.5,2000,50\n3.0,300,30\n")
    base = ("llama-3.1-8b", "--gpu", "h200", "--trace", str(trace))
    for option, value in (("--isl", "77"), ("--osl", "9"), ("--num-prompts", "5")):
        with pytest.raises(InputError, match=f"{option}: a trace has its own"):
            run(*base, option, value)
    last = run(*base, "--json")["predictions"][-1]
    assert (last["prompt_tokens"], last["output_tokens"]) == (800, 30)


def test_each_gpu_has_its_own_price() -> None:
    both = ("llama-3.1-8b", "--gpu", "h100", "--gpu", "h200", "--concurrency", "4", "--json")
    costs = [
        {p["column"]: p["cost_per_million_output_tokens"]
         for p in run(*both, *prices)["predictions"]}
        for prices in (("--price", "2", "--price", "3"), ("--price", "2"))
    ]  # fmt: skip
    assert costs[0]["h100"] == pytest.approx(costs[1]["h100"])
    assert costs[0]["h200"] == pytest.approx(1.5 * costs[1]["h200"])


def test_decode_step_holds_the_sequences_that_run_and_not_those_that_wait() -> None:
    few = run("llama-3.1-8b", "--gpu", "h200", "--concurrency", "16", "--max-sequences", "4",
              "--json")["predictions"][-1]  # fmt: skip
    assert few["running_sequences"] == 4 and few["saturated"]
    many = run("llama-3.1-8b", "--gpu", "h100", "--concurrency", "1000", "--json")
    last = many["predictions"][-1]
    assert last["running_sequences"] == last["most_sequences"] < 1000
    assert sum(p["bytes"] for p in last["decode_parts"]) < 85e9  # a step reads what is there


def test_fewer_prompts_than_clients_run_only_the_prompts() -> None:
    capped = run("llama-3.1-8b", "--gpu", "h100", "--concurrency", "8", "--num-prompts", "4",
                 "--json")["predictions"][-1]  # fmt: skip
    four = run("llama-3.1-8b", "--gpu", "h100", "--concurrency", "4", "--num-prompts", "4",
               "--json")["predictions"][-1]  # fmt: skip
    assert capped["tpot_s"] == pytest.approx(four["tpot_s"])
    assert capped["output_tokens_per_s"] == pytest.approx(four["output_tokens_per_s"])
