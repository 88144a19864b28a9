"""Predict TTFT, TPOT, throughput and the bottleneck of a static batch from operator times.

    TTFT = one prefill pass over the prompt; it ends with the first token
    TPOT = mean of the decode passes at contexts prompt + 1 ... prompt + output - 1
    E2E  = TTFT + TPOT x (output - 1)

Errors: the same shape has the same error in every layer, so an operator's error is multiplied by
its count. The errors of different shapes are independent, so they add in quadrature. The variation
of the machine itself is added to that; it shifts all operators together.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from groundspeed.estimator.graph.operators import (
    Operator,
    PhaseName,
    decode_stream_bytes,
    forward_pass,
    kv_bytes_per_token,
)
from groundspeed.estimator.hardware.law_lookup import Bound, Hardware
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import Array, item_bytes
from groundspeed.profiles.record import Record

MAX_TOKENS = 100_000_000


class Estimate(Record):
    """A predicted value with its 90 % interval from ``low`` to ``high``."""

    value: float
    low: float
    high: float


class GroupTime(Record):
    """Time and work of one group of operators (e.g. attention) in one phase."""

    group: str
    time_s: float
    low_s: float
    high_s: float
    share: float
    """[1] Fraction of the phase's time."""
    flops: float
    bytes: float
    bound: Bound
    extrapolated: bool


class Phase(Record):
    """One forward pass; for decode, the mean over all decode steps."""

    time_s: Estimate
    flops: float
    bytes: float
    bound: Bound
    groups: tuple[GroupTime, ...]
    extrapolated_share: float
    """[1] Fraction of the time that comes from laws evaluated outside their fit range."""


class Workload(Record):
    """A static batch: every request starts at once with the same lengths."""

    batch: int = 1
    prompt_tokens: int = 1024
    output_tokens: int = 1024
    dtype: str = "bfloat16"
    weights_dtype: str | None = None
    """Data type of the layers' weights, if it is not ``dtype``."""


class Prediction(Record):
    """Predicted performance of a model on one device."""

    schema_version: Literal[1] = 1
    model: str
    hardware: str
    origin: str
    workload: Workload
    ttft_s: Estimate
    tpot_s: Estimate | None
    """[s] Time per output token; None if there is only one output token."""
    e2e_s: Estimate
    output_tokens_per_s: Estimate
    total_tokens_per_s: Estimate
    prefill: Phase
    decode: Phase | None
    weight_bytes: float
    kv_bytes: float
    limits: str
    """A sentence that names the bottleneck of each phase."""
    notes: tuple[str, ...]
    tpot_definition: str = "TPOT = (E2E - TTFT) / (output tokens - 1)"


def predict(model: Model, hardware: Hardware, workload: Workload) -> Prediction:
    """Predict one static batch.

    Parameters
    ----------
    model : Model
        Shapes of the model.
    hardware : Hardware
        A datasheet or a profile.
    workload : Workload
        Batch size, lengths and data type.

    Raises
    ------
    InputError
        If the workload is impossible, or if the hardware has no law or peak for an operator.
    """
    require_possible(model, workload)
    prompt, output, batch = workload.prompt_tokens, workload.output_tokens, workload.batch
    dtype = workload.dtype

    def operators(phase: PhaseName, length: Array) -> list[Operator]:
        return forward_pass(
            model, phase, batch=batch, length=length, dtype=dtype,
            weights_dtype=workload.weights_dtype,
        )  # fmt: skip

    prefill = _phase(hardware, operators("prefill", np.array([float(prompt)])))
    decode = None
    steps = output - 1
    if steps:
        contexts = np.unique(np.linspace(prompt + 1, prompt + steps, min(steps, 64)).round())
        decode = _phase(hardware, operators("decode", contexts))
    ttft = prefill.time_s
    tpot = decode.time_s if decode else None
    e2e = _total(ttft, tpot, steps)
    outside = model.embedding_parameters * (1 if model.tied_head else 2)
    inside = item_bytes(workload.weights_dtype or dtype)
    weights = outside * item_bytes(dtype) + (model.parameters - outside) * inside
    kv = kv_bytes_per_token(model, dtype=dtype) * batch * (prompt + output - 1)
    return Prediction(
        model=model.id,
        hardware=hardware.id,
        origin=hardware.origin,
        workload=workload,
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=e2e,
        output_tokens_per_s=_per_second(batch * output, e2e),
        total_tokens_per_s=_per_second(batch * (prompt + output), e2e),
        prefill=prefill,
        decode=decode,
        weight_bytes=weights,
        kv_bytes=kv,
        limits=limits_sentence(model, workload, prefill, decode),
        notes=_notes(model, hardware, workload, weights + kv, prefill, decode),
    )


