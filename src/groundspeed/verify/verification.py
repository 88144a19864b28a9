"""Verify predictions: predict a model, hash the prediction, run the model, and compare.

All predictions are made and hashed before the decoder is built. The profile must not contain any
of the decoder's own shapes, or the verification fails; so the predictor cannot have seen what is
measured. The comparison by part shows which operator is predicted wrong.

    result = verify(VerifyRequest(model, profile, running, cases=[(1, 512)]), progress)
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from groundspeed.calibrate.run.device import RunningDevice
from groundspeed.calibrate.run.reference_cases import ReferenceProbe
from groundspeed.estimator import (
    DatasheetHardware,
    Hardware,
    Model,
    Prediction,
    ProfileHardware,
    Server,
    Workload,
)
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.engine import find_engine
from groundspeed.estimator.serving.static_batch import decode_contexts
from groundspeed.estimator.serving.step_time import step_graph
from groundspeed.estimator.serving.workload import PartTime
from groundspeed.kernels.decoder.decoder import DecoderShape
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record
from groundspeed.profiles.schema import Profile
from groundspeed.verify.decoder_timing import (
    CaseTiming,
    DecoderHarness,
    PhaseTiming,
    decoder_shape,
    unsupported_features,
)

INSIDE_SHARE = 0.8
"""Share of measured values that must lie inside the predicted 90 % interval."""

HEADROOM = 0.9
"""Largest share of the device's memory that weights and KV cache of the decoder may take."""

FP8_WEIGHTS = "fp8_row"
"""fp8 weights with a scale for each row, and inputs quantized for each token."""

Progress = Callable[[int, int, str], None]


class Estimate(Record):
    """A value with its 90 % interval from ``low`` to ``high``."""

    value: float
    low: float
    high: float


class Comparison(Record):
    """One quantity of a case, predicted and measured."""

    datasheet: float | None
    predicted: Estimate
    measured: Estimate
    error_fraction: float
    """[1] predicted / measured - 1. Positive if the predicted time (or rate) is too large."""
    error_of_law_fraction: float
    """``error_fraction`` without the machine's own change since its calibration."""
    inside: bool
    """True if the measured interval and the predicted 90 % interval overlap."""


class PartComparison(Record):
    """Predicted and measured time of one operator group in one phase."""

    phase: str
    group: str
    predicted_s: float
    measured_s: float
    error_fraction: float


class MachineChange(Record):
    """Change of a reference GEMM's time since the calibration."""

    limit: Literal["compute", "memory"]
    change_fraction: float
    """Time before and after this case (mean) over the time at the calibration, minus one."""


class VerifiedCase(Record):
    """Results of one case: a batch size and a prompt length."""

    batch: int
    prompt_tokens: int
    output_tokens: int
    ttft_s: Comparison
    tpot_s: Comparison
    output_tokens_per_s: Comparison
    machine: tuple[MachineChange, ...]
    """Changes of the reference GEMMs: they separate errors of laws from changes of the machine."""
    limits: str
    parts: tuple[PartComparison, ...]


class Verification(Record):
    """Result of a verification: predictions against measurements of a real decoder."""

    model: str
    layers: int
    profile: str
    device: str
    dtype: str
    predictions: tuple[Prediction, ...]
    """Predictions of all cases, made before the decoder was built."""
    predictions_sha256: str
    """SHA-256 of the predictions' JSON lines, computed before the decoder was built."""
    shapes_seen: tuple[str, ...]
    """Shapes of the decoder that are among the calibration's points; must be empty to pass."""
    cases: tuple[VerifiedCase, ...]
    ttft_median_error_fraction: float
    tpot_median_error_fraction: float
    ttft_median_error_of_law_fraction: float
    tpot_median_error_of_law_fraction: float
    """Median error without the machine's own change, which the reference GEMMs show."""
    inside_share: float
    passed: bool
    blame: str
    """Sentence that names the part with the largest contribution to the error."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class VerifyRequest:
    """Model, profile, device and cases of a verification."""

    model: Model
    profile: Profile
    running: RunningDevice
    cases: Sequence[tuple[int, int]]
    """(batch size, prompt length [tokens]) of each case."""
    output_tokens: int = 16
    budget_s: float = 1.0
    """[s] Approximate measuring time for each phase of a case."""
    dtype: str = "bfloat16"
    weights_dtype: str | None = None
    """Data type of the layers' weights: ``fp8_row``, or None for ``dtype``."""


