"""Published configurations: the parameters and formats that their publishers state."""

import csv
import re
from pathlib import Path

import pytest

from groundspeed.estimator.model.architectures import read_config
from groundspeed.estimator.model.catalog import find_model
from groundspeed.profiles.errors import InputError

NOT_MODELLED: tuple[str, ...] = ()
"""Architectures that are refused by name although their answers expect them to be read."""


def test_published_configurations_have_the_published_parameters(
    cases: Path, subtests: pytest.Subtests
) -> None:
    with (cases / "truth.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["path"].startswith("configs/")]
    read = 0
    for row in rows:
        path = cases / row["path"].split("#")[0]
        if path.name == "hub_names.csv":
            continue
        path = path.parent  # some rows name the quantization beside the configuration
        with subtests.test(row["id"]):
            try:
                model = read_config(path)
            except InputError as error:
                said = str(error)
                assert "2" in row["exit_expected"] or any(n in said for n in NOT_MODELLED), said
                continue
            read += 1
            wanted = re.search(r"(\d+(?:\.\d+)?) B", row["right_answer"])
            if wanted and "by its name" not in row["right_answer"]:
                assert model.parameters / 1e9 == pytest.approx(float(wanted[1]), rel=0.01)
    assert read > 45


@pytest.mark.parametrize(
    ("folder", "weights", "part", "cache"),
    [
        ("nvidia--Qwen3-235B-A22B-NVFP4", "nvfp4", "linear", "fp8"),
        ("nvidia--DeepSeek-V3.1-NVFP4", "nvfp4", "experts", "fp8"),
        ("nvidia--Llama-3.1-70B-Instruct-FP8", "fp8", "linear", "fp8"),
        ("Qwen--Qwen3-32B-FP8-Static-PerTensor", "fp8", "linear", "fp8"),
        ("moonshotai--Kimi-K2.5", "int4_wo", "experts", None),
        ("nvidia--Kimi-K2.6-NVFP4", "nvfp4", "experts", "fp8"),
        ("nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8", "fp8", "linear", "fp8"),
        ("deepseek-ai--DeepSeek-V4-Flash", "fp8_block", "linear", "fp8"),
        ("nvidia--DeepSeek-V4-Flash-NVFP4", "fp8_block", "linear", "fp8"),
    ],
)
def test_formats_are_those_of_the_checkpoint(
    cases: Path, folder: str, weights: str, part: str, cache: str | None
) -> None:
    model = read_config(cases / "configs" / folder)
    assert (model.weights, model.quantized_part, model.kv_dtype) == (weights, part, cache)
    if "V4" in folder:
        assert model.expert_weights == ("nvfp4" if "NVFP4" in folder else "w4a8_mxfp4_mxfp8")


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("Qwen/Qwen3-14B-AWQ", "int4_wo"), ("nvidia/Llama-3.3-70B-Instruct-FP4", "nvfp4"),
        ("nvidia/Llama-3.3-70B-Instruct-FP8", "fp8"), ("qwen3-14b-gptq-int4", "int4_wo"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct-FP8", "fp8_block"), ("qwen3-14b", None),
        ("moonshotai/Kimi-K2-Thinking", "int4_wo"), ("deepseek-r1-nvfp4", "nvfp4"),
    ],
)  # fmt: skip
def test_the_name_of_a_checkpoint_says_its_format(name: str, weights: str | None) -> None:
    model = find_model(name)
    assert model.weights == weights
    assert bool(model.notes) == (weights is not None and "Kimi" not in name)


def test_a_mixture_is_never_assumed_dense(cases: Path) -> None:
    path = cases / "configs" / "stepfun-ai--Step-3.7-Flash"
    with pytest.raises(InputError, match="not a mixture of experts"):
        read_config(path, assume="dense")
