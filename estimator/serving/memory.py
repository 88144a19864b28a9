"""Memory of a deployment: weights, KV cache and overhead compared with the device memory.

    cache = memory x fraction - weights - overhead
    sequences = cache / bytes per sequence

An engine takes a fraction of the device memory (0.9), loads the weights, reserves memory for
activations, CUDA graphs and the runtime, and uses the rest for KV cache blocks. A sliding-window
layer caches at most its window; a recurrent layer keeps a state of fixed size.
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
    """[bytes] Memory that the engine may use."""
    weight_bytes: float
    overhead_bytes: float

    @property
    def cache_bytes(self) -> float:
        """[bytes] Memory left for the KV cache; negative if the weights do not fit."""
        return self.usable_bytes - self.weight_bytes - self.overhead_bytes


def weight_bytes(model: Model, deployment: Deployment) -> float:
    """Return the bytes of weights on one device, in the pipeline stage that holds most."""
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
    """Return the bytes of KV cache per token on one device while no sliding window is full."""
    per_item = STORED_BYTES[formats(model, deployment).cache]
    items = float(model.kv_items_per_token)
    if model.latent is None:  # KV heads are sharded; MLA's latent vector is on every device
        items = items / min(deployment.tp, model.kv_heads)
    return items * per_item / deployment.pp


def cache_bytes(model: Model, deployment: Deployment, tokens: float) -> float:
    """Return the bytes that the cache of one sequence of ``tokens`` tokens takes on one device."""
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
    """Return how the engine divides the memory of one device."""
    return Memory(
        device_bytes=device_bytes,
        usable_bytes=engine.memory_fraction * device_bytes,
        weight_bytes=weight_bytes(model, deployment),
        overhead_bytes=engine.overhead_bytes,
    )


def most_sequences(model: Model, deployment: Deployment, memory: Memory, tokens: float) -> int:
    """Return the number of sequences of ``tokens`` tokens that one attention group can cache."""
    each = cache_bytes(model, deployment, tokens)
    return max(0, int(memory.cache_bytes / each))


def require_fit(
    model: Model, deployment: Deployment, engine: Engine, memory: Memory, tokens: float
) -> None:
    """Reject a deployment whose memory cannot hold the weights and one request.

    Raises
    ------
    InputError
        If it does not fit; the message gives the shortfall in GiB and the smallest change that
        makes it fit.
    """
    short = cache_bytes(model, deployment, tokens) - memory.cache_bytes
    if short <= 0:
        return
    raise InputError(
        f"{model.id} does not fit: {short / GIB:.1f} GiB short on each of {deployment.devices} "
        f"devices (weights {memory.weight_bytes / GIB:.1f}, engine "
        f"{memory.overhead_bytes / GIB:.1f}, one request {(short + memory.cache_bytes) / GIB:.1f} "
        f"of {memory.usable_bytes / GIB:.1f} GiB)",
        remedy=_suggest_fix(model, deployment, engine, memory, tokens),
    )


def min_devices(
    model: Model, engine: Engine, device_bytes: float, tokens: float, deployment: Deployment
) -> int | None:
    """Return the smallest power of two of devices that fits the model and one request.

    Returns None if more than 256 would be needed.
    """
    for tp in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        if model.heads % tp:
            continue
        trial = Deployment(tp=tp, dtype=deployment.dtype, kv_dtype=deployment.kv_dtype)
        memory = plan_memory(model, trial, engine, device_bytes)
        if cache_bytes(model, trial, tokens) <= memory.cache_bytes:
            return tp
    return None


def _suggest_fix(
    model: Model, deployment: Deployment, engine: Engine, memory: Memory, tokens: float
) -> str:
    needed = min_devices(model, engine, memory.device_bytes, tokens, deployment)
    if needed is not None and needed > deployment.devices:
        return f"it needs at least {needed} of these GPUs: --tp {needed}"
    if needed is not None:
        return f"use --tp {needed}: the model fits"
    return "use fewer bits per weight (--dtype fp8) or a GPU with more memory"
