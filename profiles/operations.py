"""Definition of the operations: columns, algorithmic FLOPs and algorithmic bytes of each.

The counts are *algorithmic*: those of the mathematics if every operand crosses the memory bus once.
A kernel that moves more (register spills, repeated reads) therefore has a lower utilization, as
intended. One multiply-add is two FLOPs. Causal attention counts only the half that is computed.

Columns are numpy arrays of the same shape; the ``dtype`` of a config key is a name (``bfloat16``).

>>> import numpy as np
>>> matmul = OPERATIONS["matmul"]
>>> case = {"m": np.array([1.0]), "n": np.array([5120.0]), "k": np.array([5120.0])}
>>> matmul.flops(case, {"dtype": "bfloat16"})
array([52428800.])
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from groundspeed.profiles.errors import InputError, did_you_mean

Array = NDArray[np.float64]
Columns = Mapping[str, Array]
ConfigKey = Mapping[str, str]

ITEM_BYTES: dict[str, float] = {
    "float64": 8.0,
    "float32": 4.0,
    "tf32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "fp8_row": 1.0,
    "fp8_exact": 1.0,
    "fp8_row_exact": 1.0,
    "fp8_block": 1.0,
    "int8": 1.0,
    "fp4": 0.5,
}
"""[bytes] Stored size of one element of each data type."""


def item_bytes(dtype: str) -> float:
    """Return the size of one element of a data type [bytes].

    Raises
    ------
    InputError
        If the data type is unknown.
    """
    if dtype not in ITEM_BYTES:
        raise InputError(f"unknown data type '{dtype}'", remedy=did_you_mean(dtype, ITEM_BYTES))
    return ITEM_BYTES[dtype]


WEIGHT_BYTES: dict[str, float] = {
    "int4_wo": 0.5,
    "w4a16_mxfp4": 0.5,
    "w4a8_mxfp4_mxfp8": 0.5,
    "nvfp4": 0.5,
}
"""[bytes] Size of one weight in formats that treat weights separately from activations."""

ACTIVATION_BYTES: dict[str, float] = {
    "int4_wo": 2.0,
    "w4a16_mxfp4": 2.0,
    "w4a8_mxfp4_mxfp8": 1.0,
    "nvfp4": 0.5,
}
"""[bytes] Size of one activation in the formats of ``WEIGHT_BYTES``."""


def weight_bytes(dtype: str) -> float:
    """Return the size of one weight in a format [bytes].

    Raises
    ------
    InputError
        If the format is unknown.
    """
    return WEIGHT_BYTES[dtype] if dtype in WEIGHT_BYTES else item_bytes(dtype)


Form = Literal[
    "soft_roofline", "gemm", "prefill_attention", "decode_attention", "experts",
    "parametric_roofline", "piecewise_linear", "token_counts",
]  # fmt: skip
"""How a law is fitted: ``soft_roofline`` alone; a parametric form with a residual GP (``gemm`` to
``parametric_roofline``, the latter a soft roofline with a residual GP); ``piecewise_linear`` over
the message size; ``token_counts``: a piecewise law of tokens for one shape of experts."""


@dataclass(frozen=True)
class Operation:
    """An operation and its algorithmic cost as a function of its columns."""

    name: str
    columns: tuple[str, ...]
    """Names of the numeric columns. Values must be positive; laws use their logarithms."""
    categories: tuple[str, ...]
    """Required entries of the config key; each combination of values has its own law."""
    optional: tuple[str, ...] = field(default=(), kw_only=True)
    """Optional entries of the config key; a law with such an entry applies only to its value."""
    flops: Callable[[Columns, ConfigKey], Array]
    """[FLOP] Function that returns the floating-point operations."""
    bytes: Callable[[Columns, ConfigKey], Array]
    """[bytes] Function that returns the bytes read and written, each operand once."""
    computes: bool
    """Whether arithmetic can limit the operation."""
    growing: tuple[str, ...]
    """Columns in which time must not decrease, because a larger value is never less work."""
    form: Form = "soft_roofline"
    """Model form of its laws. On a CPU all but the piecewise ones are soft rooflines, because tile
    and wave quantization do not describe CPU timings."""
    countable: bool = True
    """Whether FLOPs and bytes follow from the columns; those of experts depend on the routing."""
    streamed: Callable[[Columns, ConfigKey], Array] | None = None
    """[bytes] Function that returns the weights or cache that one execution reads from memory: in a
    model no other execution has just read them. None: the operation reads activations only."""


def _matmul_flops(c: Columns, r: ConfigKey) -> Array:
    return 2.0 * c["m"] * c["n"] * c["k"]


def _matmul_bytes(c: Columns, r: ConfigKey) -> Array:
    w = weight_bytes(r["dtype"])
    a = ACTIVATION_BYTES.get(r["dtype"], w)
    out = max(a, 2.0)  # results of fp8 and fp4 GEMMs are written in 16 bit
    return a * c["m"] * c["k"] + w * c["n"] * c["k"] + out * c["m"] * c["n"]


def _matmul_weights(c: Columns, r: ConfigKey) -> Array:
    return weight_bytes(r["dtype"]) * c["n"] * c["k"]


def _prefill_flops(c: Columns, r: ConfigKey) -> Array:
    pairs = c["seq_len"] * (c["seq_len"] + 1.0) / 2.0  # causal: itself and earlier tokens
    return 4.0 * c["batch"] * c["heads"] * c["head_dim"] * pairs


def _prefill_bytes(c: Columns, r: ConfigKey) -> Array:
    heads = 2.0 * c["heads"] + 2.0 * c["kv_heads"]  # Q and output; K and V
    return item_bytes(r["dtype"]) * c["batch"] * heads * c["seq_len"] * c["head_dim"]


def _seen(c: Columns, r: ConfigKey) -> Array:
    """Return the number of cached tokens that a new token attends to: all, or its window."""
    window = float(r.get("window", 0))
    return np.minimum(c["kv_len"], window) if window > 0 else c["kv_len"]


def _decode_flops(c: Columns, r: ConfigKey) -> Array:
    return 4.0 * c["batch"] * c["heads"] * c["head_dim"] * _seen(c, r)


def _decode_bytes(c: Columns, r: ConfigKey) -> Array:
    cache = 2.0 * item_bytes(r.get("kv_dtype", r["dtype"])) * c["kv_heads"] * _seen(c, r)
    return c["batch"] * c["head_dim"] * (cache + 2.0 * item_bytes(r["dtype"]) * c["heads"])


def _decode_cache(c: Columns, r: ConfigKey) -> Array:
    cache = 2.0 * item_bytes(r.get("kv_dtype", r["dtype"])) * c["kv_heads"] * _seen(c, r)
    return c["batch"] * c["head_dim"] * cache


LATENT = 512.0
ROTARY = 64.0
VALUE = 128.0
"""Dimensions of DeepSeek's multi-head latent attention (MLA): latent, rotary and value head."""


