"""No prediction breaks physics: bytes, peaks, conservation of requests and tokens, memory."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundspeed.estimator import DatasheetHardware, Hardware, Prediction, Server, Workload
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.deployment.invariants import require_physics
from groundspeed.estimator.engines.engine import find_engine
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.model.catalog import find_model, shipped_models
from groundspeed.estimator.serving.workload import Kind
from groundspeed.profiles import InputError, PhysicsError, find_device
from groundspeed.profiles.datasheet import load_datasheets
from repository import SHIPPED_PROFILES

MODELS = sorted(shipped_models())
GPUS = sorted(p.stem for p in SHIPPED_PROFILES.glob("*.json"))
HARDWARE = {name: find_hardware(name) for name in load_datasheets()}


def predict(model: str, gpu: str, workload: Workload, **options: object) -> Prediction:
    server = build_server(model, HARDWARE[gpu], ServerOptions(**options))  # type: ignore[arg-type]
    return server.predict(workload)


def tpot(p: Prediction) -> float:
    assert p.tpot_s is not None
    return p.tpot_s


@settings(max_examples=300, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    gpu=st.sampled_from(GPUS),
    kind=st.sampled_from(["static", "closed", "offline", "poisson"]),
    engine=st.sampled_from(["vllm", "sglang", "trtllm", "bare"]),
    tp=st.sampled_from([1, 2, 4, 8, 16]),
    ways=st.tuples(*[st.sampled_from([1, 1, 1, 2, 8])] * 4),
    dtype=st.sampled_from([None, "bf16", "fp8", "fp8_block", "int4", "nvfp4", "mxfp4"]),
    kv_dtype=st.sampled_from([None, "fp8"]),
    lengths=st.tuples(st.integers(1, 30_000), st.integers(1, 512)),
    spread=st.sampled_from([(1.0, 1.0), (0.2, 1.0)]),
    clients=st.integers(1, 64),
    num_prompts=st.sampled_from([None, 1, 40]),
    speculation=st.sampled_from([(0, 0.0), (3, 0.7)]),
    cached=st.sampled_from([0.0, 0.9]),
)
def test_no_prediction_breaks_physics(
    model: str,
    gpu: str,
    kind: Kind,
    engine: str,
    tp: int,
    ways: tuple[int, int, int, int],
    dtype: str | None,
    kv_dtype: str | None,
    lengths: tuple[int, int],
    spread: tuple[float, float],
    clients: int,
    num_prompts: int | None,
    speculation: tuple[int, float],
    cached: float,
) -> None:
    """A prediction is made or refused with a reason; ``predict`` raises what breaks physics."""
    pp, ep, dp, replicas = ways
    workload = Workload(
        *lengths, clients, kind,
        length_low=spread[0] if kind != "static" else 1.0,
        num_prompts=num_prompts,
        request_rate_per_s=1.0 + clients / 4 if kind == "poisson" else None,
        cached_share=cached, drafted_tokens=speculation[0], acceptance=speculation[1],
    )  # fmt: skip
    try:
        p = predict(
            model, gpu, workload, engine=engine, tp=tp, pp=pp, ep=ep, dp=dp, replicas=replicas,
            dtype=dtype, kv_dtype=kv_dtype,
        )  # fmt: skip
    except InputError:
        return
    assert p.ttft_low_s <= p.ttft_s <= p.ttft_high_s
    assert p.e2e.mean >= p.ttft.mean * 0.999
    if kind == "closed":
        # Clients wait for their tokens one after another.
        produced = p.output_tokens_per_s * p.e2e.mean / p.concurrency
        assert produced <= 1.02 * p.output_tokens


@pytest.mark.parametrize("ways", [{"replicas": 8}, {"dp": 8}, {"pp": 8}, {"replicas": 4, "pp": 2}])
def test_one_client_never_gets_more_than_its_own_tokens(ways: dict[str, int]) -> None:
    p = predict("llama-3.1-8b", "h200-sxm", Workload(512, 128, 1), **ways)
    assert p.output_tokens_per_s == pytest.approx(128 / (p.e2e_s + 0.004), rel=0.02)
    assert p.output_tokens_per_s <= 1.01 / tpot(p)


def test_clients_of_eight_groups_add_up_and_do_not_multiply() -> None:
    rates = [
        predict("deepseek-r1", "h200-sxm", Workload(512, 128, n), dp=8, ep=8).output_tokens_per_s
        for n in (1, 2, 4, 8, 16)
    ]
    assert rates == sorted(rates)
    for fewer, more in itertools.pairwise(rates):
        assert more <= 2.0 * fewer


def test_replicas_share_the_arrivals() -> None:
    """Two replicas with 4 requests/s do what one does with 2, and serve all of them."""
    one = Workload(512, 128, kind="poisson", request_rate_per_s=2.0)
    two = replace(one, request_rate_per_s=4.0)
    alone = predict("llama-3.1-8b", "h200-sxm", one)
    pair = predict("llama-3.1-8b", "h200-sxm", two, replicas=2)
    assert pair.requests_per_s == pytest.approx(4.0)
    assert tpot(pair) == pytest.approx(tpot(alone), rel=1e-6)
    assert pair.devices == 2


def test_open_loop_beyond_the_capacity_is_saturated_and_serves_the_capacity() -> None:
    p = predict("llama-3.1-8b", "h200-sxm", Workload(kind="poisson", request_rate_per_s=40.0))
    assert p.saturated
    assert p.offered_requests_per_s == pytest.approx(40.0)
    assert 5.0 < p.requests_per_s < 20.0
    assert any("are served, the rest queues" in note for note in p.notes)


def test_open_loop_within_the_capacity_serves_what_is_offered() -> None:
    loads = [
        predict("llama-3.1-8b", "h200-sxm", Workload(kind="poisson", request_rate_per_s=r))
        for r in (0.5, 2.0, 5.0)
    ]
    assert [p.requests_per_s for p in loads] == pytest.approx([0.5, 2.0, 5.0])
    assert not any(p.saturated for p in loads)
    assert [p.ttft_s for p in loads] == sorted(p.ttft_s for p in loads)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_arrival_rate_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="arrival rate must be above 0"):
        predict("llama-3.1-8b", "h200-sxm", Workload(kind="poisson", request_rate_per_s=rate))


def test_short_benchmark_counts_its_ramp_down() -> None:
    """100 prompts on 32 clients take four rounds, of which the last is nearly empty."""
    whole, short = (
        predict("llama-3.1-8b", "h200-sxm", Workload(1024, 1024, 32, num_prompts=n))
        for n in (96, 100)
    )
    assert short.requests_per_s < 0.9 * whole.requests_per_s
    assert short.requests_per_s > 100 / 128 * whole.requests_per_s


def test_requests_that_wait_for_memory_are_counted_once() -> None:
    from groundspeed.estimator.serving.requests import make_load
    from groundspeed.estimator.serving.scheduler import simulate
    from groundspeed.estimator.serving.step_time import StepTimes, step_graph

    server = build_server("llama-3.1-8b", "h200")
    graph = step_graph(server.model, server.deployment, server.engine)
    steps = StepTimes(graph, server.hardware, server.engine, 64, 2048.0)
    load = make_load(Workload(1024, 1024, 64), 64, clients=64)
    assert simulate(steps, server.engine, load, 10 * 2048.0).queued <= 64


def test_speculating_sequences_do_not_advance_in_lockstep() -> None:
    w = Workload(512, 256, 16, drafted_tokens=4, acceptance=0.6)
    p = predict("llama-3.1-8b", "h200-sxm", w)
    assert p.tpot is not None
    assert p.tpot.p99 > 1.02 * p.tpot.p50
    mean = 1.0 + w.accepted_tokens
    plain = predict("llama-3.1-8b", "h200-sxm", replace(w, drafted_tokens=0, acceptance=0.0))
    assert tpot(p) > tpot(plain) / mean  # its steps have more rows


@pytest.mark.parametrize("gpu", ["h100-sxm", "h200-sxm", "b200-sxm", "mi300x", "a100-sxm-80gb"])
@pytest.mark.parametrize(
    ("model", "tp", "formats"),
    [
        ("mixtral-8x7b", 4, ["bf16", "fp8"]),
        ("glm-4.5", 8, ["bf16", "fp8"]),
        ("llama-3.1-70b", 4, ["bf16", "fp8", "nvfp4"]),
        ("llama-3.1-70b", 4, ["bf16", "int4"]),
    ],
)
def test_fewer_bytes_are_not_slower(gpu: str, model: str, tp: int, formats: list[str]) -> None:
    """Half the bytes per weight never take longer: a kernel can widen them in registers."""
    times = []
    for dtype in formats:
        try:
            p = predict(model, gpu, Workload(1024, 64, 1), tp=tp, dtype=dtype)
        except InputError:  # does not fit, or the GPU lacks the format
            continue
        times.append(tpot(p))
    assert times == sorted(times, reverse=True)


def test_violation_is_an_error_that_holds_the_inputs() -> None:
    server = build_server("mixtral-8x7b", "h200", ServerOptions(tp=2))
    workload = Workload(512, 64, 2)
    p = server.predict(workload)
    faster = tuple(q.model_copy(update={"time_s": q.time_s / 10}) for q in p.decode_parts)
    impossible = {
        "data sheet's bandwidth": {"decode_parts": faster},
        "not a positive number": {"ttft_s": float("nan")},
        "its clients can have": {"requests_per_s": 3.0 * p.requests_per_s},
        "served of": {"offered_requests_per_s": p.requests_per_s / 2},
    }
    for said, changes in impossible.items():
        broken = p.model_copy(update=changes)
        with pytest.raises(PhysicsError, match=f"{said}.*mixtral-8x7b on 2 x h200"):
            require_physics(broken, workload, server.model, server.deployment, server.hardware)


class Impossible(DatasheetHardware):
    """A device that promises ten times its memory bandwidth."""

    def time(self, operator):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        result = super().time(operator)
        return replace(result, time_s=result.time_s / 10)


def test_hardware_that_promises_too_much_gives_no_number() -> None:
    hardware: Hardware = Impossible(find_device("h200").spec)
    server = Server(find_model("llama-3.1-8b"), Deployment(), find_engine("bare"), hardware)
    with pytest.raises(PhysicsError, match="data sheet's bandwidth"):
        server.predict(Workload(kind="static"))
