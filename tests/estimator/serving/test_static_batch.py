"""Static-batch predictions: latency identities, physics, intervals and refused workloads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import profile_factory
from groundspeed.estimator import (
    DatasheetHardware,
    Prediction,
    ProfileHardware,
    Workload,
    find_model,
    predict,
)
from groundspeed.profiles import InputError, find_device

H200 = DatasheetHardware(find_device("h200").spec)
MODEL = find_model("llama-3.1-8b")


def predicted(**workload: int) -> Prediction:
    return predict(MODEL, H200, Workload.model_validate(workload))


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(1, 4096))
def test_latency_and_throughput_identities_hold(batch: int, prompt: int, output: int) -> None:
    p = predicted(batch=batch, prompt_tokens=prompt, output_tokens=output)
    tpot = p.tpot_s.value if p.tpot_s else 0.0
    assert p.e2e_s.value == pytest.approx(p.ttft_s.value + (output - 1) * tpot)
    assert p.output_tokens_per_s.value == pytest.approx(batch * output / p.e2e_s.value)
    assert p.total_tokens_per_s.value == pytest.approx(batch * (prompt + output) / p.e2e_s.value)
    assert (p.tpot_s is None) == (output == 1)


@given(st.integers(1, 32), st.integers(16, 2048))
def test_more_work_takes_longer(batch: int, prompt: int) -> None:
    small = predicted(batch=batch, prompt_tokens=prompt, output_tokens=64)
    for more in ({"batch": 2 * batch}, {"prompt_tokens": 2 * prompt}):
        large = predicted(**({"batch": batch, "prompt_tokens": prompt, "output_tokens": 64} | more))
        assert large.ttft_s.value > small.ttft_s.value
        assert large.tpot_s is not None and small.tpot_s is not None
        assert large.tpot_s.value > small.tpot_s.value


def test_prefill_flops_are_two_per_parameter_and_token() -> None:
    p = predicted(prompt_tokens=1024, output_tokens=1)
    layers_only = MODEL.layers * MODEL.layer_parameters
    attention = 4 * MODEL.layers * MODEL.attention_width * 1024 * 1025 / 2
    head = 2 * MODEL.vocabulary * MODEL.hidden  # the head runs for the last token only
    expected = 2 * 1024 * layers_only + attention + head
    assert p.prefill.flops == pytest.approx(expected, rel=1e-3)  # the rest are norms


def test_decode_reads_the_weights_once_for_the_whole_batch() -> None:
    one = predicted(batch=1, prompt_tokens=16, output_tokens=8)
    many = predicted(batch=8, prompt_tokens=16, output_tokens=8)
    assert one.decode is not None and many.decode is not None
    assert one.decode.bytes == pytest.approx(15.0e9, rel=0.01)
    assert many.decode.bytes < 1.01 * one.decode.bytes


def test_measured_device_is_slower_than_its_datasheet() -> None:
    document = profile_factory.document_with_laws()
    hardware = ProfileHardware(type(profile_factory.profile()).model_validate(document))
    for batch, prompt in ((1, 128), (16, 2048)):
        w = Workload(batch=batch, prompt_tokens=prompt, output_tokens=32)
        bound, real = predict(MODEL, H200, w), predict(MODEL, hardware, w)
        assert real.ttft_s.value > bound.ttft_s.value
        assert real.tpot_s is not None and bound.tpot_s is not None
        assert real.tpot_s.low > bound.tpot_s.value


def test_intervals_enclose_the_values_and_notes_name_extrapolated_parts() -> None:
    document = profile_factory.document_with_laws()
    hardware = ProfileHardware(type(profile_factory.profile()).model_validate(document))
    p = predict(MODEL, hardware, Workload(prompt_tokens=512, output_tokens=32))
    for value in (p.ttft_s, p.tpot_s, p.e2e_s, p.output_tokens_per_s):
        assert value is not None
        assert 0 < value.low < value.value < value.high
    assert any("extrapolated" in note and "head" in note for note in p.notes)


def test_missing_law_is_refused_and_named() -> None:
    with pytest.raises(InputError, match="has no law for"):
        predict(MODEL, ProfileHardware(profile_factory.profile()), Workload())


@pytest.mark.parametrize(
    "workload",
    [
        {"batch": 0},
        {"batch": -1},
        {"prompt_tokens": 0},
        {"output_tokens": 0},
        {"prompt_tokens": 10**12},
        {"prompt_tokens": 131_072},
    ],
)
def test_impossible_workloads(workload: dict[str, int]) -> None:
    with pytest.raises(InputError):
        predicted(**workload)


def test_unknown_dtype() -> None:
    with pytest.raises(InputError, match="unknown data type 'bf16'"):
        predict(MODEL, H200, Workload(dtype="bf16"))


def test_decode_beyond_the_attention_window_reads_the_window_only() -> None:
    """Every layer of Mistral 7B v0.1 sees 4096 tokens: a longer prompt does not slow a step."""
    model = find_model("mistral-7b-v0.1")
    steps = {
        prompt: predict(model, H200, Workload(prompt_tokens=prompt, output_tokens=32)).tpot_s
        for prompt in (2048, 4096, 8192, 16384)
    }
    times = {prompt: t.value for prompt, t in steps.items() if t is not None}
    assert times[2048] < times[4096]
    assert times[8192] == pytest.approx(times[4096], rel=1e-6)
    assert times[16384] == pytest.approx(times[8192], rel=1e-6)


def test_prefill_beyond_the_attention_window_grows_linearly() -> None:
    model = find_model("mistral-7b-v0.1")

    def attention_flops(prompt: int) -> float:
        prediction = predict(model, H200, Workload(prompt_tokens=prompt, output_tokens=1))
        return next(g.flops for g in prediction.prefill.groups if g.group == "attention")

    step = attention_flops(16384) - attention_flops(12288)
    assert attention_flops(20480) - attention_flops(16384) == pytest.approx(step, rel=1e-3)


def test_model_larger_than_the_device_gives_a_note() -> None:
    p = predict(
        find_model("llama-3.1-70b"), DatasheetHardware(find_device("h100").spec), Workload()
    )
    assert any("does not fit one device" in note for note in p.notes)
