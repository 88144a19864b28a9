"""Server predictions: memory use, scheduling, and physical limits that no prediction may exceed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundspeed.estimator import DatasheetHardware, ProfileHardware, find_model
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.deployment.memory import min_devices
from groundspeed.estimator.deployment.stored import cache_bytes, weight_bytes
from groundspeed.estimator.engines.engine import Engine, find_engine, load_engines
from groundspeed.estimator.engines.limits import override_limits
from groundspeed.estimator.hardware.find_hardware import find_hardware, shipped_profile
from groundspeed.estimator.serving.closed_form import Loads, closed_form
from groundspeed.estimator.serving.pools import Pools, predict_disaggregated
from groundspeed.estimator.serving.scheduler import Load, simulate
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.step_time import StepTimes, step_graph
from groundspeed.estimator.serving.workload import Prediction, Workload
from groundspeed.profiles import InputError
from groundspeed.profiles.datasheet import find_device
from repository import SHIPPED_PROFILES

GIB = 2.0**30


def hardware(gpu: str) -> ProfileHardware:
    profile = shipped_profile(gpu)
    assert profile is not None
    return ProfileHardware.of(profile)


H200 = hardware("h200-sxm")


def tpot(prediction: Prediction) -> float:
    assert prediction.tpot_s is not None
    return prediction.tpot_s


def server(model: str, engine: str = "vllm", **ways: int) -> Server:
    return Server(find_model(model), replace(Deployment(), **ways), find_engine(engine), H200)


@pytest.mark.parametrize(
    ("model", "kib"),
    [
        # KiB per token in 16 bit, from model cards and papers.
        ("llama-3.1-8b", 128),
        ("llama-3.1-70b", 320),
        ("llama-3.1-405b", 504),
        ("llama-2-7b", 512),
        ("mistral-7b-v0.1", 128),
        ("qwen2.5-72b", 320),
        ("deepseek-r1", 68.625),
        ("qwen3-235b-a22b", 188),
        ("gpt-oss-120b", 72),
    ],
)
def test_kv_cache_bytes_per_token_equal_the_published_values(model: str, kib: float) -> None:
    assert cache_bytes(find_model(model), Deployment(kv_dtype="bf16"), 1.0) == kib * 1024


def test_deepseek_r1_fits_eight_h200_but_not_eight_h100() -> None:
    """The 8-bit weights take 671 GB; eight H200 have 1,128 GB, eight H100 have 640 GB."""
    server("deepseek-r1", "sglang", tp=8).predict(Workload(3200, 800, 1))
    on_h100 = Server(
        find_model("deepseek-r1"), Deployment(tp=8), find_engine("sglang"), hardware("h100-sxm")
    )
    with pytest.raises(InputError, match=r"GiB short .* needs at least 16 of these GPUs: --tp 16"):
        on_h100.predict(Workload(3200, 800, 1))


def test_weight_bytes_scale_with_tp_and_fp8_keeps_embeddings_in_16_bit() -> None:
    model = find_model("llama-3.1-70b")
    one, eight = (weight_bytes(model, Deployment(tp=n)) for n in (1, 8))
    assert one == pytest.approx(2.0 * model.parameters, rel=1e-3)
    assert eight == pytest.approx(one / 8.0)
    fp8 = weight_bytes(model, Deployment(dtype="fp8"))
    ends = 2.0 * 2.0 * model.embedding_parameters
    assert fp8 == pytest.approx((one - ends) / 2.0 + ends, rel=1e-3)


def test_llama_405b_needs_at_least_16_devices_of_80_gb() -> None:
    engine = find_engine("vllm")
    needed = min_devices(
        find_model("llama-3.1-405b"), engine, hardware("h100-sxm"), 4096.0, Deployment()
    )
    assert needed == 16  # 812 GB of weights


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "bare"])
@pytest.mark.parametrize(
    ("model", "tp"),
    [("llama-3.1-8b", 1), ("deepseek-r1", 8), ("gpt-oss-120b", 1), ("qwen3-next-80b-a3b", 4),
     ("nemotron-h-56b", 2), ("gemma-3-27b", 1), ("minimax-m2.5", 4), ("llama-4-scout", 8)],
)  # fmt: skip
def test_tpot_is_above_the_memory_bound_for_every_engine(model: str, tp: int, engine: str) -> None:
    """A decode step takes at least the time to read the weights that are active for one token."""
    prediction = server(model, engine, tp=tp).predict(Workload(1024, 256, 1))
    shape = find_model(model)
    least = 0.4 * (shape.active_parameters - shape.embedding_parameters) / tp / 4.8e12
    assert tpot(prediction) > least
    assert prediction.ttft_s > tpot(prediction) * 0.5
    assert prediction.tpot_low_s is not None and prediction.tpot_high_s is not None
    assert prediction.tpot_low_s < tpot(prediction) < prediction.tpot_high_s
    assert sum(p.share for p in prediction.decode_parts) == pytest.approx(1.0, abs=0.02)


def test_datasheet_tpot_is_below_the_profile_tpot() -> None:
    for model, tp in (("llama-3.1-70b", 4), ("deepseek-r1", 8)):
        own = server(model, tp=tp).predict(Workload(1024, 512, 16))
        datasheet = Server(
            find_model(model), Deployment(tp=tp), find_engine("vllm"),
            DatasheetHardware(find_device("h200-sxm").spec),
        ).predict(Workload(1024, 512, 16))  # fmt: skip
        assert tpot(datasheet) < tpot(own)


def test_more_clients_raise_tpot_and_throughput() -> None:
    predictions = [
        server("llama-3.1-8b").predict(Workload(512, 256, n)) for n in (1, 4, 16, 64, 128)
    ]
    tpots = [tpot(t) for t in predictions]
    rates = [t.output_tokens_per_s for t in predictions]
    assert tpots == sorted(tpots)
    assert rates == sorted(rates)


def test_throughput_times_latency_equals_the_concurrency() -> None:
    prediction = server("llama-3.1-8b").predict(Workload(512, 256, 32))
    inside = prediction.requests_per_s * (prediction.e2e.mean + 0.004)
    assert inside == pytest.approx(32, rel=0.01)


def test_random_lengths_give_the_tpot_of_their_mean() -> None:
    fixed = server("llama-3.1-8b").predict(Workload(900, 450, 16))
    drawn = server("llama-3.1-8b").predict(Workload(1000, 500, 16, length_low=0.8, length_high=1.0))
    assert tpot(drawn) == pytest.approx(tpot(fixed), rel=0.08)


def test_full_kv_cache_is_reported_as_saturated() -> None:
    prediction = server("llama-3.1-70b", tp=2).predict(Workload(8000, 2000, 256))
    assert prediction.saturated
    assert any(note.startswith("saturated: the KV cache holds") for note in prediction.notes)


def test_prefix_cache_reduces_ttft_and_does_not_raise_tpot() -> None:
    cold = server("llama-3.1-8b").predict(Workload(4096, 128, 8))
    warm = server("llama-3.1-8b").predict(Workload(4096, 128, 8, cached_share=0.9))
    assert warm.ttft_s < 0.4 * cold.ttft_s
    assert tpot(warm) <= tpot(cold)


def test_speculative_decoding_reduces_tpot_at_batch_1() -> None:
    plain = server("llama-3.1-70b", tp=4).predict(Workload(512, 512, 1))
    speculating = server("llama-3.1-70b", tp=4).predict(
        Workload(512, 512, 1, drafted_tokens=3, acceptance=0.8)
    )
    # 1 + .8 + .64 + .51 tokens per step; a step of four rows takes little longer than one row.
    assert 2.2 < tpot(plain) / tpot(speculating) < 2.96


def test_mixture_of_experts_has_under_half_the_tpot_of_a_dense_model() -> None:
    mixture = server("mixtral-8x22b", tp=8).predict(Workload(512, 512, 1))
    assert tpot(mixture) < tpot(server("llama-3.1-405b", tp=8).predict(Workload(512, 512, 1))) / 2


@pytest.mark.parametrize(
    ("model", "deployment", "message"),
    [
        ("llama-3.1-70b", {"tp": 3}, "--tp 3 does not divide the 64 attention heads"),
        ("llama-3.1-70b", {"ep": 2}, "needs a mixture of experts"),
        ("deepseek-r1", {"tp": 8, "ep": 3}, "--ep 3 does not divide the 8 devices"),
        ("llama-3.1-70b", {"tp": 0}, "--tp must lie between 1 and 4096"),
        ("llama-3.1-70b", {"tp": 4, "pp": 100}, "--pp 100 is more than the 80 layers"),
    ],
)
def test_impossible_parallelism_is_refused(
    model: str, deployment: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        server(model, "vllm", **deployment).predict(Workload(128, 128, 1))


@pytest.mark.parametrize(
    "workload",
    [
        Workload(0, 10), Workload(10, -1), Workload(10, 10, 0),
        Workload(200_000, 10), Workload(10, 10, length_low=0.0),
        Workload(10, 10, cached_share=1.0), Workload(10, 10, num_prompts=0),
        Workload(10, 10, drafted_tokens=2, acceptance=1.5),
        Workload(10, 10, kind="poisson"),
    ],
)  # fmt: skip
def test_impossible_workloads(workload: Workload) -> None:
    with pytest.raises(InputError) as caught:
        server("llama-3.1-8b").predict(workload)
    assert "\n" not in str(caught.value)


def test_data_parallel_attention_needs_more_weight_memory_than_tp() -> None:
    model = find_model("deepseek-r1")
    sharded = weight_bytes(model, Deployment(tp=8, ep=8))
    groups = weight_bytes(model, Deployment(tp=1, dp=8, ep=8))
    assert groups > sharded  # every data-parallel group holds a copy of attention
    prediction = server("deepseek-r1", "sglang", tp=1, dp=8, ep=8).predict(Workload(1024, 512, 64))
    assert prediction.devices == 8


def test_pipeline_parallelism_has_higher_tpot_than_tp_at_equal_memory() -> None:
    flat = server("llama-3.1-70b", tp=4).predict(Workload(1024, 256, 16))
    staged = server("llama-3.1-70b", tp=2, pp=2).predict(Workload(1024, 256, 16))
    assert staged.devices == flat.devices == 4
    assert staged.weight_bytes == pytest.approx(flat.weight_bytes, rel=0.05)
    assert tpot(staged) > tpot(flat)


def steps_of(engine: Engine, most: int = 64) -> StepTimes:
    layers = step_graph(find_model("llama-3.1-8b"), Deployment(), find_engine("vllm"))
    return StepTimes(layers, H200, engine, most, 4096.0)


VLLM, SGLANG = (
    override_limits(find_engine("vllm"), 2048),
    override_limits(find_engine("sglang"), 4096),
)
STEPS = {e.name: steps_of(e) for e in (VLLM, SGLANG)}


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 300)), min_size=1, max_size=30),
    clients=st.integers(1, 16),
    engine=st.sampled_from([VLLM, SGLANG]),
    cache=st.sampled_from([3500.0, 20_000.0, 1e9]),
)
def test_simulated_requests_respect_causality_step_time_and_client_count(
    lengths: list[tuple[int, int]], clients: int, engine: Engine, cache: float
) -> None:
    prompts, outputs = (np.array(x, dtype=float) for x in zip(*lengths, strict=True))
    out = simulate(STEPS[engine.name], engine, Load(prompts, outputs, clients=clients), cache)
    assert (out.first_s > out.arrival_s).all()
    assert (out.end_s >= out.first_s).all()
    one = outputs == 1
    np.testing.assert_allclose(out.end_s[one], out.first_s[one])
    # No token is faster than a decode step at batch 1.
    rate = (out.end_s - out.first_s)[~one] / (outputs[~one] - 1)
    assert (rate > 0.9 * STEPS[engine.name].decode_s(1, 16.0)).all()
    assert out.busy_s <= out.end_s.max() + 1e-9
    # The number of running requests never exceeds the number of clients.
    for when in out.arrival_s:
        alive = ((out.arrival_s <= when) & (out.end_s > when)).sum()
        assert alive <= max(clients, 1)


@pytest.mark.parametrize("engine", [VLLM, SGLANG], ids=lambda e: e.name)
@pytest.mark.parametrize("concurrency", [1, 4, 16, 64])
@pytest.mark.parametrize("lengths", [(1.0, 1.0), (0.8, 1.0)])
def test_closed_form_agrees_with_the_simulation(
    engine: Engine, concurrency: int, lengths: tuple[float, float]
) -> None:
    w = Workload(1024, 256, concurrency, length_low=lengths[0], length_high=lengths[1])
    simulated = Server(find_model("llama-3.1-8b"), Deployment(), engine, H200).predict(w)
    mean = sum(lengths) / 2
    loads = Loads(
        np.array([1024.0 * mean]), np.array([256.0 * mean]), np.array([float(concurrency)]),
        fixed=lengths[0] == lengths[1],
    )  # fmt: skip
    formula = closed_form(steps_of(engine), engine, loads)
    assert formula.tpot_s[0] == pytest.approx(tpot(simulated), rel=0.15)
    # TTFT depends on queueing, which means describe badly: the prototype was 7 to 17 % off.
    assert formula.ttft_s[0] == pytest.approx(simulated.ttft_s, rel=0.45)
    assert formula.requests_per_s[0] == pytest.approx(simulated.requests_per_s, rel=0.2)


@settings(max_examples=50, deadline=None)
@given(
    sequences=st.integers(0, 64), context=st.floats(16, 4000), prompts=st.integers(1, 8),
    length=st.floats(8, 2000), prefilling=st.booleans(), engine=st.sampled_from([VLLM, SGLANG]),
)  # fmt: skip
def test_step_time_of_one_step_equals_the_vectorized_one(
    sequences: int, context: float, prompts: int, length: float, prefilling: bool, engine: Engine
) -> None:
    chunk = prompts * length if prefilling else 0.0
    steps = STEPS[engine.name]
    n = float(prompts) if prefilling else 0.0
    one = steps.step_s(sequences, context, chunk, n, 0.0)
    arrays = (np.array([x]) for x in (float(sequences), context, chunk, max(n, 1e-9)))
    if not prefilling:
        many = steps.step_many(
            np.array([float(sequences)]), np.array([context]), np.zeros(1), np.ones(1)
        )
        one = steps.step_s(sequences, context, 0.0, 1.0, 0.0)
    else:
        many = steps.step_many(*arrays)
    assert many[0] == pytest.approx(one, rel=1e-9)


def test_separate_pools() -> None:
    one = server("llama-3.1-70b", tp=4)
    w = Workload(4096, 512, 64)
    together = one.predict(w)
    pools = predict_disaggregated(Pools(one, one, 1, 1, 450e9), w)
    assert pools.tpot_s < tpot(together)  # no prefill interrupts decoding
    assert pools.devices == 8
    starved = predict_disaggregated(Pools(one, one, 1, 8, 450e9), w)
    assert starved.limited_by == "prefill"
    with pytest.raises(InputError, match="prefill replicas must be positive"):
        predict_disaggregated(Pools(one, one, 0, 1, 450e9), w)


def test_higher_request_rate_raises_ttft_and_tpot_of_an_open_loop() -> None:
    slow = server("llama-3.1-8b").predict(
        Workload(512, 128, 1, kind="poisson", request_rate_per_s=0.5, num_prompts=200)
    )
    fast = server("llama-3.1-8b").predict(
        Workload(512, 128, 1, kind="poisson", request_rate_per_s=40.0, num_prompts=400)
    )
    assert slow.requests_per_s == pytest.approx(0.5, rel=0.2)
    assert fast.ttft.p99 > slow.ttft.p99
    assert tpot(fast) > tpot(slow)


def test_goodput_counts_only_requests_that_meet_the_slo() -> None:
    w = Workload(2048, 256, 64)
    loose = server("llama-3.1-8b").predict(w, slo=(100.0, 1.0))
    tight = server("llama-3.1-8b").predict(w, slo=(0.05, 1.0))
    assert loose.goodput_requests_per_s == pytest.approx(loose.requests_per_s)
    assert tight.goodput_requests_per_s is not None
    assert tight.goodput_requests_per_s < 0.5 * tight.requests_per_s


def test_engine_names_of_published_tables_resolve() -> None:
    assert (
        find_engine("TensorRT-LLM (gptSessionBenchmark, static batch)", version="0.9.0").name
        == "trtllm"
    )
    assert find_engine("vLLM (ROCm)", version="0.10.0", platform="rocm").platform == "rocm"
    assert (
        find_engine("SGLang", version="0.4.3.post2").from_version
        != find_engine("SGLang").from_version
    )
    with pytest.raises(InputError, match="unknown engine 'vlm'.*did you mean 'vllm'"):
        find_engine("vlm")
    assert all(e.source and e.date for e in load_engines())


def test_shipped_profiles_are_small_and_state_source_and_origin() -> None:
    names = {p.stem for p in SHIPPED_PROFILES.glob("*.json")}
    assert names >= {
        "h100-sxm", "h200-sxm", "b200-sxm", "a100-sxm-80gb", "l40s", "mi300x", "mi325x", "h20",
        "h800-sxm", "h100-pcie", "h100-nvl",
    }  # fmt: skip
    for name in names:
        assert (SHIPPED_PROFILES / f"{name}.json").stat().st_size < 750_000
        profile = shipped_profile(name)
        assert profile is not None
        assert all(law.source for law in profile.laws)
        if profile.mode == "imported":
            assert any("Apache-2.0" in law.source for law in profile.laws)
        else:
            assert {law.origin for law in profile.laws} == {"transferred"}


def test_chosen_hardware_states_where_its_profile_comes_from() -> None:
    assert "published timings" in find_hardware("h200").reason
    assert "scaled" in find_hardware("mi300x").reason
