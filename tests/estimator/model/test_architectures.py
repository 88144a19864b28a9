"""Reading any model configuration: the result is a model or an error of one line, no traceback."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundspeed.estimator import Model, find_model
from groundspeed.estimator.model.architectures import parse_config, read_config
from groundspeed.estimator.model.catalog import shipped_models
from groundspeed.profiles import InputError

GOOD: dict[str, Any] = shipped_models()["qwen2.5-7b"]["config"]


def parse(config: dict[str, Any]) -> Model:
    return parse_config(config, name="test", where="config.json")


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "architectures"])
def test_missing_key_is_refused_and_named(key: str) -> None:
    with pytest.raises(InputError, match=f"lacks '{key}'"):
        parse({k: v for k, v in GOOD.items() if k != key})


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
@pytest.mark.parametrize(
    "value", [-1, 0, 10**30, 1.5, "4096", True, [], {}, float("nan"), float("inf")]
)
def test_impossible_size_is_refused_in_one_line(key: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        parse(GOOD | {key: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_indivisible_head_counts_are_refused() -> None:
    with pytest.raises(InputError, match="are not divisible by 5 KV heads"):
        parse(GOOD | {"num_key_value_heads": 5})
    with pytest.raises(InputError, match="is not divisible by 27 heads"):
        parse(GOOD | {"num_attention_heads": 27})


def test_unknown_architecture_is_refused_with_the_closest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'Qwen3ForCausalLM'"):
        parse(GOOD | {"architectures": ["Qwen4ForCausalLM"]})


def test_unsupported_experts_and_quantization_are_refused() -> None:
    with pytest.raises(InputError, match="is not a mixture of experts"):
        parse(GOOD | {"num_experts": 64})
    with pytest.raises(InputError, match="'hqq' is not modelled: supported are fp8"):
        parse(GOOD | {"quantization_config": {"quant_method": "hqq"}})


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*sorted(GOOD), "head_dim", "attention_bias", "num_experts"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=8),
            st.lists(st.text(max_size=3), max_size=2),
        ),
        max_size=6,
    )
)
def test_any_changed_config_gives_a_model_or_an_error_of_one_line(changes: dict[str, Any]) -> None:
    try:
        model = parse(GOOD | changes)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert model.parameters > 0
    assert math.isfinite(model.parameters)
    assert model.heads % model.kv_heads == 0


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 8), st.integers(1, 100))
def test_parameter_count_grows_as_expected_with_layers_and_width(
    layers: int, group: int, kv_heads: int, width: int
) -> None:
    config = GOOD | {
        "num_hidden_layers": layers,
        "num_attention_heads": group * kv_heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": group * kv_heads * 8,
        "intermediate_size": width,
    }
    model = parse(config)
    assert parse(config | {"num_hidden_layers": layers + 1}).parameters == (
        model.parameters
        + model.mixers[0].parameters()
        + model.mlp_parameters
        + model.norms_per_layer * model.norm_width
    )
    assert parse(config | {"intermediate_size": width + 1}).parameters == (
        model.parameters + layers * 3 * model.hidden
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "is not a model configuration in JSON"),
        (b"[1]", "holds a JSON list"),
        (b'{"hidden_size": NaN}', "NaN"),
        (b"\xff\xfe", "not a text file"),
        (b"[" * 50_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "appears twice"),
    ],
)
def test_file_that_is_not_a_configuration_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        find_model(str(path))
    assert "\n" not in str(caught.value)


def test_folder_with_config_json_is_read_and_without_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    assert find_model(str(tmp_path)).parameters == find_model("qwen2.5-7b").parameters


def test_gemma_4_has_wider_heads_and_one_projection_in_its_full_layers() -> None:
    """26B-A4B: 25.2 B and 3.8 B active by its card; 31B: 30.7 B."""
    mixture, dense = find_model("gemma-4-26b-a4b"), find_model("gemma-4-31b")
    assert mixture.parameters == pytest.approx(25.2e9, rel=0.003)
    assert mixture.active_parameters == pytest.approx(3.8e9, rel=0.01)
    assert dense.parameters == pytest.approx(30.7e9, rel=0.003)
    windowed, full = sorted(mixture.mixers, key=lambda m: m.layers, reverse=True)
    assert (windowed.layers, full.layers) == (25, 5)
    # A long context is kept by the full layers alone: 5 x 2 x 2 heads x 512.
    grown = sum(m.cached_items(20_000.0) - m.cached_items(10_000.0) for m in mixture.mixers)
    assert grown == 10_000 * 5 * 2 * 2 * 512


def test_gemma_4_of_phones_is_refused() -> None:
    config = {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "text_config": {
            "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 35,
            "num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 262144,
            "hidden_size_per_layer_input": 256, "sliding_window": 512,
        },
    }  # fmt: skip
    with pytest.raises(InputError, match="hidden_size_per_layer_input is not modelled"):
        parse_config(config, name="e2b", where="here")