def verify(request: VerifyRequest, progress: Progress) -> Verification:
    """Predict all cases, hash the predictions, run the decoder, and compare.

    Raises
    ------
    InputError
        If the decoder lacks a feature of the model or does not fit the device, a case is
        impossible, or the profile is of another device or lacks a law.
    """
    model, profile = request.model, request.profile
    _require_runnable(request)
    longest = max(prompt for _, prompt in request.cases) + request.output_tokens
    for batch in {batch for batch, _ in request.cases}:
        _require_memory(request, batch, longest)
    predictions = {case: _predict(request, *case) for case in request.cases}
    sealed = hashlib.sha256(
        "\n".join(p.model_dump_json() for p, _ in predictions.values()).encode()
    ).hexdigest()
    seen = _shapes_seen(request)
    measured: list[VerifiedCase] = []
    shape = decoder_shape(model, request.dtype, fp8_weights=request.weights_dtype is not None)
    probe = ReferenceProbe(request.running, profile)
    before = probe.changes()
    with torch.inference_mode():
        for batch in sorted({batch for batch, _ in request.cases}):
            bench = _bench(shape, request, batch, longest)
            for prompt in sorted({p for b, p in request.cases if b == batch}):
                progress(len(measured), len(request.cases), f"batch {batch}, prompt {prompt}")
                with memory_shortfall(request, batch):
                    timing = bench.time(prompt, request.output_tokens, budget_s=request.budget_s)
                predicted, datasheet = predictions[batch, prompt]
                after = probe.changes()
                machine = tuple(
                    MachineChange(limit=k, change_fraction=(before[k] + after[k]) / 2.0)
                    for k in after
                )
                before = after
                measured.append(_compare(predicted, datasheet, timing, machine))
            del bench
    comparisons = [c for case in measured for c in (case.ttft_s, case.tpot_s)]
    inside = float(np.mean([c.inside for c in comparisons]))
    notes = sorted({note for p, _ in predictions.values() for note in p.notes})
    return Verification(
        model=model.id,
        layers=model.layers,
        profile=profile.id,
        device=request.running.device.name,
        dtype=request.dtype,
        predictions=tuple(p for p, _ in predictions.values()),
        predictions_sha256=sealed,
        shapes_seen=seen,
        cases=tuple(measured),
        ttft_median_error_fraction=_median_error([c.ttft_s for c in measured]),
        tpot_median_error_fraction=_median_error([c.tpot_s for c in measured]),
        ttft_median_error_of_law_fraction=_median_error_of_law([c.ttft_s for c in measured]),
        tpot_median_error_of_law_fraction=_median_error_of_law([c.tpot_s for c in measured]),
        inside_share=inside,
        passed=inside >= INSIDE_SHARE and not seen,
        blame=_blame(measured),
        notes=tuple(notes),
    )


def _require_runnable(request: VerifyRequest) -> None:
    if (what := unsupported_features(request.model)) is not None:
        raise InputError(
            f"{request.model.id} has {what}, which the decoder of verify does not support",
            remedy="verify another model, such as qwen2.5-7b or mixtral-8x7b",
        )
    if request.weights_dtype not in (None, FP8_WEIGHTS):
        raise InputError(
            f"verify has no weights of {request.weights_dtype}",
            where="--weights",
            remedy=f"give {FP8_WEIGHTS}, or leave it out",
        )
    if request.output_tokens < 2:
        raise InputError(
            "verify needs at least 2 output tokens, because the prefill produces the first one"
        )
    if not request.cases:
        raise InputError("there are no cases to verify", remedy="give --prompts and --batches")
    here = request.running.device
    there = request.profile.device
    if (there.name, there.kind, there.compute_units) != (here.name, here.kind, here.compute_units):
        raise InputError(
            f"profile {request.profile.id} is of '{there.name}' with {there.compute_units} compute "
            f"units, but this machine has '{here.name}' with {here.compute_units}",
            remedy="calibrate this machine first: groundspeed calibrate",
        )


