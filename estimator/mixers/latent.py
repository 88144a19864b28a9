"""Multi-head latent attention (MLA, DeepSeek), dense or sparse.

The cache holds one compressed vector per token, from which all heads read their keys and values.
In decode the projections out of the latent space are absorbed into queries and outputs, so the
kernel reads the compressed vectors only. In prefill keys and values are projected up first.

Sparse attention (DeepSeek V3.2): a small *index* scores every cached token, and attention reads the
``index_top_k`` best. The index reads one short vector of every cached token.
"""

from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.graph.operator import Operator, constant, elementwise, matmul
from groundspeed.estimator.mixers.mixer import Shard
from groundspeed.profiles.operations import Array, item_bytes

INDEX_ITEM_BYTES = 1.0
"""[bytes] Size of one element of the index's keys, which are cached in 8 bit."""


@dataclass(frozen=True)
class LatentAttention:
    """Layers with latent attention."""

    layers: int
    hidden: int
    heads: int
    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    index_heads: int = 0
    index_dim: int = 0
    index_top_k: int = 0

    @property
    def cached(self) -> int:
        """Number of elements per token in a layer's cache, without the keys of the index."""
        return self.kv_rank + self.rope_dim

    @property
    def query_dim(self) -> int:
        """Number of elements of a query head."""
        return self.nope_dim + self.rope_dim

    @property
    def reduces(self) -> bool:
        """True: the heads are split over the ranks."""
        return True

    def parameters(self) -> int:
        """Return the number of parameters of one layer."""
        h, queries = self.hidden, self.heads * self.query_dim
        compressed = self.query_rank * (h + 1 + queries) if self.query_rank else h * queries
        cache = h * self.cached + self.kv_rank
        up = self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        index = 0
        if self.index_heads:
            # Index: queries from the compressed queries, one key, head weights, a norm.
            index = self.index_heads * self.index_dim * self.query_rank + h * self.index_dim
            index += h * self.index_heads + 2 * self.index_dim
        return compressed + cache + up + self.heads * self.value_dim * h + index

    def cached_items(self, tokens: float) -> float:
        """Return the elements of the compressed vectors and of the index's keys."""
        return float(self.layers * (self.cached + self.index_dim)) * tokens

    def read_items(self, tokens: float) -> float:
        """Return the elements that a new token reads: the best ones, and half an index key each."""
        seen = min(tokens, float(self.index_top_k)) if self.index_top_k else tokens
        return float(self.layers) * (self.cached * seen + 0.5 * self.index_dim * tokens)

    def cache_ways(self, tp: int) -> float:
        """Return 1: every rank needs the compressed vectors of all tokens."""
        return 1.0

    def state_bytes(self) -> float:
        """Return 0: attention has no state of fixed size."""
        return 0.0

    def rows(self, m: Array, at: Shard) -> list[Operator]:
        """Return the projections, norms and the rotary embedding."""
        f, count, heads = at.formats, self.layers, self.heads // at.tp
        first = self.query_rank + self.cached if self.query_rank else self.cached
        depth = self.query_rank or self.hidden
        parts = at.linear("qkv", m, first, self.hidden, count)
        parts += at.linear("qkv", m, heads * self.query_dim, depth, count)
        if self.index_heads:
            parts += at.linear("index", m, self.index_heads * self.index_dim, depth, count)
        parts += at.linear("out", m, self.hidden, heads * self.value_dim, count)
        width = heads * self.query_dim + self.cached
        if not at.fused:
            parts.append(elementwise("norm", "rms_norm", m, first, count, f.rest))
        parts.append(elementwise("rotary", "rotary", m, width, count, f.rest))
        return parts

    def decode(self, sequences: Array, context: Array, at: Shard) -> list[Operator]:
        """Return attention over the compressed vectors, with absorbed projections."""
        f, heads = at.formats, self.heads // at.tp
        seen = np.minimum(context, float(self.index_top_k)) if self.index_top_k else context
        columns = {"batch": sequences, "kv_len": seen, "heads": constant(seen, heads)}
        config_key = {"dtype": f.activations, "kv_dtype": f.cache, "library": at.kernels}
        parts = [
            Operator("attention", "mla_decode", config_key, columns, self.layers),
            matmul("absorb", sequences, heads * self.kv_rank, self.nope_dim, self.layers, f.rest),
            matmul("absorb", sequences, heads * self.value_dim, self.kv_rank, self.layers, f.rest),
        ]
        if self.index_top_k:
            width = context * (self.index_dim * INDEX_ITEM_BYTES / item_bytes(f.rest))
            parts.append(elementwise("index", "argmax", sequences, width, self.layers, f.rest))
        return parts

    def prefill(self, prompts: Array, length: Array, at: Shard) -> list[Operator]:
        """Return causal attention of whole prompts, after the projection of keys and values."""
        f, heads = at.formats, self.heads // at.tp
        columns = {"batch": prompts, "seq_len": length, "heads": constant(length, heads)}
        config_key = {"dtype": f.activations, "kv_dtype": f.cache, "library": at.kernels}
        width = heads * (self.nope_dim + self.value_dim)
        return [
            Operator("attention", "mla_prefill", config_key, columns, self.layers),
            *at.linear("qkv", prompts * length, width, self.kv_rank, self.layers),
        ]
