"""Build the server and the workload that a row of measurements describes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from groundspeed.estimator.backtest.layout import PoolText, read_layout, read_speculation
from groundspeed.estimator.backtest.values import (
    LENGTHS,
    Row,
    integer,
    number,
    setting,
    stated,
    text,
    version,
    weight_format,
)
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.limits import engine_on, override_limits
from groundspeed.estimator.engines.own_engine import OwnEngine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.catalog import find_model
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.pools import Pools, link_between
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.speculation import UNSTATED, acceptance_of, speculate
from groundspeed.estimator.serving.workload import Kind, Workload
from groundspeed.profiles.errors import InputError

REQUIRED = ("model", "gpu", "isl", "osl")

VARIED = (0.02, 1.98)
"""Lengths of requests of which only the mean is known, relative to it: uniform between next to
nothing and twice the mean, as load tools draw them by default. Equal lengths would keep the
requests in step, which real ones are not."""

SPLIT = 0.004
"""Largest relative difference of a mean length from a round one that tokenizing explains."""

CACHE_BLOCK = 16
"""Tokens of a block of the prefix cache, vLLM's default."""

KINDS: dict[str, Kind] = {
    "static_batch": "static",
    "static": "static",
    "closed_loop_concurrency": "closed",
    "closed_loop": "closed",
    "closed": "closed",
    "concurrency": "closed",
    "offline_batch": "offline",
    "offline": "offline",
    "open_loop_qps": "poisson",
    "open_loop": "poisson",
    "open": "poisson",
    "poisson": "poisson",
}


@dataclass
class Resolver:
    """Looks hardware up by name and caches it."""

    find: Callable[[str], Hardware]
    own: OwnEngine | None = None
    """A calibrated engine, whose constants are used for its rows."""
    _found: dict[str, Hardware] = field(default_factory=dict)

    def hardware(self, name: str) -> Hardware:
        """Return the hardware with this name."""
        if name not in self._found:
            self._found[name] = self.find(name)
        return self._found[name]


