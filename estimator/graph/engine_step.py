"""Split one step of a serving engine into operators, sharded and with fused kernels.

:mod:`groundspeed.estimator.graph.operators` models the plain decoder that ``verify`` runs. This
module models a serving engine on one rank: norms fused with residual additions, rotary embedding
fused with the KV cache write, grouped experts, and a collective after each sharded GEMM. The parts
of a step are grouped by the quantity that their time depends on:

- *rows*: all GEMMs and elementwise operations; depend on the tokens of the step (decoding +
  prefilled);
- *decode attention*: depends on the sequences and their context;
- *prefill attention*: depends on the prompts and their lengths;
- *head*: depends on the number of sequences that get a token.
"""

from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.graph.operators import Operator
from groundspeed.estimator.model.spec import Model, Recurrent
from groundspeed.estimator.serving.deployment import Deployment, Formats, formats
from groundspeed.profiles.operations import Array

STATE_BYTES = 4.0
"""Bytes per element of a recurrent state: it is stored in 32 bit."""


@dataclass(frozen=True)
class Layers:
    """The operators of a model on one rank of a deployment."""

    model: Model
    deployment: Deployment
    custom_all_reduce: bool
    """True if the engine has its own all-reduce kernel besides that of NCCL or RCCL."""
    fused_quantize: bool = False
    """True if the activations are quantized by the operation before the GEMM."""
    library: str = "vllm"
    """Library of the attention kernels, used if a profile has laws for several."""

    @property
    def formats(self) -> Formats:
        """Number format of each part of the model."""
        return formats(self.model, self.deployment)

    @property
    def collectives(self) -> int:
        """Number of collectives in one step: after attention and MLP or experts, if sharded."""
        one = np.ones(1)
        return sum(o.count for o in self.rows(one) if o.operation == "collective")

    def rows(self, m: Array) -> list[Operator]:
        """Return the operators whose time depends on the number of tokens in a step.

        Parameters
        ----------
        m : (N,) ndarray
            Number of tokens in the step of one rank.
        """
        model, f = self.model, self.formats
        parts = [_elementwise("embed", "embed", m, model.hidden, 1, f.rest)]
        parts += self._attention_rows(m, f)
        if model.recurrent is not None:
            parts += self._recurrent_rows(m, model.recurrent, f)
        parts += self._dense_rows(m, f)
        parts += self._expert_rows(m, f)
        # Each norm is fused with the residual addition: it reads two tensors and writes two.
        norms = model.layers * model.norms_per_layer
        parts.append(_elementwise("norm", "rms_norm", m, 2 * model.hidden, norms, f.rest))
        if self.deployment.pp > 1:
            # A pipeline stage sends its rows to the next one: half the bytes of a 2-rank gather.
            half = m * 2.0
            parts.append(self._collective("all_gather", half, 2, self.deployment.pp - 1))
        return parts

    def head(self, sequences: Array) -> list[Operator]:
        """Return the LM head and sampling for the sequences that get a token."""
        model, f = self.model, self.formats
        width = _split(model.vocabulary, self.deployment.tp)
        return [
            _matmul("head", sequences, width, model.hidden, 1, f.rest),
            _elementwise("sampling", "argmax", sequences, model.vocabulary, 1, f.rest),
        ]

    def decode_attention(self, sequences: Array, context: Array) -> list[Operator]:
        """Return attention of decoding sequences over their KV cache; both arguments (N,)."""
        model, f, tp = self.model, self.formats, self.deployment.tp
        if model.latent is not None:
            latent = model.latent
            heads = model.heads // tp
            seen = np.minimum(context, latent.index_top_k) if latent.index_top_k else context
            columns = {"batch": sequences, "kv_len": seen, "heads": _constant_like(seen, heads)}
            config_key = {"dtype": f.activations, "kv_dtype": f.cache}
            parts = [
                Operator("attention", "mla_decode", config_key, columns, model.attention_layers)
            ]
            # MLA weight absorption: project queries into the latent space and values out of it.
            parts += [
                _matmul("absorb", sequences, heads * latent.kv_rank, latent.nope_dim,
                        model.attention_layers, f.rest),
                _matmul("absorb", sequences, heads * latent.value_dim, latent.kv_rank,
                        model.attention_layers, f.rest),
            ]  # fmt: skip
            return parts
        whole = model.attention_layers - model.windowed_layers
        operators = []
        if whole:
            operators.append(self._attention("attention_decode", sequences, context, whole, f))
        if model.windowed_layers and model.sliding_window:
            seen = np.minimum(context, float(model.sliding_window))
            operators.append(
                self._attention("attention_decode", sequences, seen, model.windowed_layers, f)
            )
        return operators

    def prefill_attention(self, prompts: Array, length: Array) -> list[Operator]:
        """Return causal attention of whole prompts; both arguments (N,).

        The time of a chunk is the difference of two of these.
        """
        model, f, tp = self.model, self.formats, self.deployment.tp
        if model.latent is not None:
            heads = model.heads // tp
            columns = {"batch": prompts, "seq_len": length, "heads": _constant_like(length, heads)}
            config_key = {"dtype": f.activations, "kv_dtype": f.cache}
            return [
                Operator("attention", "mla_prefill", config_key, columns, model.attention_layers)
            ]
        whole = model.attention_layers - model.windowed_layers
        operators = []
        if whole:
            operators.append(self._attention("attention_prefill", prompts, length, whole, f))
        if model.windowed_layers and model.sliding_window:
            window = float(model.sliding_window)
            # Replace each prompt by several of window length with the same number of token pairs.
            inside = np.minimum(length, window)
            pairs = np.where(length > window, (length - window / 2.0) / (window / 2.0), 1.0)
            operators.append(
                self._attention(
                    "attention_prefill", prompts * pairs, inside, model.windowed_layers, f
                )
            )
        return operators

    def _attention(
        self, operation: str, batch: Array, length: Array, count: int, f: Formats
    ) -> Operator:
        model, tp = self.model, self.deployment.tp
        name = "seq_len" if operation == "attention_prefill" else "kv_len"
        columns = {
            "batch": batch,
            name: length,
            "heads": _constant_like(length, max(1, model.heads // tp)),
            "kv_heads": _constant_like(length, max(1, model.kv_heads // tp)),
            "head_dim": _constant_like(length, model.head_dim),
        }
        config_key = {"dtype": f.activations, "kv_dtype": f.cache, "library": self.library}
        return Operator("attention", operation, config_key, columns, count)

    def _attention_rows(self, m: Array, f: Formats) -> list[Operator]:
        model, tp, count = self.model, self.deployment.tp, self.model.attention_layers
        if not count:
            return []
        h = model.hidden
        if model.latent is not None:
            t, heads = model.latent, model.heads // tp
            first = t.query_rank + t.cached if t.query_rank else t.cached
            parts = [self._linear("qkv", m, first, h, count, f.linear)]
            depth = t.query_rank or h
            parts.append(self._linear("qkv", m, heads * t.query_dim, depth, count, f.linear))
            if t.index_heads:
                index = t.index_heads * t.index_dim
                parts.append(self._linear("index", m, index, depth, count, f.linear))
            parts.append(self._linear("out", m, h, heads * t.value_dim, count, f.linear))
            width = heads * t.query_dim + t.cached
        else:
            kv = 2 * max(1, model.kv_heads // tp) * model.head_dim
            queries = model.attention_width // tp * (2 if model.output_gate else 1)
            parts = [self._linear("qkv", m, queries + kv, h, count, f.linear)]
            parts.append(self._linear("out", m, h, model.attention_width // tp, count, f.linear))
            width = queries + kv
        if model.qk_norm or model.qk_norm_whole:
            parts.append(_elementwise("norm", "rms_norm", m, width, count, f.rest))
        parts.append(_elementwise("rotary", "rotary", m, width, count, f.rest))
        if tp > 1 and not model.parallel_block:
            parts.append(self._collective("all_reduce", m, tp, count))
        return parts

    def latent_prefill_rows(self, tokens: Array) -> list[Operator]:
        """Return the up-projection of latent keys and values in prefill, for (N,) tokens."""
        latent = self.model.latent
        if latent is None:
            return []
        heads = self.model.heads // self.deployment.tp
        width = heads * (latent.nope_dim + latent.value_dim)
        count = self.model.attention_layers
        return [self._linear("qkv", tokens, width, latent.kv_rank, count, self.formats.linear)]

    def _recurrent_rows(self, m: Array, r: Recurrent, f: Formats) -> list[Operator]:
        tp = self.deployment.tp
        parts = [
            self._linear("recurrent", m, _split(r.in_width, tp), self.model.hidden, r.layers,
                    f.linear),
            self._linear("recurrent", m, self.model.hidden, _split(r.inner_width, tp), r.layers,
                    f.linear),
            # Convolution and scan are memory-bound: each reads and writes its input once.
            _elementwise("recurrent", "rms_norm", m, 2 * _split(r.conv_width, tp), 2 * r.layers,
                         f.rest),
        ]  # fmt: skip
        if tp > 1:
            parts.append(self._collective("all_reduce", m, tp, r.layers))
        return parts

    def state(self, sequences: Array) -> list[Operator]:
        """Return the read and write of recurrent states in decode, for (N,) sequences."""
        r = self.model.recurrent
        if r is None:
            return []
        items = _split(r.state_items, self.deployment.tp) * STATE_BYTES / 2.0
        return [
            _elementwise("recurrent", "rms_norm", sequences, items, r.layers, self.formats.rest)
        ]

    def _dense_rows(self, m: Array, f: Formats) -> list[Operator]:
        model, tp, count = self.model, self.deployment.tp, self.model.mlp_layers
        if not count:
            return []
        parts = [
            self._linear("mlp", m, _split(model.mlp_width, tp), model.hidden, count, f.linear),
            _elementwise("activation", "silu_mul" if model.gated_mlp else "gelu", m,
                  _split(model.mlp_width, tp), count, f.rest),
            self._linear("mlp", m, model.hidden, _split(model.intermediate, tp), count, f.linear),
        ]  # fmt: skip
        if tp > 1:
            parts.append(self._collective("all_reduce", m, tp, count))
        return parts

    def _expert_rows(self, m: Array, f: Formats) -> list[Operator]:
        model, d = self.model, self.deployment
        e = model.experts
        if e is None:
            return []
        tokens = m * d.dp  # the experts process the tokens of all attention groups
        width = e.intermediate / d.expert_tp
        columns = {
            "tokens": tokens,
            "hidden": _constant_like(m, e.latent_hidden or model.hidden),
            # The "experts" operation assumes three matrices; experts without a gate have two.
            "width": _constant_like(m, width * e.matrices / 3.0),
            "experts": _constant_like(m, e.count),
            "top_k": _constant_like(m, e.top_k),
            "ep": _constant_like(m, d.ep),
        }
        parts = [
            _matmul("router", m, e.count, model.hidden, e.layers, f.rest),
            _elementwise("router", "argmax", m, e.count, e.layers, f.rest),
            Operator("experts", "experts", {"dtype": f.experts}, columns, e.layers),
        ]
        if e.shared_intermediate:
            shared = _split(e.shared_intermediate, d.tp)
            up = (2 if e.gated else 1) * shared
            parts += [
                self._linear("shared", m, up, model.hidden, e.layers, f.linear),
                _elementwise("activation", "silu_mul", m, up, e.layers, f.rest),
                self._linear("shared", m, model.hidden, shared, e.layers, f.linear),
            ]
        if e.latent_hidden:
            parts.append(
                _matmul("router", m, 2 * e.latent_hidden, model.hidden, e.layers, f.linear)
            )
        if d.dp > 1:
            # Gather the tokens of all groups for the experts, then scatter the results back.
            parts.append(self._collective("all_gather", tokens, d.world, e.layers))
            parts.append(self._collective("reduce_scatter", tokens, d.world, e.layers))
        elif d.tp > 1:
            parts.append(self._collective("all_reduce", m, d.tp, e.layers))
        return parts

    def _linear(self, group: str, m: Array, n: float, k: float, count: int, dtype: str) -> Operator:
        """Return a GEMM of the layers; its activations may already be quantized."""
        operator = _matmul(group, m, n, k, count, dtype)
        if self.fused_quantize and dtype in ("fp8", "int8"):
            config_key = {"dtype": dtype, "quantize": "fused"}
            return Operator(group, "matmul", config_key, operator.columns, count)
        return operator

    def _collective(self, op: str, rows: Array, ranks: int, count: int) -> Operator:
        size = rows * self.model.hidden * 2.0
        config_key = {"op": op, "world_size": str(ranks)}
        return Operator("communication", "collective", config_key, {"bytes": size}, count)


def _split(width: int, ways: int) -> int:
    """Return a rank's share of a width, rounded up (the width is padded)."""
    return -(-width // ways)


def _constant_like(like: Array, value: float) -> Array:
    return np.full(like.shape, float(value))


def _matmul(group: str, m: Array, n: float, k: float, count: int, dtype: str) -> Operator:
    columns = {"m": m, "n": _constant_like(m, n), "k": _constant_like(m, k)}
    return Operator(group, "matmul", {"dtype": dtype}, columns, count)


def _elementwise(
    group: str, op: str, rows: Array, width: float, count: int, dtype: str
) -> Operator:
    columns = {"rows": rows, "width": _constant_like(rows, width)}
    return Operator(group, "elementwise", {"op": op, "dtype": dtype}, columns, count)
