"""What an operation is: its columns, its floating-point operations, its bytes.

These are *algorithmic* counts: what the mathematics needs if every operand crosses the memory bus
once. A kernel that moves more (a spill, a re-read) shows up as a lower utilization, which is the
point. One multiply-add is two FLOPs. Causal attention counts the half that is really computed.

Columns are numpy arrays of one shape; ``dtype`` columns hold names (``bfloat16``).

>>> import numpy as np
>>> matmul = OPERATIONS["matmul"]
>>> case = {"m": np.array([1.0]), "n": np.array([5120.0]), "k": np.array([5120.0])}
>>> matmul.flops(case, {"dtype": "bfloat16"})
array([52428800.])
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundspeed.profiles.errors import InputError, did_you_mean

Array = NDArray[np.float64]
Columns = Mapping[str, Array]
Regime = Mapping[str, str]

ITEM_BYTES: dict[str, float] = {
    "float64": 8.0,
    "float32": 4.0,
    "tf32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "fp8_row": 1.0,
    "fp8_block": 1.0,
    "int8": 1.0,
    "fp4": 0.5,
}
"""Bytes of one element as stored."""


def item_bytes(dtype: str) -> float:
    """Bytes of one element of a data type.

    Raises
    ------
    InputError
        If the type is not known.
    """
    if dtype not in ITEM_BYTES:
        raise InputError(f"unknown data type '{dtype}'", remedy=did_you_mean(dtype, ITEM_BYTES))
    return ITEM_BYTES[dtype]


@dataclass(frozen=True)
class Operation:
    """The algorithmic cost of an operation as a function of its columns."""

    name: str
    columns: tuple[str, ...]
    """Numeric columns, all positive; laws work on their logarithms."""
    categories: tuple[str, ...]
    """Columns that name a regime: each combination has a law of its own."""
    flops: Callable[[Columns, Regime], Array]
    """Floating-point operations."""
    bytes: Callable[[Columns, Regime], Array]
    """Bytes read and written, each operand once."""
    computes: bool
    """Whether arithmetic can limit it."""
    growing: tuple[str, ...]
    """Columns in which time must not fall: doubling one is never less work."""


def _matmul_flops(c: Columns, r: Regime) -> Array:
    return 2.0 * c["m"] * c["n"] * c["k"]


def _matmul_bytes(c: Columns, r: Regime) -> Array:
    w = item_bytes(r["dtype"])
    out = max(w, 2.0)  # fp8 and fp4 products are written as 16 bit
    return w * (c["m"] * c["k"] + c["n"] * c["k"]) + out * c["m"] * c["n"]


def _prefill_flops(c: Columns, r: Regime) -> Array:
    pairs = c["seq_len"] * (c["seq_len"] + 1.0) / 2.0  # causal: each token sees itself and before
    return 4.0 * c["batch"] * c["heads"] * c["head_dim"] * pairs


def _prefill_bytes(c: Columns, r: Regime) -> Array:
    heads = 2.0 * c["heads"] + 2.0 * c["kv_heads"]  # Q and output; K and V
    return item_bytes(r["dtype"]) * c["batch"] * heads * c["seq_len"] * c["head_dim"]


def _decode_flops(c: Columns, r: Regime) -> Array:
    return 4.0 * c["batch"] * c["heads"] * c["head_dim"] * c["kv_len"]


def _decode_bytes(c: Columns, r: Regime) -> Array:
    cache = 2.0 * c["kv_heads"] * c["kv_len"]
    return item_bytes(r["dtype"]) * c["batch"] * c["head_dim"] * (cache + 2.0 * c["heads"])


def _zero(c: Columns, r: Regime) -> Array:
    return np.zeros_like(next(iter(c.values())))


def _stream_bytes(c: Columns, r: Regime) -> Array:
    return c["bytes"]


GLUE_ITEMS_MOVED: dict[str, float] = {
    # width counts the elements of a row that go in; figures are elements moved per element in.
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
    "sample": 2.0,  # logits, and the noise that draws
}
"""The small operations between the matrix products: elements moved per element of input."""


def _glue_bytes(c: Columns, r: Regime) -> Array:
    per_item = GLUE_ITEMS_MOVED.get(r["op"])
    if per_item is None:
        raise InputError(
            f"unknown glue operation '{r['op']}'",
            remedy=did_you_mean(r["op"], GLUE_ITEMS_MOVED),
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
        ),
        Operation(
            "attention_prefill",
            ("batch", "seq_len", "heads", "kv_heads", "head_dim"),
            ("dtype",),
            _prefill_flops,
            _prefill_bytes,
            True,
            ("batch", "seq_len", "heads"),
        ),
        Operation(
            "attention_decode",
            ("batch", "kv_len", "heads", "kv_heads", "head_dim"),
            ("dtype",),
            _decode_flops,
            _decode_bytes,
            True,
            ("batch", "kv_len", "heads"),
        ),
        Operation(
            "collective",
            ("bytes",),
            ("op", "world_size"),
            _zero,
            _stream_bytes,
            False,
            ("bytes",),
        ),
        Operation("stream", ("bytes",), ("mode", "dtype"), _zero, _stream_bytes, False, ("bytes",)),
        Operation(
            "glue", ("rows", "width"), ("op", "dtype"), _zero, _glue_bytes, False, ("rows", "width")
        ),
    )
}
"""Every operation a law can be fitted to."""
