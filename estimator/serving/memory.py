"""What fits: weights, cache and overhead of a deployment against the device's memory.

    cache = memory x fraction - weights - overhead,   divided among sequences by what a token adds

An engine takes a fraction of the memory (0.9), loads the weights, keeps some for activations,
graphs and the runtime, and makes blocks of cache of the rest. A windowed layer keeps no more than
its window; a recurrent one a state of fixed size.
"""

from dataclasses import dataclass

from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.model.quantization import STORED_BYTES
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.deployment import Deployment, formats
from groundspeed.profiles.errors import InputError

GIB = 2.0**30


@dataclass(frozen=True)
class Memory:
    """Memory of one device of a deployment [bytes]."""

    device_bytes: float
    usable_bytes: float
    """What the engine takes."""
    weight_bytes: float
    overhead_bytes: float

    @property
    def cache_bytes(self) -> float:
        """Left for the cache; negative if the weights do not fit."""
        return self.usable_bytes - self.weight_bytes - self.overhead_bytes


def weight_bytes(model: Model, deployment: Deployment) -> float:
    """Bytes of weights on one device (the fullest pipeline stage)."""
    f, d = formats(model, deployment), deployment
    linear, expert, rest = STORED_BYTES[f.linear], STORED_BYTES[f.experts], STORED_BYTES[f.rest]
    attention = model.attention_layers * model.attention_parameters
    recurrent = model.recurrent.layers * model.recurrent_parameters if model.recurrent else 0
    dense = model.mlp_layers * model.mlp_parameters
    sharded = linear * (attention + recurrent + dense) / d.tp
    if model.experts is not None:
        e = model.experts
        routed = e.layers * e.count * model.expert_parameters
        others = e.layers * model.mixture_parameters - routed
        sharded += expert * routed / d.world + linear * others / d.tp
    ends = model.embedding_parameters * (1 if model.tied_head else 2) * rest / d.tp
    return sharded / d.pp + ends


def cache_bytes_per_token(model: Model, deployment: Deployment) -> float:
    """Bytes that a token adds to one device's cache, windows not yet full."""
    per_item = STORED_BYTES[formats(model, deployment).cache]
    items = float(model.kv_items_per_token)
    if model.latent is None:  # one compressed vector is on every device, heads are shared
        items = items / min(deployment.tp, model.kv_heads)
    return items * per_item / deployment.pp


def cache_bytes(model: Model, deployment: Deployment, tokens: float) -> float:
    """Bytes of one sequence of so many tokens on one device."""
    whole = cache_bytes_per_token(model, deployment)
    if model.windowed_layers and model.sliding_window:
        share = model.windowed_layers / model.attention_layers
        kept = min(tokens, float(model.sliding_window))
        total = whole * ((1.0 - share) * tokens + share * kept)
    else:
        total = whole * tokens
    if model.recurrent is not None:
        total += 4.0 * model.recurrent.layers * model.recurrent.state_items / deployment.tp
    return total


def plan_memory(
    model: Model, deployment: Deployment, engine: Engine, device_bytes: float
) -> Memory:
    """Memory of one device."""
    return Memory(
        device_bytes=device_bytes,
        usable_bytes=engine.memory_fraction * device_bytes,
        weight_bytes=weight_bytes(model, deployment),
        overhead_bytes=engine.overhead_bytes,
    )


def most_sequences(model: Model, deployment: Deployment, memory: Memory, tokens: float) -> int:
    """Sequences of so many tokens that the cache of one attention group holds."""
    each = cache_bytes(model, deployment, tokens)
    return max(0, int(memory.cache_bytes / each))


def require_fit(
    model: Model, deployment: Deployment, engine: Engine, memory: Memory, tokens: float
) -> None:
    """Refuse a deployment that cannot serve one request.

    Raises
    ------
    InputError
        With the shortfall in GiB and the smallest change that makes it fit.
    """
    short = cache_bytes(model, deployment, tokens) - memory.cache_bytes
    if short <= 0:
        return
    raise InputError(
        f"{model.id} does not fit: {short / GIB:.1f} GiB short on each of {deployment.devices} "
        f"devices (weights {memory.weight_bytes / GIB:.1f}, engine "
        f"{memory.overhead_bytes / GIB:.1f}, one request {(short + memory.cache_bytes) / GIB:.1f} "
        f"of {memory.usable_bytes / GIB:.1f} GiB)",
        remedy=_change(model, deployment, engine, memory, tokens),
    )


def fewest_devices(
    model: Model, engine: Engine, device_bytes: float, tokens: float, deployment: Deployment
) -> int | None:
    """Fewest devices, in powers of two, that hold the model and one request; None above 256."""
    for tp in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        if model.heads % tp:
            continue
        trial = Deployment(tp=tp, dtype=deployment.dtype, kv_dtype=deployment.kv_dtype)
        memory = plan_memory(model, trial, engine, device_bytes)
        if cache_bytes(model, trial, tokens) <= memory.cache_bytes:
            return tp
    return None


def _change(
    model: Model, deployment: Deployment, engine: Engine, memory: Memory, tokens: float
) -> str:
    needed = fewest_devices(model, engine, memory.device_bytes, tokens, deployment)
    if needed is not None and needed > deployment.devices:
        return f"it needs at least {needed} of these GPUs: --tp {needed}"
    if needed is not None:
        return f"--tp {needed} holds it"
    return "use fewer bits a weight (--dtype fp8) or a GPU with more memory"
