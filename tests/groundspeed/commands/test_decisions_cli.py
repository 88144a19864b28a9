"""The commands ``plan``, ``audit`` and ``compare``, with valid and with bad input."""

import json
from pathlib import Path

import pytest

from program import groundspeed

SHORT = ("--isl", "512", "--osl", "128")


def test_plan_prints_a_launch_command_or_exits_with_1_without_a_solution(tmp_path: Path) -> None:
    plot = tmp_path / "front.png"
    ran = groundspeed("plan", "llama-3.1-8b", "--gpu", "h200", "--gpus", "2", *SHORT,
                      "--slo", "ttft=500,tpot=20", "--price", "3", "--plot", str(plot))  # fmt: skip
    assert ran.code == 0, ran.err
    assert "vllm serve meta-llama/" in ran.out
    assert plot.read_bytes().startswith(b"\x89PNG")
    ran = groundspeed("plan", "llama-3.1-8b", "--gpu", "h200", *SHORT, "--slo", "tpot=0.01")
    assert ran.code == 1
    assert "nothing meets the objective" in ran.out
    document = json.loads(
        groundspeed("plan", "llama-3.1-8b", "--gpu", "l40s", "--gpus", "1", *SHORT, "--json").out
    )
    assert all(p["gpus"] == 1 for p in document["points"])


CLAIMS = """
- label: vendor A
  tokens_per_s: 170
  counts: total
  model: deepseek-r1
  gpu: h200
  gpus: 8
  isl: 3200
  osl: 800
  concurrency: 1
  dtype: fp8
- label: vendor B
  tokens_per_s: 30
  counts: output
  model: deepseek-r1
  gpu: mi300x
  gpus: 8
  isl: 3200
  osl: 800
  concurrency: 1
  dtype: fp8
"""


def test_audit_compares_two_claims_and_exits_with_1_above_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS)
    ran = groundspeed("audit", str(path))
    assert ran.code == 0, ran.err
    assert "vendor A has 1.13 times the output rate per GPU" in ran.out
    path.write_text(CLAIMS.replace("tokens_per_s: 30", "tokens_per_s: 30000"))
    ran = groundspeed("audit", str(path))
    assert ran.code == 1
    assert "times the upper bound" in ran.out


def test_compare_names_the_faster_option() -> None:
    ran = groundspeed("compare", "llama-3.1-8b", "--option", "gpu=h200", "--option",
                      "gpu=l40s", *SHORT, "--concurrency", "1")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "TPOT: 1 x h200 vllm at 1" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "llama-3.1-8b", "--gpu", "h200", "--price", "0"), "the price of a GPU-hour"),
        (("plan", "llama-3.1-8b", "--gpu", "h200", "--gpus", "0"), "--gpus must be at least 1"),
        (("plan", "qwen2.5-7b", "--gpu", "h200", "--price", "1", "--price", "2"), "2 prices for 1"),
        (("plan", "deepseek-r1", "--gpu", "l40s", "--gpus", "1"), "no deployment is possible"),
        (("audit",), "claim 1 lacks tokens_per_s: give --rate"),
        (("audit", "--rate", "-5", "--model", "qwen2.5-7b", "--gpu", "h200"), "must be above 0"),
        (("audit", "--rate", "5", "--model", "qwen2.5-7b", "--gpu", "h200", "--counts", "all"),
         "'all' is not a kind of tokens"),
        (("audit", "/nowhere.yaml"), "nowhere.yaml"),
        (("compare", "qwen2.5-7b", "--option", "gpu=h200"), "at least two options"),
        (("compare", "qwen2.5-7b", "--option", "gpu=h200,tea=2", "--option", "gpu=h20"),
         "unknown key 'tea'"),
        (("compare", "qwen2.5-7b", "--option", "h200", "--option", "gpu=h20"), "not key=value"),
        (("compare", "qwen2.5-7b", "--option", "gpu=h20", "--option", "gpu=h20"), "have the same name"),  # noqa: E501
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    ran = groundspeed(*arguments)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "- 3", "a: [", "tokens_per_s: fast\nmodel: x\ngpu: h200"])
def test_invalid_claim_file_gives_one_line_and_exit_code_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claim.yaml"
    path.write_text(text)
    ran = groundspeed("audit", str(path))
    assert ran.code == 2
    assert ran.err.count("\n") == 1