def server_and_workload(row: Row, resolver: Resolver) -> tuple[Server, Workload]:
    """Build the server and the workload that a row describes; of pools, the decode replica.

    Raises
    ------
    InputError
        If a column is missing or invalid.
    """
    missing = [c for c in REQUIRED if not text(row, c)]
    rate = number(row, "request_rate")
    if not text(row, "batch_or_concurrency") and not rate:
        missing.append("batch_or_concurrency or request_rate")
    if missing:
        raise InputError(f"missing columns or values: {', '.join(missing)}")
    # Benchmarks with random weights may exceed the maximum context of the model.
    model = find_model(text(row, "model")).model_copy(update={"max_context": None})
    hardware = resolver.hardware(text(row, "gpu"))
    dp = max(1, integer(row, "dp_attn", 1))
    devices = max(1, integer(row, "n_gpus", 0) or integer(row, "tp", 1))
    pp = max(1, integer(row, "pp", 1))
    tp = max(1, integer(row, "tp", 0) or devices // (dp * pp))
    deployment = Deployment(
        tp=tp,
        pp=pp,
        ep=max(1, integer(row, "ep", 1)) if model.experts is not None else 1,
        dp=dp,
        dtype=weight_format(text(row, "weight_dtype")),
        replicas=max(1, integer(row, "replicas", 1)),
        kv_dtype="fp8" if text(row, "kv_dtype").lower().startswith("fp8") else None,
    )
    if stated(row, "disagg"):
        deployment = _of_pool(deployment, read_layout(stated(row, "disagg")).decode)
    engine = engine_on(text(row, "engine") or "vllm", hardware, version=version(row))
    if resolver.own is not None and resolver.own.engine == engine.name:
        engine = resolver.own.applied(engine)
    kind = KINDS.get(text(row, "load_kind").split("(")[0].strip() or "closed")
    if kind is None:
        raise InputError(f"unknown load '{row['load_kind']}'", remedy=f"one of {', '.join(KINDS)}")
    if kind == "static" and engine.name == "trtllm":
        engine = engine.model_copy(update={"policy": "whole_batch"})
    engine = override_limits(
        engine, _count(row, "token_budget", deployment), _count(row, "max_sequences", deployment),
        setting(row, "memory_fraction"), _count(row, "max_model_len", deployment),
    )  # fmt: skip
    model = _with_copies(model, deployment.ep) if stated(row, "disagg") else model
    return Server(model, deployment, engine, hardware), _workload(row, kind, rate)


def pools_of(row: Row, server: Server) -> Pools | None:
    """Return the pools that a row describes, given its decode replica; None without pools.

    Raises
    ------
    InputError
        If they are not understood, or what links them is not known.
    """
    described = stated(row, "disagg")
    if not described:
        return None
    layout = read_layout(described)
    deployment = _of_pool(server.deployment, layout.prefill)
    model = find_model(text(row, "model")).model_copy(update={"max_context": None})
    prefill = replace(server, model=_with_copies(model, deployment.ep), deployment=deployment)
    devices = sum(p.replicas * p.devices for p in (layout.prefill, layout.decode))
    return Pools(
        prefill, server, layout.prefill.replicas, layout.decode.replicas,
        link_between(prefill, server, devices),
    )  # fmt: skip


def _with_copies(model: Model, ranks: int) -> Model:
    """Return the model with copies of some experts, as engines add them so that ranks divide them.

    DeepSeek's 256 experts on 48 GPUs are 288: six on each.
    """
    if model.experts is None or model.experts.count % ranks == 0:
        return model
    count = -(-model.experts.count // ranks) * ranks
    experts = model.experts.model_copy(update={"count": count})
    return model.model_copy(update={"experts": experts})


def _of_pool(deployment: Deployment, pool: PoolText) -> Deployment:
    """Return the deployment of one replica of a pool."""
    groups = pool.devices if pool.attention_groups else 1
    return replace(deployment, tp=pool.devices // groups, dp=groups, pp=1, ep=pool.ep, replicas=1)


def _workload(row: Row, kind: Kind, rate: float | None) -> Workload:
    low, high = number(row, "length_low"), number(row, "length_high")
    least, most = VARIED if kind != "static" and _mean_of_many(row) else (1.0, 1.0)
    delay = number(row, "client_delay_ms")
    workload = Workload(
        prompt_tokens=integer(row, "isl", 0),
        output_tokens=integer(row, "osl", 0),
        concurrency=integer(row, "batch_or_concurrency", 1),
        kind=kind,
        length_low=least if low is None else low,
        length_high=most if high is None else high,
        num_prompts=integer(row, "num_prompts", 0) or None,
        statistic="median" if text(row, "stat").startswith("median") else "mean",
        cached_share=_cached(row),
    )
    if kind == "poisson" and not rate:
        raise InputError("an open loop needs the column request_rate")
    if rate and (kind == "poisson" or not text(row, "batch_or_concurrency")):
        workload = replace(workload, kind="poisson", request_rate_per_s=rate)
    if delay is not None:
        workload = replace(workload, client_delay_s=delay * 1e-3)
    return _speculating(row, workload)


def _count(row: Row, name: str, deployment: Deployment) -> int | None:
    """Return a limit of one attention group; None if the row does not state it.

    SGLang divides what its command says of a step by the number of groups.
    """
    value = setting(row, name)
    if value is None:
        return None
    if name != "max_model_len" and not text(row, name) and text(row, "engine")[:3].lower() == "sgl":
        value = max(value // deployment.dp, 1.0)
    return round(value)


def _mean_of_many(row: Row) -> bool:
    """Return whether the lengths are means of requests that differ: neither whole nor round.

    Prompts of nominally 200 tokens may have 199.7 on average, because tokenizers split words; then
    the answers, which the server counts, are whole.
    """
    parts = [v for name in LENGTHS if (v := number(row, name)) is not None and v != round(v)]
    if len(parts) != 1:
        return len(parts) == len(LENGTHS)
    (value,) = parts
    nominal = {100.0 * round(value / 100.0), 2.0 ** round(math.log2(max(value, 1.0)))}
    return all(abs(value - n) > SPLIT * n for n in nominal)


def _cached(row: Row) -> float:
    """Return the share of a prompt in the prefix cache.

    If all requests share their context, only the last block of it is computed again.
    """
    stated = number(row, "cached")
    if stated is not None:
        return stated
    if "shared context" in text(row, "prefix_cache").lower():
        return max(0.0, 1.0 - CACHE_BLOCK / max(integer(row, "isl", 0), 1))
    return 0.0


def _speculating(row: Row, workload: Workload) -> Workload:
    """Return the workload with the speculation that a row states, as far as it does."""
    described = stated(row, "spec")
    said = read_speculation(described)
    drafted, share = integer(row, "draft_tokens", 0), number(row, "acceptance")
    if not (drafted or share or described):
        return workload
    least = math.ceil(said.tokens_per_step or 0.0) - 1  # a step gains one token more at most
    drafted = drafted or said.drafted_tokens or max(UNSTATED.drafted_tokens, least)
    gain = said.tokens_per_step if share is None else 1.0 + drafted * share
    acceptance = acceptance_of(drafted, gain) if gain is not None else None
    draft = text(row, "draft_model") or ("ngram" if said.looked_up else "head")
    return speculate(workload, drafted, acceptance, draft)