def require_possible(model: Model, workload: Workload) -> None:
    """Reject a workload that cannot be predicted.

    Raises
    ------
    InputError
        If a count is not positive, or the length exceeds the model's maximum context.
    """
    for name, value in (
        ("batch", workload.batch),
        ("prompt tokens", workload.prompt_tokens),
        ("output tokens", workload.output_tokens),
    ):
        if not 1 <= value <= MAX_TOKENS:
            raise InputError(f"{name} must lie between 1 and {MAX_TOKENS:,}, not {value}")
    length = workload.prompt_tokens + workload.output_tokens
    if model.max_context is not None and length > model.max_context:
        raise InputError(
            f"prompt and output have {length} tokens, more than the maximum context of "
            f"{model.id} ({model.max_context})",
            remedy="shorten the prompt or the output",
        )
    item_bytes(workload.dtype)


@dataclass
class _GroupSum:
    """Accumulates time, errors and work of one group of operators."""

    time_s: float = 0.0
    below_squared: float = 0.0
    above_squared: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    extrapolated: bool = False

    def add(self, time_s: Array, low_s: Array, high_s: Array, operator: Operator) -> None:
        """Add the mean of an operator over the steps."""
        mean = float(time_s.mean())
        self.time_s += mean
        # All steps of one operator share its error: average it, then add in quadrature.
        self.below_squared += (mean - float(low_s.mean())) ** 2
        self.above_squared += (float(high_s.mean()) - mean) ** 2
        self.flops += float(operator.flops.mean())
        self.bytes += float(operator.bytes.mean())


def _phase(hardware: Hardware, operators: list[Operator]) -> Phase:
    sums: dict[str, _GroupSum] = {}
    weight: dict[str, dict[Bound, float]] = {}
    by_bound: dict[Bound, float] = {}
    extrapolated_s = 0.0
    for operator in operators:
        times = hardware.time(operator)
        group = sums.setdefault(operator.group, _GroupSum())
        group.add(times.time_s, times.low_s, times.high_s, operator)
        group.extrapolated |= times.extrapolated
        mean = float(times.time_s.mean())
        extrapolated_s += mean if times.extrapolated else 0.0
        by_bound[times.bound] = by_bound.get(times.bound, 0.0) + mean
        bounds = weight.setdefault(operator.group, {})
        bounds[times.bound] = bounds.get(times.bound, 0.0) + mean
    time = sum(s.time_s for s in sums.values())
    spread_s = sum(hardware.spread_fraction(bound) * t for bound, t in by_bound.items())
    below = float(np.sqrt(sum(s.below_squared for s in sums.values()) + spread_s**2))
    above = float(np.sqrt(sum(s.above_squared for s in sums.values()) + spread_s**2))
    groups = tuple(
        GroupTime(
            group=name,
            time_s=s.time_s,
            low_s=max(0.0, s.time_s - s.below_squared**0.5),
            high_s=s.time_s + s.above_squared**0.5,
            share=s.time_s / time,
            flops=s.flops,
            bytes=s.bytes,
            bound=max(weight[name], key=lambda b: weight[name][b]),
            extrapolated=s.extrapolated,
        )
        for name, s in sums.items()
    )
    return Phase(
        # exp(-x) equals 1 - x to first order, but keeps the lower end above zero.
        time_s=Estimate(value=time, low=time * float(np.exp(-below / time)), high=time + above),
        flops=sum(s.flops for s in sums.values()),
        bytes=sum(s.bytes for s in sums.values()),
        bound=max(by_bound, key=lambda b: by_bound[b]),
        groups=tuple(sorted(groups, key=lambda g: -g.time_s)),
        extrapolated_share=extrapolated_s / time,
    )