def _mla_decode_flops(c: Columns, r: ConfigKey) -> Array:
    # Scores use the latent and rotary parts; the weighted sum uses the latent part.
    return 2.0 * c["batch"] * c["heads"] * c["kv_len"] * (2.0 * LATENT + ROTARY)


def _mla_decode_bytes(c: Columns, r: ConfigKey) -> Array:
    cache = item_bytes(r.get("kv_dtype", r["dtype"])) * (LATENT + ROTARY) * c["kv_len"]
    ends = item_bytes(r["dtype"]) * c["heads"] * (2.0 * LATENT + ROTARY)
    return c["batch"] * (cache + ends)


def _mla_decode_cache(c: Columns, r: ConfigKey) -> Array:
    item = item_bytes(r.get("kv_dtype", r["dtype"]))
    return c["batch"] * item * (LATENT + ROTARY) * c["kv_len"]


def _mla_prefill_flops(c: Columns, r: ConfigKey) -> Array:
    pairs = c["seq_len"] * (c["seq_len"] + 1.0) / 2.0
    return 2.0 * c["batch"] * c["heads"] * pairs * (VALUE + ROTARY + VALUE)


def _mla_prefill_bytes(c: Columns, r: ConfigKey) -> Array:
    heads = c["heads"] * (2.0 * (VALUE + ROTARY) + 2.0 * VALUE)
    return item_bytes(r["dtype"]) * c["batch"] * c["seq_len"] * heads


