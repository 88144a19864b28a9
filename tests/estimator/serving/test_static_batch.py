"""Static-batch predictions: latency identities, physics, intervals and refused workloads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import profile_factory
from groundspeed.estimator import (
    DatasheetHardware,
    Hardware,
    Model,
    Prediction,
    ProfileHardware,
    Server,
    Workload,
    find_model,
)
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.deployment.stored import step_weight_bytes
from groundspeed.estimator.engines.engine import find_engine
from groundspeed.profiles import InputError, find_device

H200 = DatasheetHardware(find_device("h200").spec)
MODEL = find_model("llama-3.1-8b")
WIDE = MODEL.model_copy(update={"max_context": None})


def predict(
    model: Model, hardware: Hardware, prompt: int = 1024, output: int = 1024, batch: int = 1
) -> Prediction:
    workload = Workload(prompt, output, batch, kind="static")
    return Server(model, Deployment(), find_engine("bare"), hardware).predict(workload)


def measured() -> ProfileHardware:
    document = profile_factory.document_with_laws()
    return ProfileHardware.of(type(profile_factory.profile()).model_validate(document))


def tpot(prediction: Prediction) -> float:
    assert prediction.tpot_s is not None
    return prediction.tpot_s


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(1, 4096))
def test_latency_and_throughput_identities_hold(batch: int, prompt: int, output: int) -> None:
    p = predict(MODEL, H200, prompt, output, batch)
    each = p.tpot_s or 0.0
    assert p.e2e_s == pytest.approx(p.ttft_s + (output - 1) * each)
    assert p.output_tokens_per_s == pytest.approx(batch * output / p.e2e_s)
    assert p.total_tokens_per_s == pytest.approx(batch * (prompt + output) / p.e2e_s)
    assert (p.tpot_s is None) == (output == 1)


@given(st.integers(1, 32), st.integers(16, 2048))
def test_more_work_takes_longer(batch: int, prompt: int) -> None:
    small = predict(MODEL, H200, prompt, 64, batch)
    for large in (
        predict(MODEL, H200, prompt, 64, 2 * batch),
        predict(MODEL, H200, 2 * prompt, 64, batch),
    ):
        assert large.ttft_s > small.ttft_s
        assert tpot(large) > tpot(small)


def test_prefill_flops_are_two_per_parameter_and_token() -> None:
    p = predict(MODEL, H200, 1024, 1)
    layer = MODEL.mixers[0].parameters() + MODEL.mlp_parameters
    attention = 4 * MODEL.layers * MODEL.heads * MODEL.head_dim * 1024 * 1025 / 2
    head = 2 * MODEL.vocabulary * MODEL.hidden  # the head runs for the last token only
    expected = 2 * 1024 * MODEL.layers * layer + attention + head
    assert sum(part.flops for part in p.prefill_parts) == pytest.approx(expected, rel=1e-3)


def test_decode_reads_the_weights_once_for_the_whole_batch() -> None:
    one, many = (predict(MODEL, H200, 16, 8, batch).decode_parts for batch in (1, 8))
    assert sum(p.bytes for p in one) == pytest.approx(15.0e9, rel=0.01)
    assert sum(p.bytes for p in many) < 1.01 * sum(p.bytes for p in one)


@pytest.mark.parametrize(
    ("name", "tp", "least_ms"),
    [
        ("mixtral-8x7b", 1, 5.3),  # 12.9 B active parameters in 16 bit at 4.8 TB/s
        ("llama-4-scout", 4, 1.6),  # 17 B active
        ("deepseek-r1", 8, 0.9),  # 37 B active in 8 bit
        ("qwen3-30b-a3b", 1, 1.2),  # 3.3 B active
    ],
)
def test_mixture_reads_at_least_its_active_weights(name: str, tp: int, least_ms: float) -> None:
    """One token of Mixtral activates 2 of 8 experts: more than Mistral 7B, less than 47 B."""
    model = find_model(name)
    server = Server(model, Deployment(tp=tp), find_engine("bare"), H200)
    p = server.predict(Workload(kind="static"))
    assert 1e3 * tpot(p) > least_ms
    read = step_weight_bytes(model, Deployment(tp=tp), 1.0)
    assert sum(part.bytes for part in p.decode_parts) > read
    assert 1e3 * tpot(p) < 2.0 * least_ms  # and not all of its weights


def test_more_experts_of_the_same_size_need_more_memory_but_not_more_time_at_batch_1() -> None:
    """Llama 4 Maverick has 128 experts where Scout has 16; a token activates one of either."""
    scout, maverick = find_model("llama-4-scout"), find_model("llama-4-maverick")
    a, b = (
        Server(m, Deployment(tp=8), find_engine("bare"), H200).predict(Workload(kind="static"))
        for m in (scout, maverick)
    )
    assert b.weight_bytes > 3.0 * a.weight_bytes
    assert tpot(a) != tpot(b)
    assert tpot(b) == pytest.approx(tpot(a), rel=0.2)


def test_measured_device_is_slower_than_its_datasheet() -> None:
    for batch, prompt in ((1, 128), (16, 2048)):
        bound, real = (predict(MODEL, h, prompt, 32, batch) for h in (H200, measured()))
        assert real.ttft_s > bound.ttft_s
        assert real.tpot_low_s is not None and real.tpot_low_s > tpot(bound)


def test_intervals_enclose_the_values_and_notes_name_extrapolated_parts() -> None:
    p = predict(MODEL, measured(), 512, 32)
    assert 0 < p.ttft_low_s < p.ttft_s < p.ttft_high_s
    assert p.tpot_low_s is not None and p.tpot_high_s is not None
    assert 0 < p.tpot_low_s < tpot(p) < p.tpot_high_s
    assert 0 < p.e2e_low_s < p.e2e_s < p.e2e_high_s
    slow, fast = p.rate_factors
    assert 0 < slow < 1 < fast
    assert any("extrapolated" in note and "head" in note for note in p.notes)


def test_missing_law_is_refused_and_named() -> None:
    with pytest.raises(InputError, match="has no law for"):
        predict(MODEL, ProfileHardware.of(profile_factory.profile()))


@pytest.mark.parametrize(
    ("prompt", "output", "batch"),
    [(8, 8, 0), (8, 8, -1), (0, 8, 1), (8, 0, 1), (10**12, 8, 1), (131_072, 1024, 1)],
)
def test_impossible_workloads(prompt: int, output: int, batch: int) -> None:
    with pytest.raises(InputError):
        predict(MODEL, H200, prompt, output, batch)


def test_unknown_dtype() -> None:
    server = Server(MODEL, Deployment(dtype="bf61"), find_engine("bare"), H200)
    with pytest.raises(InputError, match=r"unknown data type 'bf61': did you mean 'bf16'"):
        server.predict(Workload(kind="static"))


def test_decode_beyond_the_attention_window_reads_the_window_only() -> None:
    """Every layer of Mistral 7B v0.1 sees 4096 tokens: a longer prompt does not slow a step."""
    model = find_model("mistral-7b-v0.1")
    times = {n: tpot(predict(model, H200, n, 32)) for n in (2048, 4096, 8192, 16384)}
    assert times[2048] < times[4096]
    assert times[8192] == pytest.approx(times[4096], rel=1e-6)
    assert times[16384] == pytest.approx(times[8192], rel=1e-6)


def test_prefill_beyond_the_attention_window_grows_linearly() -> None:
    model = find_model("mistral-7b-v0.1")

    def attention_flops(prompt: int) -> float:
        parts = predict(model, H200, prompt, 1).prefill_parts
        return next(p.flops for p in parts if p.group == "attention")

    step = attention_flops(16384) - attention_flops(12288)
    assert attention_flops(20480) - attention_flops(16384) == pytest.approx(step, rel=1e-3)


def test_model_or_batch_that_does_not_fit_is_refused() -> None:
    h100 = DatasheetHardware(find_device("h100").spec)
    with pytest.raises(InputError, match=r"llama-3.1-70b does not fit: .* GiB short"):
        predict(find_model("llama-3.1-70b"), h100)
    with pytest.raises(InputError, match=r"does not fit with a batch of 4096: the caches hold"):
        predict(MODEL, h100, batch=4096)


def test_static_batch_of_an_engine_costs_what_the_engine_adds() -> None:
    """The same batch takes longer in an engine, by about its costs of a step and of the layers."""
    workload = Workload(512, 64, 8, kind="static")
    h200 = measured()
    engine = find_engine("vllm")
    nothing = engine.model_copy(
        update={"costs": engine.costs.model_copy(update={"step_s": 0.0, "layer_s": 0.0})}
    )
    slow, fast = (Server(MODEL, Deployment(), e, h200).predict(workload) for e in (engine, nothing))
    added = engine.costs.step_s + MODEL.layers * engine.costs.layer_s
    assert tpot(slow) - tpot(fast) == pytest.approx(added, rel=1e-6)


def test_tensor_parallel_batch_halves_the_weights_and_adds_communication() -> None:
    one, two = (
        Server(MODEL, Deployment(tp=n), find_engine("bare"), H200).predict(Workload(kind="static"))
        for n in (1, 2)
    )
    assert two.weight_bytes == pytest.approx(one.weight_bytes / 2)
    assert {p.group for p in two.decode_parts} - {p.group for p in one.decode_parts} == {
        "communication"
    }
    assert np.isclose(two.devices, 2)
