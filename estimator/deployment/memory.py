"""Memory of a deployment: weights, KV cache and overhead compared with the device memory.

    cache = memory x fraction - weights - overhead
    sequences = cache / bytes per sequence

An engine takes a fraction of the device memory (0.9), loads the weights, reserves memory for
activations, CUDA graphs and the runtime, and uses the rest for KV cache blocks. A sliding-window
layer caches at most its window; a recurrent layer keeps a state of fixed size.
"""

from dataclasses import dataclass

from groundspeed.estimator.deployment.deployment import Deployment, formats
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.model.quantization import STORED_BYTES
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import weight_bytes as weight_item_bytes

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
    dense = model.mlp_layers * model.mlp_parameters
    sharded = linear * (model.mixer_parameters + dense) / d.tp
    if model.experts is not None:
        e = model.experts
        routed = e.layers * e.count * model.expert_parameters
        others = e.layers * model.mixture_parameters - routed
        sharded += expert * routed / d.world + linear * others / d.tp
    ends = model.embedding_parameters * (1 if model.tied_head else 2) * rest / d.tp
    return sharded / d.pp + ends


def step_weight_bytes(model: Model, deployment: Deployment, tokens: float) -> float:
    """Return the bytes of weights that a step of ``tokens`` tokens must read on one device.

    All weights of the layers and the head are read once, whatever the batch. Of a mixture's
    experts a step reads those that at least one token is routed to: with uniform routing
    ``E (1 - (1 - k/E)^tokens)`` of ``E``. An input embedding is a lookup of a few rows. The scales
    of quantized weights are not counted.
    """
    f, d = formats(model, deployment), deployment
    linear, expert, rest = (weight_item_bytes(name) for name in (f.linear, f.experts, f.rest))
    each = linear * (model.mixer_parameters + model.mlp_layers * model.mlp_parameters) / d.tp
    if model.experts is not None:
        e = model.experts
        hit = e.count * (1.0 - (1.0 - e.top_k / e.count) ** (tokens * d.dp))
        others = model.mixture_parameters - e.count * model.expert_parameters
        each += expert * e.layers * hit * model.expert_parameters / d.world
        each += linear * e.layers * others / d.tp
    return each + rest * model.embedding_parameters / d.tp


def cache_bytes(model: Model, deployment: Deployment, tokens: float) -> float:
    """Return the bytes that the cache of one sequence of ``tokens`` tokens takes on one device."""
    per_item = STORED_BYTES[formats(model, deployment).cache]
    tp = deployment.tp
    kept = sum(m.cached_items(tokens) / m.cache_ways(tp) for m in model.mixers)
    states = sum(m.state_bytes() / m.cache_ways(tp) for m in model.mixers)
    return (per_item * kept + states) / deployment.pp


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
        f"{model.id} does not fit: {short / GIB:.1f} GiB short on {_each(deployment.devices)} "
        f"(weights {memory.weight_bytes / GIB:.1f}, engine "
        f"{memory.overhead_bytes / GIB:.1f}, one request {(short + memory.cache_bytes) / GIB:.1f} "
        f"of {memory.usable_bytes / GIB:.1f} GiB)",
        remedy=_suggest_fix(model, deployment, engine, memory, tokens),
    )


def _each(devices: int) -> str:
    return "the device" if devices == 1 else f"each of {devices} devices"


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
