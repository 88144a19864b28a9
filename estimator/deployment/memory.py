"""Memory of a deployment: weights, KV cache and what the engine keeps beside them.

    cache = usable memory - weights - reserve
    sequences = cache / bytes per sequence

"Usable" is what the driver reports: an H100 of "80 GB" has 79.2 GiB. Engines divide it by three
rules. vLLM takes a fraction (0.9) for everything and measures at start what a step needs. SGLang
gives a fraction to weights and cache alone, so that the rest is left for the steps. TensorRT-LLM
takes a fraction of what weights and steps leave free. See ``reserve`` for the amounts.
"""

from dataclasses import dataclass
from typing import Protocol

from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.deployment.reserve import (
    GIB,
    Reserve,
    communication_bytes,
    measured_reserve,
    rule_fraction,
)
from groundspeed.estimator.deployment.stored import (
    cache_bytes,
    expert_padding,
    state_bytes,
    token_bytes,
    weight_bytes,
)
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import InputError


class Device(Protocol):
    """What the memory plan needs to know of a device."""

    @property
    def id(self) -> str:
        """Name of the device or profile."""
        ...

    @property
    def memory_bytes(self) -> float | None:
        """Memory in the profile or the datasheet."""
        ...

    @property
    def datasheet(self) -> DeviceSpec | None:
        """Datasheet of the device."""
        ...

    @property
    def architecture(self) -> str:
        """Architecture of the device."""
        ...


@dataclass(frozen=True)
class Memory:
    """Memory of one device of a deployment [bytes]."""

    device_bytes: float
    """[bytes] Memory that the driver reports."""
    usable_bytes: float
    """[bytes] Memory that the engine may use."""
    weight_bytes: float
    reserve: Reserve
    steps_bytes: float = 0.0
    """[bytes] What the engine leaves free outside the usable memory for its steps, by its rule."""
    state_share: float = 0.0
    """[1] Share of the cache that holds nothing but the states of recurrent layers."""

    @property
    def overhead_bytes(self) -> float:
        """[bytes] What the engine keeps inside the usable memory."""
        return self.reserve.total_bytes

    @property
    def cache_bytes(self) -> float:
        """[bytes] Memory left for the KV cache; negative if the weights do not fit."""
        return self.usable_bytes - self.weight_bytes - self.overhead_bytes


def device_bytes(hardware: Device) -> float:
    """Return the memory of a device as its driver reports it.

    Raises
    ------
    InputError
        If neither the profile nor the datasheet says it.
    """
    spec = hardware.datasheet
    if spec is not None and spec.usable_memory_bytes is not None:
        return spec.usable_memory_bytes.value
    if hardware.memory_bytes is None:
        raise InputError(
            f"the memory size of {hardware.id} is missing in its datasheet or profile",
            remedy="give a GPU with a datasheet (groundspeed gpus lists them)",
        )
    return hardware.memory_bytes


def plan_memory(model: Model, deployment: Deployment, engine: Engine, hardware: Device) -> Memory:
    """Return how the engine divides the memory of one device."""
    total = device_bytes(hardware)
    padding = expert_padding(model, deployment, engine, hardware.architecture)
    weights = weight_bytes(model, deployment, padding=padding)
    if engine.memory_rule == "weights_and_cache":
        groups = deployment.dp > 1
        fraction = engine.memory_fraction or rule_fraction(
            engine, deployment, total, attention_groups=groups
        )
        share = STATE_SHARE if model.recurrent is not None else 0.0
        buffers = communication_bytes(engine, deployment.devices)
        usable = fraction * (total - engine.overhead_bytes - buffers)
        return Memory(total, usable, weights, Reserve(), total - usable, state_share=share)
    fraction = engine.memory_fraction or 1.0
    if engine.memory_rule == "everything":
        reserve = Reserve(runtime_bytes=engine.overhead_bytes)
        return Memory(total, fraction * total, weights, reserve)
    reserve = measured_reserve(model, deployment, engine, engine.max_model_len)
    if engine.memory_rule == "of_the_free":
        usable = weights + reserve.total_bytes
        usable += fraction * max(total - usable, 0.0) if usable < total else total - usable
        return Memory(total, usable, weights, reserve)
    return Memory(total, fraction * total, weights, reserve)


