"""Shipped models: parameter counts computed from the configurations equal the published ones."""

import pytest

from groundspeed.estimator import find_model
from groundspeed.estimator.model.catalog import shipped_models
from groundspeed.profiles import InputError


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_parameter_count_equals_the_published_count(name: str) -> None:
    model = find_model(name)
    source = shipped_models()[name]["parameters_source"]
    if source.endswith("two digits"):
        assert model.parameters == pytest.approx(model.published_parameters, rel=0.02)
    elif source.startswith("model card"):  # model cards round the count
        assert model.parameters == pytest.approx(model.published_parameters, rel=0.012)
    else:
        assert model.parameters == model.published_parameters


def test_decode_step_streams_all_weights_but_an_untied_input_embedding() -> None:
    # Qwen2.5-32B: 32.76 B parameters minus 0.78 B of the input embedding, 2 bytes each: 64.0 GB.
    streamed = 2 * find_model("qwen2.5-32b").streamed_parameters
    assert streamed == 2 * (32763876352 - 152064 * 5120)
    tied = find_model("qwen2.5-0.5b")  # a tied embedding is read in full, as the head
    assert 2 * tied.streamed_parameters == 2 * 494032768


@pytest.mark.parametrize(
    ("name", "kilobytes"),
    # 2 x layers x KV heads x head_dim x 2 bytes, with the sizes from the models' own pages.
    [("llama-3.1-8b", 131.072), ("llama-3.1-70b", 327.68), ("qwen2.5-32b", 262.144)],
)
def test_kv_cache_bytes_per_token_follow_from_the_model_sizes(name: str, kilobytes: float) -> None:
    assert 2 * find_model(name).kv_items_per_token == kilobytes * 1e3


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Qwen/Qwen2.5-32B-Instruct", "qwen2.5-32b"),
        ("Qwen2.5-32B-Instruct", "qwen2.5-32b"),
        ("QWEN2.5-0.5B", "qwen2.5-0.5b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b"),
    ],
)
def test_hub_names_resolve_to_shipped_models_offline(name: str, model: str) -> None:
    assert find_model(name).id == model


def test_unknown_model_name_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean .*'qwen2.5-32b'"):
        find_model("qwen2.5-33b")
    with pytest.raises(InputError, match=r"config\.json"):
        find_model("somebody/some-model")


def test_falcon_7b_has_one_kv_head_whatever_its_configuration_says() -> None:
    assert find_model("falcon-7b").kv_heads == 1
