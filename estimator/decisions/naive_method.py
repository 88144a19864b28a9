"""The common back-of-the-envelope estimate of a deployment, and where it goes wrong.

A much-read article estimates Qwen2.5-32B on a GPU with 148 TFLOPS: count FLOPs, divide by the peak,
multiply by "about 60 %". This module reproduces each of its figures as printed next to the exact
value, and then lists what the method leaves out: decode at batch 1 is limited by memory bandwidth,
not FLOPs, so the article's 2466 tokens/s are about forty times what the memory allows.

The article rounds intermediate results (1024 tokens become 1000, 31.98 B become 32 B, 0.064 TFLOP
become 0.06) and truncates tokens per second; ``printed`` does the same, ``exact`` does not.
"""

import math

from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.workload import Workload, require_workload
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import item_bytes
from groundspeed.profiles.record import Record


class NaiveWorkload(Record):
    """A static batch, as the article's formulas know it."""

    batch: int = 1
    prompt_tokens: int = 1024
    output_tokens: int = 1024
    dtype: str = "bfloat16"


class NaiveRow(Record):
    """One figure of the article's estimate."""

    quantity: str
    formula: str
    exact: float
    """Value in SI units, with no intermediate rounding."""
    printed: float
    """Value in SI units as the article prints it, with its intermediate rounding."""
    unit: str
    scale: float
    """Divisor that converts ``exact`` and ``printed`` to ``unit``."""
    decimals: int
    comment: str = ""


class NaiveEstimate(Record):
    """The article's figures, and a list of what its method leaves out."""

    model: str
    hardware: str
    workload: NaiveWorkload
    peak_flops_per_s: float
    utilization: float
    rows: tuple[NaiveRow, ...]
    left_out: tuple[str, ...]


def naive_estimate(
    model: Model, spec: DeviceSpec, workload: NaiveWorkload, *, utilization: float = 0.6
) -> NaiveEstimate:
    """Estimate a static batch with the article's formulas.

    Parameters
    ----------
    model : Model
        A model with a gated MLP.
    spec : DeviceSpec
        Datasheet of the GPU.
    workload : NaiveWorkload
        Batch size, lengths and data type.
    utilization : float, default 0.6
        Fraction of the peak that is reached (above 0, at most 1); the article's "about 60 %".

    Raises
    ------
    InputError
        If the datasheet has no peak for the data type, the utilization is out of range, or the MLP
        is not gated.
    """
    if not 0.0 < utilization <= 1.0:
        raise InputError(f"utilization must be above 0 and at most 1, not {utilization}")
    require_workload(
        model, Workload(workload.prompt_tokens, workload.output_tokens, workload.batch)
    )
    if model.experts is not None or model.latent is not None or model.recurrent is not None:
        raise InputError(
            f"the article's formulas are those of dense decoders, which {model.id} is not",
            where="--method naive",
            remedy="use the default method",
        )
    length = workload.prompt_tokens + workload.output_tokens
    if model.sliding_window is not None and length > model.sliding_window:
        raise InputError(
            f"{model.id} has a sliding window of {model.sliding_window} tokens, which the naive "
            f"method does not know; prompt and output have {length}",
            remedy="use the default method",
        )
    if not model.gated_mlp:
        raise InputError(
            f"the article's formulas need a gated MLP, but the MLP of {model.id} is not gated",
            remedy="use the default method",
        )
    peak = spec.peak_flops(workload.dtype)
    h, i, layers = model.hidden, model.intermediate, model.layers
    p, g, batch = workload.prompt_tokens, workload.output_tokens, workload.batch
    kv = model.kv_heads / model.heads
    parameters = model.vocabulary * h + layers * (3 * h * i + 2 * h * h * kv + h * h + h * h)
    detailed = (
        layers
        * batch
        * (2 * p * h**2 + 2 * 2 * p * h**2 * kv + 2 * 2 * p**2 * h + 2 * p * h**2 + 6 * p * h * i)
    )
    closed = layers * batch * (4 * (1 + kv) * p * h**2 + 4 * p**2 * h + 6 * p * h * i)
    context = p + (1 + g) / 2
    decode = layers * batch * (4 * h**2 + 4 * h**2 * kv + 4 * context * h + 6 * h * i)
    decode_printed = _truncated(decode / 1e12, 2) * 1e12
    quick_prefill_printed = 2 * batch * _significant(p, 2) * _significant(parameters, 2)
    quick_decode_printed = 2 * batch * _significant(parameters, 2)
    tera, milli = 1e12, 1e-3
    rows = (
        _row("parameters", "vocab h + L (3hi + 2hh kv/heads + 2hh)", parameters, "B", 1e9, 2),
        _row("prefill FLOPs, detailed", "L b (2ph² + 4ph² kv/heads + 4p²h + 2ph² + 6phi)",
             detailed, "TFLOP", tera, 2),
        _row("prefill FLOPs, closed form", "L b (4(1 + kv/heads)ph² + 4p²h + 6phi)",
             closed, "TFLOP", tera, 2),
        _row("decode FLOPs a token", "L b (4h² + 4h² kv/heads + 4ch + 6hi), c = p + (1+g)/2",
             decode, "TFLOP", tera, 2, printed=decode_printed),
        _row("TTFT", "prefill FLOPs / peak", detailed / peak, "ms", milli, 0),
        _row(f"TTFT at {utilization:.0%}", "the same / utilization",
             detailed / peak / utilization, "ms", milli, 0, comment='the article says "higher"'),
        _row("throughput", "peak / decode FLOPs", batch * peak / decode, "token/s", 1.0, 0,
             printed=math.floor(batch * peak / decode_printed) if decode_printed else None,
             comment="divides by the rounded FLOPs and truncates"),
        _row("quick prefill FLOPs", "2 b prompt parameters", 2 * batch * p * parameters,
             "TFLOP", tera, 1, printed=quick_prefill_printed,
             comment=f"taken as {_significant(p, 2):.0f} tokens and "
                     f"{_significant(parameters, 2) / 1e9:g} B"),
        _row("quick TTFT", "quick prefill FLOPs / peak", 2 * batch * p * parameters / peak,
             "ms", milli, 0, printed=quick_prefill_printed / peak),
        _row("quick decode FLOPs a step", "2 b parameters", 2 * batch * parameters,
             "TFLOP", tera, 3, printed=quick_decode_printed),
        _row("quick throughput", "peak / quick decode FLOPs", peak / (2 * parameters),
             "token/s", 1.0, 0,
             printed=math.floor(batch * peak / quick_decode_printed), comment="truncates"),
    )  # fmt: skip
    return NaiveEstimate(
        model=model.id,
        hardware=spec.id,
        workload=workload,
        peak_flops_per_s=peak,
        utilization=utilization,
        rows=rows,
        left_out=_left_out(model, spec, workload, parameters, batch * peak / decode),
    )