STATE_SHARE = 0.9 / 1.9
"""[1] SGLang divides its cache between states and keys in the ratio 0.9 to 1
(``mamba_full_memory_ratio``)."""


def most_sequences(model: Model, deployment: Deployment, memory: Memory, tokens: float) -> int:
    """Return the number of sequences of ``tokens`` tokens that one attention group can cache."""
    return max(0, int(_sequences(model, deployment, memory, tokens)))


def cache_tokens(model: Model, deployment: Deployment, memory: Memory, length: float) -> float:
    """Return the size of the cache in tokens of sequences of this length, as engines print it."""
    return max(0.0, _sequences(model, deployment, memory, length)) * length


def _sequences(model: Model, deployment: Deployment, memory: Memory, tokens: float) -> float:
    if memory.state_share:
        states = memory.state_share * memory.cache_bytes / state_bytes(model, deployment)
        keys = token_bytes(model, deployment, tokens)
        kept = (1.0 - memory.state_share) * memory.cache_bytes
        return min(states, kept / keys) if keys else states
    return memory.cache_bytes / cache_bytes(model, deployment, tokens)


def require_fit(
    model: Model,
    deployment: Deployment,
    engine: Engine,
    hardware: Device,
    memory: Memory,
    tokens: float,
) -> None:
    """Reject a deployment whose memory cannot hold the weights and one request.

    Raises
    ------
    InputError
        If it does not fit; the message gives the shortfall in GiB and the smallest change that
        makes it fit.
    """
    longest = max(tokens, float(engine.max_model_len or 0))
    if engine.max_model_len and engine.max_model_len < tokens:
        raise InputError(
            f"requests of {tokens:,.0f} tokens are longer than {engine.max_model_len:,}: the "
            "engine refuses them",
            where="--max-model-len",
            remedy=f"give at least {tokens:.0f}, or leave it out",
        )
    if engine.max_model_len and model.max_context and engine.max_model_len > model.max_context:
        raise InputError(
            f"{model.id} reads at most {model.max_context:,} tokens, not {engine.max_model_len:,}",
            where="--max-model-len",
        )
    each = cache_bytes(model, deployment, longest)
    short = each - memory.cache_bytes
    if short <= 0:
        return
    what = f"one request of {longest:,.0f} tokens"
    raise InputError(
        f"{model.id} does not fit: {short / GIB:.1f} GiB short on {_each(deployment.devices)} "
        f"(weights {memory.weight_bytes / GIB:.1f}, engine "
        f"{memory.overhead_bytes / GIB:.1f}, {what} {each / GIB:.1f} "
        f"of {memory.usable_bytes / GIB:.1f} GiB)",
        remedy=_suggest_fix(model, deployment, engine, hardware, memory, tokens),
    )


def _each(devices: int) -> str:
    return "the device" if devices == 1 else f"each of {devices} devices"


def min_devices(
    model: Model, engine: Engine, hardware: Device, tokens: float, deployment: Deployment
) -> int | None:
    """Return the smallest power of two of devices that fits the model and one request.

    Returns None if more than 256 would be needed.
    """
    for tp in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        if model.heads % tp:
            continue
        trial = Deployment(tp=tp, dtype=deployment.dtype, kv_dtype=deployment.kv_dtype)
        memory = plan_memory(model, trial, engine, hardware)
        if cache_bytes(model, trial, tokens) <= memory.cache_bytes:
            return tp
    return None


def _suggest_fix(
    model: Model,
    deployment: Deployment,
    engine: Engine,
    hardware: Device,
    memory: Memory,
    tokens: float,
) -> str:
    longest = float(engine.max_model_len or 0)
    if longest > tokens and cache_bytes(model, deployment, tokens) <= memory.cache_bytes:
        fits = cache_tokens(model, deployment, memory, longest)
        return f"--max-model-len {int(fits):d} fits"
    longest = max(longest, tokens)
    needed = min_devices(model, engine, hardware, longest, deployment)
    if needed is not None and needed > deployment.devices:
        return f"it needs at least {needed} of these GPUs: --tp {needed}"
    if needed is not None:
        return f"use --tp {needed}: the model fits"
    return "use fewer bits per weight (--dtype fp8) or a GPU with more memory"