def _total(ttft: Estimate, tpot: Estimate | None, steps: int) -> Estimate:
    if tpot is None:
        return ttft
    value = ttft.value + steps * tpot.value
    # Both phases use the same laws and machine: their errors are correlated, so add the ends.
    low = ttft.low + steps * tpot.low
    return Estimate(value=value, low=low, high=ttft.high + steps * tpot.high)


def _per_second(tokens: int, time_s: Estimate) -> Estimate:
    return Estimate(value=tokens / time_s.value, low=tokens / time_s.high, high=tokens / time_s.low)


def limits_sentence(model: Model, workload: Workload, prefill: Phase, decode: Phase | None) -> str:
    """Return a sentence that names the bottleneck of each phase."""
    text = f"Prefill is {_describe_bottleneck(prefill, 'prefill', model, workload)}"
    if decode is not None:
        text += f"; decode is {_describe_bottleneck(decode, 'decode', model, workload)}"
    return text + "."


def _describe_bottleneck(phase: Phase, name: PhaseName, model: Model, workload: Workload) -> str:
    share = sum(g.share for g in phase.groups if g.bound == phase.bound)
    if phase.bound == "compute":
        rate = phase.flops / phase.time_s.value
        return (
            f"compute-bound ({share:.0%} of its time: {_with_si_prefix(phase.flops)}FLOP "
            f"at {_with_si_prefix(rate)}FLOPS)"
        )
    if phase.bound == "memory":
        rate = phase.bytes / phase.time_s.value
        what = f"{_with_si_prefix(phase.bytes)}B"
        if name == "decode":
            weights = decode_stream_bytes(model, dtype=workload.dtype)
            what += f" per step, {_with_si_prefix(weights)}B of it weights,"
        return f"memory-bound ({share:.0%} of its time: {what} at {_with_si_prefix(rate)}B/s)"
    return f"launch-bound ({share:.0%} of its time is launch latency of small operations)"


def _with_si_prefix(value: float) -> str:
    """Format a value with three digits and an SI prefix: 6.46e13 becomes ``64.6 T``."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "


def _notes(
    model: Model,
    hardware: Hardware,
    workload: Workload,
    needed_bytes: float,
    prefill: Phase,
    decode: Phase | None,
) -> tuple[str, ...]:
    notes = []
    memory = hardware.memory_bytes
    if memory is not None and needed_bytes > memory:
        notes.append(
            f"does not fit one device: weights and KV cache need {needed_bytes / 2**30:.1f} GiB, "
            f"it has {memory / 2**30:.1f}; the predicted times ignore this"
        )
    if hardware.origin == "datasheet":
        notes.append("from datasheet peaks: an upper bound on speed that no real kernel reaches")
    outside = {
        f"{name} {g.group}"
        for name, phase in (("prefill", prefill), ("decode", decode))
        if phase is not None
        for g in phase.groups
        if g.extrapolated
    }
    share = max(prefill.extrapolated_share, decode.extrapolated_share if decode else 0.0)
    if outside:
        notes.append(
            f"extrapolated beyond the measured range: {', '.join(sorted(outside))} "
            f"(up to {share:.0%} of a phase's time)"
        )
    if workload.dtype != model.dtype:
        notes.append(f"computed in {workload.dtype}; the checkpoint is in {model.dtype}")
    return tuple(notes)