def _moe_flops(c: Columns, r: ConfigKey) -> Array:
    split = float(r.get("tp", 1)) * float(r.get("ep", 1))
    size = float(r["hidden"]) * float(r["intermediate"])
    return 6.0 * c["tokens"] * float(r["top_k"]) * size / split


def _moe_bytes(c: Columns, r: ConfigKey) -> Array:
    """Return the bytes of activations and of activated experts' weights (uniform routing)."""
    experts, top_k = float(r["experts"]), float(r["top_k"])
    hidden, intermediate = float(r["hidden"]), float(r["intermediate"])
    hit = experts * (1.0 - (1.0 - top_k / experts) ** c["tokens"])
    split = float(r.get("tp", 1)) * float(r.get("ep", 1))
    weights = 3.0 * hidden * intermediate * hit / split
    return weight_bytes(r["dtype"]) * weights + 2.0 * 2.0 * c["tokens"] * hidden


def _experts_hit(c: Columns) -> Array:
    """Return the number of activated experts of a rank, for uniform routing."""
    missed = (1.0 - c["top_k"] / c["experts"]) ** c["tokens"]
    hit: Array = c["experts"] / c["ep"] * (1.0 - missed)
    return hit


def _experts_flops(c: Columns, r: ConfigKey) -> Array:
    return 6.0 * c["tokens"] * c["top_k"] / c["ep"] * c["hidden"] * c["width"]


def _experts_bytes(c: Columns, r: ConfigKey) -> Array:
    weights = 3.0 * c["hidden"] * c["width"] * _experts_hit(c)
    return weight_bytes(r["dtype"]) * weights + 2.0 * 2.0 * c["tokens"] * c["hidden"]


def _experts_weights(c: Columns, r: ConfigKey) -> Array:
    return weight_bytes(r["dtype"]) * 3.0 * c["hidden"] * c["width"] * _experts_hit(c)


def _zero(c: Columns, r: ConfigKey) -> Array:
    return np.zeros_like(next(iter(c.values())))


def _stream_bytes(c: Columns, r: ConfigKey) -> Array:
    return c["bytes"]


ELEMENTWISE_ITEMS_MOVED: dict[str, float] = {
    # The width counts the input elements of a row; values are elements moved per input element.
    "rms_norm": 2.0,  # read x, write y (the weight is shared by all rows)
    "layer_norm": 2.0,
    "residual_add": 3.0,  # read both, write one
    "silu_mul": 1.5,  # read gate and up (the width), write half of it
    "gelu": 2.0,
    "rotary": 2.0,
    "kv_write": 2.0,
    "embed": 2.0,  # read a row of the table, write it
    "argmax": 1.0,
    "fp8_quantize": 1.5,
    "sample": 2.0,  # logits, and the noise of the sampling
}
"""Elements moved per input element, for each elementwise operation between the GEMMs."""


def _elementwise_bytes(c: Columns, r: ConfigKey) -> Array:
    per_item = ELEMENTWISE_ITEMS_MOVED.get(r["op"])
    if per_item is None:
        raise InputError(
            f"unknown elementwise operation '{r['op']}'",
            remedy=did_you_mean(r["op"], ELEMENTWISE_ITEMS_MOVED),
        )
    return per_item * item_bytes(r["dtype"]) * c["rows"] * c["width"]