def memory_roof_tokens_per_s(
    model: Model, spec: DeviceSpec, workload: NaiveWorkload, *, with_cache: bool
) -> float:
    """Return the decode rate at which the memory bandwidth is saturated [tokens/s].

    Each step reads every weight except the input embedding, once for the whole batch. With
    ``with_cache`` it also reads the keys and values of each sequence at the mean context.
    """
    streamed = model.streamed_parameters * item_bytes(workload.dtype)
    if with_cache:
        context = workload.prompt_tokens + workload.output_tokens / 2
        streamed += workload.batch * context * model.kv_items_per_token * item_bytes(workload.dtype)
    return workload.batch * spec.memory_bandwidth() / streamed


def _left_out(
    model: Model, spec: DeviceSpec, workload: NaiveWorkload, counted: float, claimed: float
) -> tuple[str, ...]:
    roof = memory_roof_tokens_per_s(model, spec, workload, with_cache=False)
    with_cache = memory_roof_tokens_per_s(model, spec, workload, with_cache=True)
    gigabytes = model.streamed_parameters * item_bytes(workload.dtype) / 1e9
    lines = []
    if claimed > roof:
        lines.append(
            f"Decode at batch {workload.batch} is memory-bound: a step streams {gigabytes:.1f} GB "
            f"of weights, so {spec.id} cannot exceed {roof:.1f} token/s ({with_cache:.1f} with "
            f"the KV cache), {roof / claimed:.1%} of the compute roof. The figure above is "
            f"{claimed / roof:.0f} times too high."
        )
    lines += [
        f"The parameter count leaves out biases, norms and an untied LM head: "
        f"{model.id} has {model.parameters / 1e9:.2f} B parameters, not {counted / 1e9:.2f} B.",
        "Prefill also runs the output head, for the last token of each prompt only.",
        "Causal attention computes half of the score FLOPs counted above.",
        '"About 60 %" is one constant for a quantity that depends on shape, data type, library '
        "and power state: measure it with groundspeed calibrate.",
    ]
    return tuple(lines)


def _row(
    quantity: str,
    formula: str,
    exact: float,
    unit: str,
    scale: float,
    decimals: int,
    *,
    printed: float | None = None,
    comment: str = "",
) -> NaiveRow:
    return NaiveRow(
        quantity=quantity,
        formula=formula,
        exact=exact,
        printed=exact if printed is None else printed,
        unit=unit,
        scale=scale,
        decimals=decimals,
        comment=comment,
    )


def _truncated(value: float, decimals: int) -> float:
    scale = 10.0**decimals
    return math.floor(value * scale) / scale


def _significant(value: float, digits: int) -> float:
    """Round to a number of significant digits, as the article does."""
    return float(f"{value:.{digits - 1}e}")
