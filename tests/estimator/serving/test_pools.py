"""Separate pools of prefill and decode: requests are conserved, and each pool can be the limit."""

from dataclasses import replace

import pytest

from groundspeed.estimator import Workload
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.serving.pools import (
    Disaggregated,
    Pools,
    link_between,
    predict_disaggregated,
)
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.speculation import speculate
from groundspeed.profiles.errors import InputError

LOAD = Workload(2048, 512, 64, num_prompts=64_000)


def server(model: str = "llama-3.1-8b", **options: object) -> Server:
    return build_server(model, "h200-sxm", ServerOptions(**{"engine": "vllm", **options}))


def predict(prefill: int, decode: int, w: Workload = LOAD, **options: object) -> Disaggregated:
    one = server("llama-3.1-8b", **options)
    link = link_between(one, one, prefill + decode)
    return predict_disaggregated(Pools(one, one, prefill, decode, link), w)


@pytest.mark.parametrize("replicas", [(1, 1), (1, 4), (4, 1), (2, 2)])
@pytest.mark.parametrize("clients", [1, 16, 256, 2048])
def test_requests_are_conserved(replicas: tuple[int, int], clients: int) -> None:
    p = predict(*replicas, replace(LOAD, concurrency=clients, num_prompts=1000 * clients))
    inside = p.requests_per_s * p.e2e_s
    assert inside == pytest.approx(clients, rel=0.03)
    decoding = p.requests_per_s * 511 * p.tpot_s
    assert decoding == pytest.approx(p.sequences_per_decode_replica * replicas[1], rel=0.01)


def test_each_pool_can_be_the_limit() -> None:
    clients = replace(LOAD, concurrency=512, num_prompts=512_000)
    starved, fed = predict(1, 4, clients), predict(4, 1, clients)
    assert starved.limited_by == "prefill" and starved.saturated
    assert fed.limited_by != "prefill"
    # More decode replicas than prompts can feed: they run fewer sequences, faster.
    wide = predict(1, 8, clients)
    assert wide.requests_per_s == pytest.approx(starved.requests_per_s, rel=0.01)
    assert wide.sequences_per_decode_replica < starved.sequences_per_decode_replica
    assert wide.tpot_s < starved.tpot_s


def test_the_first_round_waits_for_all_prompts() -> None:
    short = predict(1, 1, replace(LOAD, concurrency=128, num_prompts=256))
    long = predict(1, 1, replace(LOAD, concurrency=128, num_prompts=128_000))
    assert short.ttft_s > 1.5 * long.ttft_s


def test_an_open_loop_serves_what_arrives() -> None:
    few = predict(1, 1, Workload(2048, 512, kind="poisson", request_rate_per_s=2.0))
    assert few.requests_per_s == pytest.approx(2.0, rel=1e-3)
    assert not few.saturated
    many = predict(1, 1, Workload(2048, 512, kind="poisson", request_rate_per_s=500.0))
    assert many.requests_per_s < 500.0 and many.saturated
    assert few.ttft_s < many.ttft_s and few.tpot_s < many.tpot_s


def test_groups_of_attention_prefill_side_by_side() -> None:
    prompts = replace(LOAD, concurrency=2048, num_prompts=200_000)
    decode = server(tp=8)
    one, eight = server(tp=1), server(tp=1, dp=8)
    alone = predict_disaggregated(Pools(one, decode, 1, 4, 400e9), prompts)
    groups = predict_disaggregated(Pools(eight, decode, 1, 4, 400e9), prompts)
    assert alone.limited_by == "prefill"
    assert groups.requests_per_s > 3.0 * alone.requests_per_s


def test_speculation_speeds_up_the_decode_pool() -> None:
    plain, drafted = predict(1, 1), predict(1, 1, speculate(LOAD, 3, 0.8))
    assert 0.3 * plain.tpot_s < drafted.tpot_s < 0.8 * plain.tpot_s
    unstated = predict(1, 1, speculate(LOAD, 3))
    assert unstated.tpot_high_s / unstated.tpot_s > drafted.tpot_high_s / drafted.tpot_s


def test_a_cache_moves_slower_between_nodes() -> None:
    one = server(tp=4)
    inside, between = link_between(one, one, 8), link_between(one, one, 16)
    assert inside > 4.0 * between
    unknown = build_server("llama-3.1-8b", "l40s", ServerOptions(engine="vllm"))
    with pytest.raises(InputError, match="--inter-node"):
        link_between(unknown, unknown, 16)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"concurrency": 0}, "concurrency must lie between"),
        ({"kind": "offline"}, "not a load of kind 'offline'"),
        ({"drafted_tokens": 3, "acceptance": 1.5}, "out of range"),
    ],
)
def test_impossible_loads_are_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        predict(1, 1, replace(LOAD, **change))  # type: ignore[arg-type]


def test_a_prefill_pool_must_hold_the_model() -> None:
    small, large = server("llama-3.3-70b"), server("llama-3.3-70b", tp=8)
    with pytest.raises(InputError, match="does not fit"):
        predict_disaggregated(Pools(small, large, 1, 1, 400e9), LOAD)


def test_a_cache_goes_from_one_group_to_one_group() -> None:
    """More groups beside it do not make the transfer of a sequence longer."""
    one, many = server(tp=1), server(tp=1, dp=8)
    small = predict_disaggregated(Pools(one, one, 1, 1, link_between(one, one, 16)), LOAD)
    large = predict_disaggregated(Pools(one, many, 1, 1, link_between(one, many, 16)), LOAD)
    assert large.transfer_s == pytest.approx(small.transfer_s)
