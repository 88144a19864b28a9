"""Costs of an engine are the product of its effects; what is known of a case sets its interval."""

import math

import pytest

from groundspeed.estimator import find_model
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.engines.costs import Costs, Effect
from groundspeed.estimator.engines.distance import distance
from groundspeed.estimator.engines.engine import Engine, find_engine, load_engines
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload

DENSE, LATENT = find_model("qwen3-8b"), find_model("deepseek-r1")
COSTS = Costs(step_s=1e-3, layer_s=1e-6, sequence_s=1e-6, collective_s=1e-6, request_s=0.01)
ENGINE = Engine(
    name="some", title="Some", platform="cuda", policy="mixed", token_budget=8192,
    max_sequences=256, memory_rule="measured", memory_fraction=0.9, overhead_bytes=0,
    reserve_output=1.0, costs=COSTS, date="2026-11", source="a test",
    effects=(
        Effect(platform="cuda", factors={"step_s": 2.0}),
        Effect(platform="rocm", factors={"step_s": 100.0}),
        Effect(architecture="hopper", factors={"step_s": 3.0}),
        Effect(platform="cuda", from_version="0.1", factors={"step_s": 5.0}),
        Effect(platform="cuda", from_version="0.3", factors={"step_s": 7.0}),
        Effect(platform="rocm", from_version="0.2", factors={"step_s": 100.0}),
    ),
    seen=(("0.3", "hopper", "dense"), ("0.1", "ampere", "dense")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("version", "architecture", "factor"),
    [
        ("", "hopper", 2 * 7 * 3),  # no version: the newest
        ("0.2.9", "hopper", 2 * 5 * 3),
        ("0.3", "blackwell ultra", 2 * 7),  # never seen: the effects of engine and version
        ("0.0.1", "hopper", 2 * 5 * 3),  # older than all: the oldest
    ],
)
def test_effects_multiply(version: str, architecture: str, factor: float) -> None:
    found = ENGINE.for_version(version).on_device(80e9, architecture)
    assert found.costs.step_s == pytest.approx(factor * 1e-3)
    assert found.costs.layer_s == 1e-6


def test_distance_is_what_the_fit_has_seen() -> None:
    at = ENGINE.for_version("")
    assert distance(at, "hopper", DENSE).what == "seen"
    assert distance(at, "hopper", LATENT).what == "version"
    assert distance(at, "ampere", DENSE).what == "engine"
    assert distance(at, "cdna4", DENSE).what == "other"
    assert distance(find_engine("bare"), "hopper", DENSE).what == "none"


def test_less_known_cases_have_wider_intervals() -> None:
    at = ENGINE.for_version("")
    seen = distance(at, "hopper", DENSE)
    assert 1.0 < seen.tpot < distance(at, "cdna4", DENSE).tpot < 3.0
    assert seen.ttft > seen.tpot  # queueing and the host vary more than the kernels


@pytest.mark.parametrize("engine", [e for e in load_engines() if e.name != "bare"], ids=str)
def test_every_engine_and_version_has_plausible_costs(engine: Engine) -> None:
    for architecture in ("hopper", "blackwell", "ampere", "cdna3", "cdna4"):
        costs = engine.for_version(engine.from_version).on_device(192e9, architecture).costs
        assert 2e-5 < costs.step_s < 1e-2
        assert 1e-7 < costs.layer_s < 1e-4
        assert 1e-4 < costs.request_s < 0.2
        assert costs.launch_s < 1e-3
        for name in Costs.model_fields:
            if name.endswith("_factor"):
                assert 0.3 < getattr(costs, name) < 8.0, name


def _with(server: Server, **costs: float) -> Server:
    engine = server.engine
    changed = engine.model_copy(update={"costs": engine.costs.model_copy(update=costs)})
    return Server(server.model, server.deployment, changed, server.hardware)


def test_launching_delays_the_first_token_of_short_prompts_only() -> None:
    server = build_server("qwen3-235b-a22b-fp8", "h200", ServerOptions(tp=8))
    load = Workload(512, 256, 4)
    slow, fast = (_with(server, launch_s=s).predict(load) for s in (200e-6, 0.0))
    assert slow.ttft_s > fast.ttft_s + 0.1
    assert slow.tpot_s == pytest.approx(fast.tpot_s or 0.0, rel=1e-6)
    long = Workload(32_768, 256, 1)
    slow, fast = (_with(server, launch_s=s).predict(long) for s in (200e-6, 0.0))
    assert slow.ttft_s == pytest.approx(fast.ttft_s)  # the kernels take longer than the launches


def test_tokens_sent_in_groups_delay_the_first_but_not_the_last() -> None:
    server = build_server("llama-3.1-8b", "h100", ServerOptions())
    load = Workload(1024, 257, 8)
    one, ten = (_with(server, stream_steps=s).predict(load) for s in (0.0, 10.0))
    assert one.tpot_s is not None and ten.tpot_s is not None
    assert ten.e2e_s == pytest.approx(one.e2e_s)
    assert ten.ttft_s - one.ttft_s == pytest.approx(10 * one.tpot_s, rel=0.05)
    assert math.isclose(ten.tpot_s / one.tpot_s, 1 - 10 / 256, rel_tol=0.01)


def test_atom_is_an_engine_of_amd_only() -> None:
    server = build_server("deepseek-r1", "mi355x", ServerOptions(tp=8, engine="ATOM"))
    assert server.engine.policy == "prefill_first"
    assert server.predict(Workload(1024, 1024, 16)).tpot_s
    assert find_model("deepseek-r1").kind == "latent"