def _require_memory(request: VerifyRequest, batch: int, capacity: int) -> None:
    model, running = request.model, request.running
    item = 4.0 if request.dtype == "float32" else 2.0
    needed = item * (model.parameters + model.kv_items_per_token * batch * capacity)
    if needed > HEADROOM * running.memory_bytes:
        raise InputError(
            f"{model.id} at batch {batch} needs {needed / 2**30:.1f} GiB, "
            f"but {running.device.name} has {running.memory_bytes / 2**30:.1f} GiB, of which "
            f"{HEADROOM:.0%} can be used",
            remedy="verify fewer layers with --layers N; all layers do the same work",
        )


def _bench(
    shape: DecoderShape, request: VerifyRequest, batch: int, capacity: int
) -> DecoderHarness:
    with memory_shortfall(request, batch):
        return DecoderHarness(shape, request.running.torch_device, batch=batch, capacity=capacity)


@contextmanager
def memory_shortfall(request: VerifyRequest, batch: int) -> Iterator[None]:
    """Turn every exception for lack of memory into an input error of one line.

    Raises
    ------
    InputError
        If the code inside runs out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has its own exception for GPUs; its CPU allocator raises a plain RuntimeError.
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        raise InputError(
            f"{request.model.id} at batch {batch} does not fit the free memory of "
            f"{request.running.device.name}",
            remedy="free memory, shorten the prompts, or verify fewer layers with --layers N",
        ) from error


def _predict(
    request: VerifyRequest, batch: int, prompt: int
) -> tuple[Prediction, Prediction | None]:
    workload = Workload(prompt, request.output_tokens, batch, kind="static")
    datasheet = request.profile.datasheet
    return (
        _server(request, ProfileHardware.of(request.profile)).predict(workload),
        _server(request, DatasheetHardware(datasheet)).predict(workload) if datasheet else None,
    )


def _server(request: VerifyRequest, hardware: Hardware) -> Server:
    """Return the decoder as a server: no engine, one kernel for each operation."""
    return Server(request.model, _deployment(request), find_engine("bare"), hardware)


def _deployment(request: VerifyRequest) -> Deployment:
    # The decoder keeps experts and cache in its own data type, also if other weights are fp8.
    return Deployment(
        dtype=request.weights_dtype or request.dtype,
        kv_dtype=request.dtype,
        experts_dtype=request.dtype,
    )


def _shapes_seen(request: VerifyRequest) -> tuple[str, ...]:
    """List the operators of the decoder whose exact shape is among the calibration's points."""
    known = {
        (curve.operation, tuple(sorted(point.case.items())))
        for curve in request.profile.curves
        if curve.operation in ("matmul", "attention_prefill", "attention_decode")
        for point in curve.points
    }
    seen = set()
    graph = step_graph(request.model, _deployment(request), find_engine("bare"))
    for batch, prompt in request.cases:
        contexts = decode_contexts(Workload(prompt, request.output_tokens, batch, kind="static"))
        sequences = np.full_like(contexts, float(batch))
        operators = graph.prefill_step(np.array([float(batch)]), np.array([float(prompt)]))
        operators += graph.decode_step(sequences, contexts, 1.0)
        for operator in operators:
            for i in range(next(iter(operator.columns.values())).size):
                case = tuple(sorted((k, float(v[i])) for k, v in operator.columns.items()))
                if (operator.operation, case) in known:
                    shape = " ".join(f"{k}={v:g}" for k, v in case)
                    seen.add(f"{operator.operation} {shape}")
    return tuple(sorted(seen))


