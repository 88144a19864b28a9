"""Grouped-query attention over all tokens, or over a window of the last ones.

Query heads share KV heads in groups (as many KV heads as heads: multi-head attention; one:
multi-query). A layer with a window attends to the last ``window`` tokens and caches no others.
"""

from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.graph.operator import Operator, constant, elementwise
from groundspeed.estimator.mixers.mixer import Shard
from groundspeed.profiles.operations import Array


@dataclass(frozen=True)
class Grouped:
    """Layers with grouped-query attention."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    """[tokens] Number of last tokens that a token attends to; None: all."""
    values_are_keys: bool = False
    """True if the keys' projection is the values', too (Gemma 4): both are cached all the same."""
    output_gate: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    sinks: bool = False
    qk_norm: bool = False
    qk_norm_whole: bool = False
    layer_norm: bool = False
    parallel_block: bool = False

    @property
    def width(self) -> int:
        """Number of elements of all query heads of a token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Number of elements of all key heads of a token; the values have the same number."""
        return self.kv_heads * self.head_dim

    @property
    def projections(self) -> int:
        """Number of projections of keys and values."""
        return 1 if self.values_are_keys else 2

    @property
    def reduces(self) -> bool:
        """True, unless the MLP's output is summed with that of the attention."""
        return not self.parallel_block

    def parameters(self) -> int:
        """Return the number of parameters of one layer."""
        queries = self.width * (2 if self.output_gate else 1)
        projected = queries + self.projections * self.kv_width
        normed = 2 * self.head_dim if self.qk_norm else 0
        normed += self.width + self.kv_width if self.qk_norm_whole else 0
        return (
            self.hidden * projected
            + (projected if self.qkv_bias else 0)
            + self.width * self.hidden
            + (self.hidden if self.output_bias else 0)
            + normed
            + (self.heads if self.sinks else 0)
        )

    def cached_items(self, tokens: float) -> float:
        """Return the elements of keys and values of all layers."""
        kept = tokens if self.window is None else min(tokens, float(self.window))
        return 2.0 * self.layers * self.kv_width * kept

    def read_items(self, tokens: float) -> float:
        """Return the elements that a new token reads: all that are kept."""
        return self.cached_items(tokens)

    def cache_ways(self, tp: int) -> float:
        """Return over how many ranks the KV heads are split: each rank has at least one."""
        return float(min(tp, self.kv_heads))

    def state_bytes(self) -> float:
        """Return 0: attention has no state of fixed size."""
        return 0.0

    def rows(self, m: Array, at: Shard) -> list[Operator]:
        """Return the projections, norms of queries and keys, and the rotary embedding."""
        f, count = at.formats, self.layers
        kv = max(1, self.kv_heads // at.tp) * self.head_dim
        queries = self.width // at.tp * (2 if self.output_gate else 1)
        parts = at.linear("qkv", m, queries + self.projections * kv, self.hidden, count)
        parts += at.linear("out", m, self.hidden, self.width // at.tp, count)
        if at.fused:
            if self.qk_norm or self.qk_norm_whole:
                parts.append(elementwise("norm", "rms_norm", m, queries + 2 * kv, count, f.rest))
            # The rotary embedding also writes keys and values to the cache.
            return [*parts, elementwise("rotary", "rotary", m, queries + 2 * kv, count, f.rest)]
        norm = "layer_norm" if self.layer_norm else "rms_norm"
        if self.qk_norm:
            parts += [
                elementwise("norm", norm, m * (self.heads // at.tp), self.head_dim, count, f.rest),
                elementwise("norm", norm, m * (kv / self.head_dim), self.head_dim, count, f.rest),
            ]
        if self.qk_norm_whole:
            parts.append(elementwise("norm", norm, m, queries + kv, count, f.rest))
        return [
            *parts,
            elementwise("rotary", "rotary", m, queries + kv, count, f.rest),
            elementwise("kv_write", "kv_write", m, kv, 2 * count, f.rest),
        ]

    def decode(self, sequences: Array, context: Array, at: Shard) -> list[Operator]:
        """Return attention of new tokens over the cache."""
        seen = context if self.window is None else np.minimum(context, float(self.window))
        return [self._attention("attention_decode", sequences, seen, at)]

    def prefill(self, prompts: Array, length: Array, at: Shard) -> list[Operator]:
        """Return causal attention of whole prompts."""
        if self.window is None or float(length.max()) <= self.window:
            return [self._attention("attention_prefill", prompts, length, at)]
        window = float(self.window)
        inside = np.minimum(length, window)
        if at.fused:
            # A kernel that skips what lies outside the window: as many prompts of window length
            # as have the same number of pairs of tokens.
            pairs = np.where(length > window, (length - window / 2.0) / (window / 2.0), 1.0)
            return [self._attention("attention_prefill", prompts * pairs, inside, at)]
        # Blocks of a window: the first sees itself; each other sees itself and its predecessor,
        # which makes as many pairs as causal attention over two windows.
        blocks = np.maximum(length / window - 1.0, 0.0)
        two = np.maximum(np.minimum(length, 2.0 * window), inside)
        later = self._attention("attention_prefill", np.maximum(prompts * blocks, 1e-6), two, at)
        return [self._attention("attention_prefill", prompts, inside, at), later]

    def _attention(self, operation: str, batch: Array, length: Array, at: Shard) -> Operator:
        name = "seq_len" if operation == "attention_prefill" else "kv_len"
        columns = {
            "batch": batch,
            name: length,
            "heads": constant(length, max(1, self.heads // at.tp)),
            "kv_heads": constant(length, max(1, self.kv_heads // at.tp)),
            "head_dim": constant(length, self.head_dim),
        }
        f = at.formats
        config_key = {"dtype": f.activations, "kv_dtype": f.cache, "library": at.kernels}
        return Operator("attention", operation, config_key, columns, self.layers)
