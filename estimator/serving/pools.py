"""Disaggregated serving: prefill and decode on separate devices, with KV cache transfer.

In a closed loop of N clients each request waits, or is being prefilled, transferred or decoded, so

    N = X (TTFT(X) + transfer + (output - 1) TPOT(n)),      n = X (output - 1) TPOT(n)

for a request rate X (Little's law, for all requests and for those that decode); in an open loop X
is what arrives. Prefill replicas are a queue with a fixed service time (M/D/1: the mean wait is
``rho / (2 (1 - rho))`` service times). X is found by bisection. Where a pool is full before the N
clients are served, the rest wait for it, before their first token. Clients of a closed loop all
begin at once: in the first of their rounds half of them wait for the prompts of the others.

A cache moves over the network between nodes, inside one over the links of the devices.
"""

import math
from dataclasses import dataclass

from groundspeed.estimator.deployment.deployment import require_valid
from groundspeed.estimator.deployment.memory import most_sequences, plan_memory, require_fit
from groundspeed.estimator.deployment.stored import cache_bytes
from groundspeed.estimator.hardware.nodes import ACHIEVED
from groundspeed.estimator.serving.interval import interval_factors
from groundspeed.estimator.serving.parts import in_engine, part_times
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.speculation import (
    acceptance_error,
    cache_factor,
    drafter,
    with_draft,
)
from groundspeed.estimator.serving.step_time import StepTimes, step_graph
from groundspeed.estimator.serving.workload import PROMPTS_A_CLIENT, Workload, require_workload
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
    output_tokens: int
    saturated: bool
    """True if requests wait for the prefill pool or for the decode pool's cache."""

    @property
    def e2e_s(self) -> float:
        """[s] From sending a request to its last token."""
        more = max(self.output_tokens - 1, 0)
        return self.ttft_s + self.transfer_s + more * self.tpot_s

    @property
    def rate_factors(self) -> tuple[float, float]:
        """Factors on the rates at the lower and the upper end of their 90 % intervals."""
        return self.tpot_s / self.tpot_high_s, self.tpot_s / self.tpot_low_s


@dataclass(frozen=True)
class Pools:
    """A prefill pool and a decode pool that serve the same model."""

    prefill: Server
    decode: Server
    prefill_replicas: int
    decode_replicas: int
    link_bytes_per_s: float
    """[bytes/s] Bandwidth between one prefill replica and one decode replica."""


def link_between(prefill: Server, decode: Server, devices: int) -> float:
    """Return the rate at which a cache moves between two replicas [bytes/s].

    Parameters
    ----------
    prefill, decode : Server
    devices : int
        All devices of all pools: inside one node they have its links, else the network.

    Raises
    ------
    InputError
        If what links them is not known.
    """
    rates = []
    together = prefill.hardware.id == decode.hardware.id
    for server in (prefill, decode):
        nodes, spec = server.nodes, server.nodes.datasheet
        inside = together and devices <= nodes.per_node
        rate = nodes.link.bandwidth_bytes_per_s if nodes.link is not None else None
        if inside:
            rate = nodes.device_link_bytes_per_s
            if rate is None and spec is not None:
                rate = spec.device_link_bytes_per_s
        if rate is None:
            raise InputError(
                "the network between pools is not known", remedy="give --inter-node 400Gb/s"
            )
        # A sequence is on the devices of one attention group.
        rates.append(ACHIEVED * rate * server.deployment.tp * server.deployment.pp)
    return min(rates)