def _compare(
    predicted: Prediction,
    datasheet: Prediction | None,
    timing: CaseTiming,
    machine: tuple[MachineChange, ...],
) -> VerifiedCase:
    if predicted.tpot_s is None or predicted.tpot_low_s is None or predicted.tpot_high_s is None:
        raise InputError("verify needs at least 2 output tokens, because one token has no TPOT")
    ttft_measured, tpot_measured = _estimate(timing.prefill), _estimate(timing.decode)
    changed = {m.limit: m.change_fraction for m in machine}
    compute, memory = changed.get("compute", 0.0), changed.get("memory", 0.0)
    # The rate falls as the time rises. Most of the time is decode, which is memory-bound.
    rate_change = 1.0 / (1.0 + memory) - 1.0
    steps = predicted.output_tokens - 1
    produced = predicted.concurrency * predicted.output_tokens
    rate = Estimate(
        value=produced / (ttft_measured.value + steps * tpot_measured.value),
        low=produced / (ttft_measured.high + steps * tpot_measured.high),
        high=produced / (ttft_measured.low + steps * tpot_measured.low),
    )
    return VerifiedCase(
        batch=predicted.concurrency,
        prompt_tokens=predicted.prompt_tokens,
        output_tokens=predicted.output_tokens,
        ttft_s=_comparison(
            datasheet.ttft_s if datasheet else None,
            Estimate(value=predicted.ttft_s, low=predicted.ttft_low_s, high=predicted.ttft_high_s),
            ttft_measured,
            compute,
        ),
        tpot_s=_comparison(
            datasheet.tpot_s if datasheet else None,
            Estimate(value=predicted.tpot_s, low=predicted.tpot_low_s, high=predicted.tpot_high_s),
            tpot_measured,
            memory,
        ),
        output_tokens_per_s=_comparison(
            datasheet.output_tokens_per_s if datasheet else None,
            Estimate(
                value=predicted.output_tokens_per_s,
                low=produced / predicted.e2e_high_s,
                high=produced / predicted.e2e_low_s,
            ),
            rate,
            rate_change,
        ),
        machine=machine,
        limits=predicted.limits,
        parts=(
            *_parts("prefill", predicted.prefill_parts, timing.prefill),
            *_parts("decode", predicted.decode_parts, timing.decode),
        ),
    )


def _estimate(timing: PhaseTiming) -> Estimate:
    total = timing.total
    return Estimate(value=total.median_s, low=total.low_s, high=total.high_s)


def _comparison(
    datasheet: float | None, predicted: Estimate, measured: Estimate, change: float
) -> Comparison:
    return Comparison(
        datasheet=datasheet,
        predicted=predicted,
        measured=measured,
        error_fraction=predicted.value / measured.value - 1.0,
        error_of_law_fraction=predicted.value * (1.0 + change) / measured.value - 1.0,
        inside=predicted.low <= measured.high and measured.low <= predicted.high,
    )


def _parts(name: str, groups: Sequence[PartTime], timing: PhaseTiming) -> list[PartComparison]:
    """Compare parts; measured times are scaled so that their sum is the time without probes."""
    scale = timing.total.median_s / sum(timing.groups_s.values())
    return [
        PartComparison(
            phase=name,
            group=group.group,
            predicted_s=group.time_s,
            measured_s=timing.groups_s[group.group] * scale,
            error_fraction=group.time_s / (timing.groups_s[group.group] * scale) - 1.0,
        )
        for group in groups
        if timing.groups_s.get(group.group, 0.0) > 0.0
    ]


def _median_error(comparisons: list[Comparison]) -> float:
    return float(np.median([abs(c.error_fraction) for c in comparisons]))


def _median_error_of_law(comparisons: list[Comparison]) -> float:
    return float(np.median([abs(c.error_of_law_fraction) for c in comparisons]))


def _blame(cases: list[VerifiedCase]) -> str:
    """Describe the part whose error is the largest share of the time of its phase."""
    shares: dict[tuple[str, str], list[float]] = {}
    for case in cases:
        for part in case.parts:
            whole = case.ttft_s if part.phase == "prefill" else case.tpot_s
            off = (part.predicted_s - part.measured_s) / whole.measured.value
            shares.setdefault((part.phase, part.group), []).append(off)
    (phase, group), offs = max(shares.items(), key=lambda s: abs(float(np.median(s[1]))))
    off = float(np.median(offs))
    way = "too slow" if off > 0 else "too fast"
    return f"{phase} {group} is predicted {way}, by {abs(off):.1%} of the {phase} time"