OPERATIONS: dict[str, Operation] = {
    op.name: op
    for op in (
        Operation(
            "matmul",
            ("m", "n", "k"),
            ("dtype",),
            _matmul_flops,
            _matmul_bytes,
            True,
            ("m", "n", "k"),
            streamed=_matmul_weights,
            form="gemm",
            optional=("quantize", "library"),
        ),
        Operation(
            "attention_prefill",
            ("batch", "seq_len", "heads", "kv_heads", "head_dim"),
            ("dtype",),
            _prefill_flops,
            _prefill_bytes,
            True,
            ("batch", "seq_len", "heads"),
            form="prefill_attention",
            optional=("kv_dtype", "library", "window"),
        ),
        Operation(
            "attention_decode",
            ("batch", "kv_len", "heads", "kv_heads", "head_dim"),
            ("dtype",),
            _decode_flops,
            _decode_bytes,
            True,
            ("batch", "kv_len", "heads"),
            streamed=_decode_cache,
            form="decode_attention",
            optional=("kv_dtype", "library", "window"),
        ),
        Operation(
            "collective",
            ("bytes",),
            ("op", "world_size"),
            _zero,
            _stream_bytes,
            False,
            ("bytes",),
            form="piecewise_linear",
            optional=("mode", "hosts"),
        ),
        Operation(
            "moe",
            ("tokens",),
            ("dtype", "hidden", "intermediate", "top_k", "experts", "distribution"),
            _moe_flops,
            _moe_bytes,
            True,
            ("tokens",),
            countable=False,
            form="token_counts",
            optional=("tp", "ep", "routing"),
        ),
        Operation(
            "experts",
            ("tokens", "hidden", "width", "experts", "top_k", "ep"),
            ("dtype",),
            _experts_flops,
            _experts_bytes,
            True,
            ("tokens", "hidden", "width", "top_k"),
            countable=False,
            streamed=_experts_weights,
            form="experts",
            optional=("distribution", "library"),
        ),
        Operation(
            "mla_decode",
            ("batch", "kv_len", "heads"),
            ("dtype",),
            _mla_decode_flops,
            _mla_decode_bytes,
            True,
            ("batch", "kv_len", "heads"),
            streamed=_mla_decode_cache,
            form="parametric_roofline",
            optional=("kv_dtype", "library"),
        ),
        Operation(
            "mla_prefill",
            ("batch", "seq_len", "heads"),
            ("dtype",),
            _mla_prefill_flops,
            _mla_prefill_bytes,
            True,
            ("batch", "seq_len", "heads"),
            form="prefill_attention",
            optional=("kv_dtype", "library"),
        ),
        Operation("stream", ("bytes",), ("mode", "dtype"), _zero, _stream_bytes, False, ("bytes",)),
        Operation(
            "elementwise",
            ("rows", "width"),
            ("op", "dtype"),
            _zero,
            _elementwise_bytes,
            False,
            ("rows", "width"),
            optional=("gemm", "library"),
        ),
    )
}
"""All operations for which laws can be fitted, by name."""

OPTIONAL_CATEGORIES = tuple(dict.fromkeys(key for op in OPERATIONS.values() for key in op.optional))
"""Optional entries of the config keys of all operations."""


def require_config_key(operation: str, config_key: ConfigKey) -> None:
    """Raise an error for an unknown operation, or an entry that its config key cannot have.

    Config keys are plain mappings, because profiles are JSON; this makes a misspelt one an error at
    the place where it is written instead of a law that is never found.

    Raises
    ------
    InputError
        If the operation or an entry is unknown, or a required entry is missing.

    Examples
    --------
    >>> require_config_key("matmul", {"dtyp": "fp8"})
    Traceback (most recent call last):
        ...
    groundspeed.profiles.errors.InputError: matmul has no 'dtyp' in its config key: did you mean...
    """
    known = OPERATIONS.get(operation)
    if known is None:
        raise InputError(
            f"unknown operation '{operation}'", remedy=did_you_mean(operation, OPERATIONS)
        )
    allowed = (*known.categories, *known.optional)
    for key in config_key:
        if key not in allowed:
            raise InputError(
                f"{operation} has no '{key}' in its config key", remedy=did_you_mean(key, allowed)
            )
    missing = [key for key in known.categories if key not in config_key]
    if missing:
        raise InputError(f"the config key of {operation} lacks '{missing[0]}'")