def predict_disaggregated(pools: Pools, w: Workload) -> Disaggregated:
    """Predict a closed or an open loop on separate prefill and decode pools.

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
    _require_possible(pools, w)
    pool = _Pool.of(pools, w)
    arriving = w.request_rate_per_s or 0.0
    low, high = 0.0, MAX_PREFILL_UTILIZATION * pool.prompts_per_s
    for _ in range(60):
        rate = 0.5 * (low + high)
        each = pool.decoding(rate)
        inside = rate * (pool.ttft_s(rate) + pool.transfer_s) + each * pools.decode_replicas
        free = each < pool.most_each
        free = free and (inside < w.concurrency if w.kind != "poisson" else rate < arriving)
        low, high = (rate, high) if free else (low, rate)
    each = pool.decoding(low)
    ttft, tpot, load = pool.ttft_s(low), pool.tpot_s(each), low / pool.prompts_per_s
    full = each >= 0.99 * pool.most_each
    prompt, output, transfer = pool.prompt, pool.output, pool.transfer_s
    if w.kind != "poisson":
        # Who is not decoding waits for its first token.
        ttft = max(ttft, w.concurrency / low - transfer - (output - 1.0) * tpot)
        ttft += pool.burst_s() / pool.rounds
    ends = _interval(pools, w, pool, max(1.0, each / pools.decode.deployment.groups))
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
        output_tokens=max(1, round(output)),
        saturated=full or load > 0.95 * MAX_PREFILL_UTILIZATION,
    )


def _require_possible(pools: Pools, w: Workload) -> None:
    """Reject loads and deployments that cannot be.

    Raises
    ------
    InputError
        If a pool cannot hold the model or run it as stated, or the load is no closed or open loop.
    """
    if w.kind not in ("closed", "poisson"):
        raise InputError(
            f"separate pools serve a closed loop or random arrivals, not a load of kind '{w.kind}'"
        )
    for server in (pools.prefill, pools.decode):
        require_valid(server.model, server.deployment)
        require_workload(server.model, w)
        memory = plan_memory(server.model, server.deployment, server.engine, server.nodes)
        require_fit(
            server.model, server.deployment, server.engine, server.nodes, memory, w.longest_tokens
        )


@dataclass(frozen=True)
class _Pool:
    """Both pools under a load, with what they do at a rate of requests."""

    pools: Pools
    w: Workload
    before: StepTimes
    after: StepTimes
    prompt: float
    output: float
    own_s: float
    """[s] Prefill of one prompt alone."""
    service_s: float
    """[s] Prefill of a prompt that shares its steps with others."""
    transfer_s: float
    most_each: float
    """Most sequences that a decode replica runs."""

    @staticmethod
    def of(pools: Pools, w: Workload) -> "_Pool":
        """Return the pools under a load.

        Raises
        ------
        InputError
            If the model does not fit the decode pool.
        """
        model, d, engine = pools.decode.model, pools.decode.deployment, pools.decode.engine
        prompt = w.mean_length * w.prompt_tokens
        before = _steps(pools.prefill, w, 1)
        most = max(1, math.ceil(w.concurrency / pools.decode_replicas))
        if w.kind == "poisson":
            most = engine.max_sequences
        memory = with_draft(plan_memory(model, d, engine, pools.decode.nodes), w, model, d)
        fit = most_sequences(model, d, memory, w.longest_tokens)
        fit = int(fit / cache_factor(w, model, d)) // d.pp * d.groups
        if fit < 1:
            raise InputError(f"{model.id} does not fit the decode pool of {d.devices} devices each")
        fresh = max(prompt * (1.0 - w.cached), 1.0)
        together = max(1.0, pools.prefill.engine.token_budget // fresh)
        batch = before.step_s(0, 0.0, together * fresh, together, prompt - fresh)
        return _Pool(
            pools, w, before, _steps(pools.decode, w, most),
            prompt=prompt,
            output=max(w.mean_length * w.output_tokens, 1.0),
            own_s=before.step_s(0, 0.0, fresh, 1.0, prompt - fresh),
            service_s=batch / together,
            transfer_s=cache_bytes(model, d, prompt) * d.tp * d.pp / pools.link_bytes_per_s,
            most_each=float(min(fit, engine.max_sequences * d.groups)),
        )  # fmt: skip

    @property
    def places(self) -> int:
        """Number of prompts that the prefill pool computes at once: one in each group."""
        return self.pools.prefill_replicas * self.pools.prefill.deployment.groups

    @property
    def prompts_per_s(self) -> float:
        """[1/s] Most prompts that the prefill pool computes."""
        return self.places / self.service_s

    @property
    def rounds(self) -> float:
        """Number of requests that a client sends one after the other."""
        if self.w.num_prompts is None:
            return float(PROMPTS_A_CLIENT)
        return max(self.w.num_prompts / self.w.concurrency, 1.0)

    def ttft_s(self, rate: float) -> float:
        """Return the time to the first token at a rate of requests, without the transfer [s]."""
        load = min(rate / self.prompts_per_s, MAX_PREFILL_UTILIZATION)
        own = max(self.own_s, self.before.launch_s)
        wait = self.service_s * load / (2.0 * (1.0 - load))
        return own + wait + self.pools.prefill.engine.costs.request_s

    def burst_s(self) -> float:
        """Return the mean wait for the prompts of all clients that begin at once [s]."""
        return max(self.w.concurrency / self.places - 1.0, 0.0) / 2.0 * self.service_s

    def tpot_s(self, each: float) -> float:
        """Return the time per token if each decode replica runs this many sequences [s]."""
        d = self.pools.decode.deployment
        context = self.prompt + self.output / 2.0
        step = self.after.step_s(max(1.0, each / d.groups), context, 0.0, 0.0, 0.0)
        return step / (1.0 + self.w.accepted_tokens)

    def decoding(self, rate: float) -> float:
        """Return how many sequences a decode replica runs at a rate: Little's law, by iteration."""
        each = 1.0
        for _ in range(200):
            wanted = rate * (self.output - 1.0) * self.tpot_s(each) / self.pools.decode_replicas
            now = min(max(wanted, 1e-3), self.most_each)
            if abs(now - each) < 1e-3 * each:
                break
            each = now
        return each


def _interval(
    pools: Pools, w: Workload, pool: _Pool, each: float
) -> tuple[float, float, float, float]:
    """Return the factors to the ends of the 90 % intervals of TTFT and TPOT."""
    p, d = pools.prefill, pools.decode
    before, after, prompt = pool.before, pool.after, pool.prompt
    context = prompt + pool.output / 2.0
    parts = in_engine(before.prefill_parts(1.0, prompt), before, decode=False)
    first = part_times(parts, before.step_s(0, 0.0, prompt, 1.0, 0.0))
    parts = in_engine(after.decode_parts(each, context), after, decode=True)
    rest = part_times(parts, after.decode_s(max(1, round(each)), context))
    ttft = interval_factors(first, "ttft", p.engine, p.nodes, p.model)
    tpot = interval_factors(rest, "tpot", d.engine, d.nodes, d.model, acceptance_error(w))
    return (*ttft, *tpot)


def _steps(server: Server, w: Workload, most: int) -> StepTimes:
    graph = step_graph(
        server.model, server.deployment, server.engine, per_node=server.nodes.per_node
    )
    longest = float(w.prompt_tokens + w.output_tokens)
    proposed = drafter(w, server.model, server.deployment, server.engine, server.nodes, most)
    return StepTimes(graph, server.nodes, server.engine, most, longest, proposed)
