"""Prefill and decode on separate pools, of one kind of GPU or of two.

A pool for prefill is chosen for its prompts per second and GPU, one for decode for its tokens per
second and GPU within the limit of TPOT; the number of replicas balances them. The result is a
steady state (``serving/pools``), not a simulation: it is shown beside the plan, not in its front.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from groundspeed.estimator.decisions.objective import Limit
from groundspeed.estimator.decisions.plan_records import Candidate, PoolPoint, Request, Rough
from groundspeed.estimator.serving.pools import (
    Disaggregated,
    Pools,
    link_between,
    predict_disaggregated,
)
from groundspeed.estimator.serving.server import Server
from groundspeed.profiles.errors import InputError

TRIED_EACH = 3
"""Deployments of each pool that are combined, the most productive first."""

SHOWN = 5


@dataclass(frozen=True)
class _Pool:
    candidate: Candidate
    server: Server
    productivity: float
    """[1/s] Prompts (prefill) or tokens (decode) per second and GPU."""
    sequences: int = 1


def plan_pools(request: Request, roughs: Sequence[Rough]) -> tuple[PoolPoint, ...]:
    """Return the pools that meet the objective, the cheapest first; few of them.

    Parameters
    ----------
    request : Request
    roughs : sequence of Rough
        Deployments at concurrencies, by the closed form.
    """
    limit = min((x.seconds for x in request.limits if x.metric == "tpot"), default=float("inf"))
    found: list[tuple[float, PoolPoint]] = []
    for first in _best(_prefill(request, roughs)):
        for second in _best(_decode(roughs, limit)):
            found += _balanced(request, first, second)
    found.sort(key=lambda entry: entry[0])
    meeting = [p for _, p in found if p.meets]
    return tuple(meeting[:SHOWN])


def _best(pools: Sequence[_Pool]) -> list[_Pool]:
    """Return the most productive deployments of each candidate."""
    chosen: list[_Pool] = []
    for candidate in {id(p.candidate): p.candidate for p in pools}.values():
        mine = sorted((p for p in pools if p.candidate is candidate), key=lambda p: -p.productivity)
        chosen += mine[:TRIED_EACH]
    return chosen


def _servers(roughs: Sequence[Rough]) -> list[Rough]:
    return list({id(r.server): r for r in roughs}.values())


def _prefill(request: Request, roughs: Sequence[Rough]) -> list[_Pool]:
    pools = []
    tokens = request.workload.prompt_tokens * request.workload.mean_length
    for rough in _servers(roughs):
        server = rough.server
        if server.deployment.dp > 1 or server.deployment.devices >= rough.candidate.gpus:
            continue
        fill = server.predict(replace(request.workload, concurrency=1, num_prompts=1))
        busy = max(fill.ttft_s - server.engine.costs.request_s, 1e-9)
        pools.append(_Pool(rough.candidate, server, tokens / busy / server.deployment.devices))
    return pools


def _decode(roughs: Sequence[Rough], limit_s: float) -> list[_Pool]:
    best: dict[int, Rough] = {}
    for rough in roughs:
        if rough.tpot_s > limit_s or rough.server.deployment.devices >= rough.candidate.gpus:
            continue
        known = best.get(id(rough.server))
        if known is None or rough.tokens_per_s_per_gpu > known.tokens_per_s_per_gpu:
            best[id(rough.server)] = rough
    return [
        _Pool(r.candidate, r.server, r.tokens_per_s_per_gpu, r.workload.concurrency)
        for r in best.values()
    ]


def _balanced(request: Request, first: _Pool, second: _Pool) -> list[tuple[float, PoolPoint]]:
    """Return the numbers of replicas that use the GPUs, each with its price."""
    a, b = first.server.deployment.devices, second.server.deployment.devices
    together = first.candidate is second.candidate
    found = []
    for decode in range(1, second.candidate.gpus // b + 1):
        left = first.candidate.gpus - (decode * b if together else 0)
        prefill = left // a
        if prefill < 1:
            break
        # No more prefill replicas than the decode pool has use for.
        rate = decode * b * second.productivity / request.workload.output_tokens
        needed = rate * request.workload.prompt_tokens / (first.productivity * a)
        prefill = max(1, min(prefill, -int(-needed // 1)))
        workload = replace(
            request.workload, concurrency=max(1, decode * second.sequences + prefill)
        )
        try:
            link = link_between(first.server, second.server, prefill * a + decode * b)
            pools = Pools(first.server, second.server, prefill, decode, link)
            found.append(_point(request, first, second, predict_disaggregated(pools, workload),
                                workload.concurrency))  # fmt: skip
        except InputError:  # it does not fit, or nothing says how fast the pools are linked
            continue
    return found


def _point(
    request: Request, first: _Pool, second: _Pool, result: Disaggregated, clients: int
) -> tuple[float, PoolPoint]:
    a = result.prefill_replicas * first.server.deployment.devices
    b = result.decode_replicas * second.server.deployment.devices
    prices = (first.candidate.price_per_hour, second.candidate.price_per_hour)
    hourly = None
    if prices[0] is not None and prices[1] is not None:
        hourly = prices[0] * a + prices[1] * b
    output = result.output_tokens_per_s
    cost = hourly / (output * 3600.0) * 1e6 if hourly is not None else None
    point = PoolPoint(
        prefill=_name(result.prefill_replicas, first),
        decode=_name(result.decode_replicas, second),
        gpus=a + b,
        concurrency=clients,
        ttft_s=result.ttft_s + result.transfer_s,
        tpot_s=result.tpot_s,
        ttft_high_s=result.ttft_high_s + result.transfer_s,
        tpot_high_s=result.tpot_high_s,
        tokens_per_s_per_gpu=output / (a + b),
        tokens_per_s_per_user=1.0 / result.tpot_s,
        cost_per_million_output_tokens=cost,
        meets=all(_meets(limit, result) for limit in request.limits),
        limited_by=result.limited_by,
    )
    return (cost if cost is not None else -point.tokens_per_s_per_gpu), point


def _meets(limit: Limit, result: Disaggregated) -> bool:
    """Return whether a mean meets a limit; a steady state has no percentiles."""
    if limit.statistic != "mean" or limit.metric == "e2e":
        return False
    value = result.ttft_s + result.transfer_s if limit.metric == "ttft" else result.tpot_s
    return value <= limit.seconds


def _name(replicas: int, pool: _Pool) -> str:
    d = pool.server.deployment
    ways = f"tp{d.tp}" + (f" pp{d.pp}" if d.pp > 1 else "") + (f" dp{d.dp}" if d.dp > 1 else "")
    return (
        f"{replicas} x {ways}" + (f" ep{d.ep}" if d.ep > 1 else "") + f" on {pool.candidate.name}"
    )
