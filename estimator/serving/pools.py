"""Disaggregated serving: prefill and decode on separate devices, with KV cache transfer.

In a closed loop of N clients each request is being prefilled, transferred or decoded, so

    N = X (TTFT(X) + transfer + (output - 1) TPOT(n))

for a request rate X. Prefill replicas are a queue with fixed service time (M/D/1: the mean wait is
``rho / (2 (1 - rho))`` service times); decode replicas run ``n`` sequences each. X is found by
bisection, because the right side grows with X.
"""

import math
from dataclasses import dataclass

from groundspeed.estimator.deployment.memory import most_sequences, plan_memory
from groundspeed.estimator.deployment.stored import cache_bytes
from groundspeed.estimator.serving.interval import interval_factors
from groundspeed.estimator.serving.parts import in_engine, part_times
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.step_time import StepTimes, step_graph
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

MAX_PREFILL_UTILIZATION = 0.98
"""Largest utilization of the prefill queue; above it the mean wait diverges."""


class Disaggregated(Record):
    """Predicted performance of disaggregated pools."""

    prefill_replicas: int
    decode_replicas: int
    devices: int
    ttft_s: float
    ttft_low_s: float
    ttft_high_s: float
    tpot_s: float
    tpot_low_s: float
    tpot_high_s: float
    transfer_s: float
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    prefill_load: float
    sequences_per_decode_replica: float
    limited_by: str


@dataclass(frozen=True)
class Pools:
    """A prefill pool and a decode pool that serve the same model."""

    prefill: Server
    decode: Server
    prefill_replicas: int
    decode_replicas: int
    link_bytes_per_s: float
    """[bytes/s] Bandwidth between one prefill replica and one decode replica."""


def predict_disaggregated(pools: Pools, w: Workload) -> Disaggregated:
    """Predict a closed loop on separate prefill and decode pools.

    Raises
    ------
    InputError
        If a count or the bandwidth is not positive.
    """
    for name, value in (
        ("prefill replicas", pools.prefill_replicas),
        ("decode replicas", pools.decode_replicas),
        ("bandwidth between pools", pools.link_bytes_per_s),
    ):
        if value <= 0:
            raise InputError(f"{name} must be positive, not {value}")
    mean = (w.length_low + w.length_high) / 2.0
    prompt, output = mean * w.prompt_tokens, max(mean * w.output_tokens, 1.0)
    before = _steps(pools.prefill, w, 1)
    most = max(1, math.ceil(w.concurrency / pools.decode_replicas))
    after = _steps(pools.decode, w, most)
    service = before.step_s(0, 0.0, prompt, 1.0, 0.0)
    moved = cache_bytes(pools.decode.model, pools.decode.deployment, prompt)
    transfer = moved * pools.decode.deployment.devices / pools.link_bytes_per_s
    context = prompt + output / 2.0
    d = pools.decode.deployment
    memory = plan_memory(pools.decode.model, d, pools.decode.engine, pools.decode.nodes)
    fit = most_sequences(pools.decode.model, d, memory, w.longest_tokens) * d.dp
    if fit < 1:
        raise InputError(
            f"{pools.decode.model.id} does not fit the decode pool of {d.devices} devices each"
        )
    most_each = min(fit, pools.decode.engine.max_sequences * d.dp)
    request = pools.prefill.engine.costs.request_s

    def state(rate: float) -> tuple[float, float, float, float]:
        load = min(rate * service / pools.prefill_replicas, MAX_PREFILL_UTILIZATION)
        ttft = service * (1.0 + load / (2.0 * (1.0 - load))) + request
        waiting = w.concurrency - rate * (ttft + transfer)
        each = min(max(waiting / pools.decode_replicas, 1.0), float(most_each))
        group = max(1, round(each / d.dp))
        return ttft, after.step_s(group, context, 0.0, 0.0, 0.0), each, load

    low, high = 0.0, MAX_PREFILL_UTILIZATION * pools.prefill_replicas / service
    for _ in range(60):
        rate = 0.5 * (low + high)
        ttft, tpot, _, _ = state(rate)
        inside = rate * (ttft + transfer + (output - 1.0) * tpot)
        decoding = rate * (output - 1.0) * tpot
        free = inside < w.concurrency and decoding <= most_each * pools.decode_replicas
        low, high = (rate, high) if free else (low, rate)
    ttft, tpot, each, load = state(low)
    full = each >= most_each - 0.5
    ends = _interval(pools, before, after, prompt, max(1.0, each / d.dp), context)
    return Disaggregated(
        prefill_replicas=pools.prefill_replicas,
        decode_replicas=pools.decode_replicas,
        devices=pools.prefill_replicas * pools.prefill.deployment.devices
        + pools.decode_replicas * pools.decode.deployment.devices,
        ttft_s=ttft,
        ttft_low_s=ttft * ends[0],
        ttft_high_s=ttft * ends[1],
        tpot_s=tpot,
        tpot_low_s=tpot * ends[2],
        tpot_high_s=tpot * ends[3],
        transfer_s=transfer,
        requests_per_s=low,
        output_tokens_per_s=low * output,
        total_tokens_per_s=low * (prompt + output),
        prefill_load=load,
        sequences_per_decode_replica=each,
        limited_by="prefill"
        if load > 0.95 * MAX_PREFILL_UTILIZATION
        else "the decode pool's cache"
        if full
        else "decode",
    )


def _interval(
    pools: Pools, before: StepTimes, after: StepTimes, prompt: float, each: float, context: float
) -> tuple[float, float, float, float]:
    """Return the factors to the ends of the 90 % intervals of TTFT and TPOT."""
    p, d = pools.prefill, pools.decode
    parts = in_engine(before.prefill_parts(1.0, prompt), p.engine.costs, before.graph, decode=False)
    first = part_times(parts, before.step_s(0, 0.0, prompt, 1.0, 0.0))
    parts = in_engine(after.decode_parts(each, context), d.engine.costs, after.graph, decode=True)
    rest = part_times(parts, after.decode_s(max(1, round(each)), context))
    ttft = interval_factors(first, "ttft", p.engine, p.nodes, p.model)
    tpot = interval_factors(rest, "tpot", d.engine, d.nodes, d.model)
    return (*ttft, *tpot)


def _steps(server: Server, w: Workload, most: int) -> StepTimes:
    graph = step_graph(
        server.model, server.deployment, server.engine, per_node=server.nodes.per_node
    )
    longest = float(w.prompt_tokens + w.output_tokens)
    return StepTimes(graph, server.nodes, server.engine, most, longest)
