"""Split a forward pass of a decoder into operators, with their counts, FLOPs and bytes.

The same list is used everywhere: its FLOPs and bytes are the cost of the model, a datasheet or the
laws of a profile give each operator a time, and ``verify`` compares that time with the measured
time of the same group in a real decoder. The structure is plain (fused QKV and gate-up GEMMs,
static KV cache, fused attention), with one kernel launch per operator. The experts of a mixture run
one after another, each on the rows that are routed to it.

"Rows" is the number of rows of a GEMM: batch x prompt length in prefill, batch in decode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from groundspeed.estimator.model.spec import Experts, Model
from groundspeed.profiles.operations import OPERATIONS, Array, item_bytes

PhaseName = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Operator:
    """One operation of a forward pass, executed ``count`` times."""

    group: str
    """Part of the model: qkv, attention, out, mlp, head, norm, ..."""
    operation: str
    config_key: Mapping[str, str]
    columns: Mapping[str, Array]
    """Sizes of the operation; (N,) arrays if they vary over decode steps, else (1,)."""
    count: int

    @property
    def flops(self) -> Array:
        """FLOPs of all executions in one forward pass."""
        return self.count * OPERATIONS[self.operation].flops(self.columns, self.config_key)

    @property
    def bytes(self) -> Array:
        """Bytes moved by all executions in one forward pass."""
        return self.count * OPERATIONS[self.operation].bytes(self.columns, self.config_key)


def forward_pass(
    model: Model,
    phase: PhaseName,
    *,
    batch: int,
    length: Array,
    dtype: str,
    weights_dtype: str | None = None,
) -> list[Operator]:
    """Return the operators of one forward pass.

    Parameters
    ----------
    model : Model
        Shapes of the model.
    phase : {'prefill', 'decode'}
        Phase of the forward pass.
    batch : int
        Number of sequences.
    length : (N,) ndarray
        Prefill: the prompt length (only the first element is used for the rows). Decode: the
        number of tokens that attention reads (KV cache and new token), one value per step.
    dtype : str
        Data type of weights, activations and KV cache.
    weights_dtype : str, optional
        Data type of the weights of the layers if it is another, such as ``fp8_row``. The inputs of
        their GEMMs are then quantized; embedding, head and experts keep ``dtype``.

    Returns
    -------
    list of Operator
        All operators, grouped by ``Operator.group``.
    """
    layers = model.layers
    rows = float(batch) * (float(length[0]) if phase == "prefill" else 1.0)
    last_rows = float(batch)  # the LM head processes only the last token of each sequence
    norm = "rms_norm" if model.norm == "rms" else "layer_norm"
    linear = weights_dtype or dtype
    parts = [
        *(_quantizing(model, rows, dtype) if linear != dtype else ()),
        _elementwise("embed", "embed", rows, model.hidden, 1, dtype),
        _elementwise("norm", norm, rows, model.hidden, layers * _norms_run(model), dtype),
        _matmul(
            "qkv", rows, model.attention_width + 2 * model.kv_width, model.hidden, layers, linear
        ),
    ]
    if model.qk_norm:
        parts += [
            _elementwise("norm", norm, rows * model.heads, model.head_dim, layers, dtype),
            _elementwise("norm", norm, rows * model.kv_heads, model.head_dim, layers, dtype),
        ]
    parts += [
        _elementwise(
            "rotary", "rotary", rows, model.attention_width + model.kv_width, layers, dtype
        ),
        _elementwise("kv_write", "kv_write", rows, model.kv_width, 2 * layers, dtype),
        *_attention(model, phase, batch, length, dtype),
        _matmul("out", rows, model.hidden, model.attention_width, layers, linear),
        _elementwise("residual", "residual_add", rows, model.hidden, 2 * layers, dtype),
        *_mlp(model, rows, dtype, linear),
        *(_mixture(model, model.experts, rows, dtype) if model.experts is not None else ()),
        _elementwise("norm", norm, last_rows, model.hidden, 1, dtype),
        _matmul("head", last_rows, model.vocabulary, model.hidden, 1, dtype),
        _elementwise("sampling", "argmax", last_rows, model.vocabulary, 1, dtype),
    ]
    return parts


def _quantizing(model: Model, rows: float, dtype: str) -> list[Operator]:
    """Return the quantization of the inputs of all GEMMs of the layers."""
    layers, dense = model.layers, model.mlp_layers
    inputs = [
        (model.hidden, layers), (model.attention_width, layers), (model.hidden, dense),
        (model.intermediate, dense),
    ]  # fmt: skip
    return [
        _elementwise("quantize", "fp8_quantize", rows, width, count, dtype)
        for width, count in inputs
        if count
    ]


def _mlp(model: Model, rows: float, dtype: str, linear: str) -> list[Operator]:
    """Return the dense MLPs of all layers that have one."""
    count = model.mlp_layers
    if not count:
        return []
    op = "silu_mul" if model.gated_mlp else "gelu"
    return [
        _matmul("mlp", rows, model.mlp_width, model.hidden, count, linear),
        _elementwise("activation", op, rows, model.mlp_width, count, dtype),
        _matmul("mlp", rows, model.hidden, model.intermediate, count, linear),
    ]


def experts_hit(experts: Experts, tokens: float) -> float:
    """Return the expected number of activated experts of a layer, for uniform routing.

    >>> e = Experts(count=8, top_k=2, intermediate=64, layers=1)
    >>> experts_hit(e, 1.0), round(experts_hit(e, 4.0), 2)
    (2.0, 5.47)
    """
    return float(experts.count * (1.0 - (1.0 - experts.top_k / experts.count) ** tokens))


def _mixture(model: Model, e: Experts, rows: float, dtype: str) -> list[Operator]:
    """Return the mixtures of all layers that have experts."""
    layers, hidden = e.layers, model.hidden
    hit = max(1, round(experts_hit(e, rows)))
    each = rows * e.top_k / hit  # mean number of rows of an activated expert
    up = 2 * e.intermediate
    parts = [
        _matmul("router", rows, e.count, hidden, layers, dtype),
        _elementwise("router", "rms_norm", rows, e.count, layers, dtype),  # stands for softmax
        _elementwise("combine", "embed", each, hidden, layers * hit, dtype),
        _matmul("experts", each, up, hidden, layers * hit, dtype),
        _elementwise("activation", "silu_mul", each, up, layers * hit, dtype),
        _matmul("experts", each, hidden, e.intermediate, layers * hit, dtype),
        _elementwise("combine", "residual_add", each, hidden, layers * hit, dtype),
    ]
    if e.shared_intermediate:
        parts += [
            _matmul("shared", rows, 2 * e.shared_intermediate, hidden, layers, dtype),
            _elementwise("activation", "silu_mul", rows, 2 * e.shared_intermediate, layers, dtype),
            _matmul("shared", rows, hidden, e.shared_intermediate, layers, dtype),
            _elementwise("combine", "residual_add", rows, hidden, layers, dtype),
        ]
    return parts


def decode_stream_bytes(model: Model, *, dtype: str) -> float:
    """Return the bytes of weights that one decode step reads, independent of the batch size."""
    return model.streamed_parameters * item_bytes(dtype)


def kv_bytes_per_token(model: Model, *, dtype: str) -> float:
    """Return the bytes that one token adds to the KV cache."""
    return model.kv_items_per_token * item_bytes(dtype)


def _norms_run(model: Model) -> int:
    """Return the number of norms per layer: 1 in a parallel block, else 2."""
    return 1 if model.parallel_block else 2


def _matmul(group: str, m: float, n: int, k: int, count: int, dtype: str) -> Operator:
    columns = {"m": np.array([m]), "n": np.array([float(n)]), "k": np.array([float(k)])}
    return Operator(group, "matmul", {"dtype": dtype}, columns, count)


def _elementwise(group: str, op: str, rows: float, width: int, count: int, dtype: str) -> Operator:
    columns = {"rows": np.array([rows]), "width": np.array([float(width)])}
    return Operator(group, "elementwise", {"op": op, "dtype": dtype}, columns, count)


def _attention(
    model: Model, phase: PhaseName, batch: int, length: Array, dtype: str
) -> list[Operator]:
    """Return the attention of all layers, of which some may see a window only."""
    window, windowed = model.sliding_window, model.windowed_layers
    if window is None or not windowed or float(length.max()) <= window:
        return [_heads(model, phase, float(batch), length, dtype, model.layers)]
    whole = model.layers - windowed
    parts = [_heads(model, phase, float(batch), length, dtype, whole)] if whole else []
    if phase == "decode":
        seen = np.minimum(length, float(window))
        return [*parts, _heads(model, phase, float(batch), seen, dtype, windowed)]
    # A prompt is processed in blocks of a window. The first sees itself; each other sees itself and
    # its predecessor, which makes as many pairs as causal attention over two windows.
    blocks = float(length[0]) / window - 1.0
    one, two = np.full_like(length, float(window)), np.full_like(length, 2.0 * window)
    return [
        *parts,
        _heads(model, phase, float(batch), one, dtype, windowed),
        _heads(model, phase, batch * blocks, two, dtype, windowed),
    ]


def _heads(
    model: Model, phase: PhaseName, batch: float, length: Array, dtype: str, count: int
) -> Operator:
    name = "seq_len" if phase == "prefill" else "kv_len"
    same = np.ones_like(length)
    columns = {
        "batch": batch * same,
        name: length,
        "heads": model.heads * same,
        "kv_heads": model.kv_heads * same,
        "head_dim": model.head_dim * same,
    }
    return Operator("attention", f"attention_{phase}", {"dtype": dtype}, columns, count)
