"""Grouped-query attention over the best blocks of past tokens (MiniMax-M3).

An index with few heads scores every block of 128 tokens; a new token attends to the 16 best, so to
2,048 tokens however long the context is. The cache keeps all tokens, and one key of the index each.
Up to 2,048 tokens it is plain attention, plus the index.
"""

from dataclasses import dataclass, replace

import numpy as np

from groundspeed.estimator.graph.operator import Operator, elementwise, matmul
from groundspeed.estimator.mixers.grouped import Grouped
from groundspeed.estimator.mixers.mixer import Shard
from groundspeed.profiles.operations import Array


@dataclass(frozen=True)
class SparseAttention:
    """Layers with attention over chosen blocks."""

    attention: Grouped
    index_heads: int
    index_dim: int
    seen: int
    """[tokens] Number of past tokens that a new token attends to."""

    @property
    def layers(self) -> int:
        """Number of layers of this kind."""
        return self.attention.layers

    @property
    def reduces(self) -> bool:
        """True: the heads are split over the ranks."""
        return self.attention.reduces

    def parameters(self) -> int:
        """Return the number of parameters of one layer, with queries and keys of the index."""
        index = (self.index_heads + 1) * self.index_dim * self.attention.hidden
        return self.attention.parameters() + index + 2 * self.index_dim

    def cached_items(self, tokens: float) -> float:
        """Return the elements of keys, values and keys of the index."""
        return self.attention.cached_items(tokens) + self.layers * self.index_dim * tokens

    def read_items(self, tokens: float) -> float:
        """Return the elements that a new token reads."""
        best = min(tokens, float(self.seen))
        return self.attention.read_items(best) + self.layers * self.index_dim * tokens

    def cache_ways(self, tp: int) -> float:
        """Return over how many ranks the KV heads are split."""
        return self.attention.cache_ways(tp)

    def state_bytes(self) -> float:
        """Return 0: attention has no state of fixed size."""
        return 0.0

    def rows(self, m: Array, at: Shard) -> list[Operator]:
        """Return the projections of the attention and of the index."""
        width = (self.index_heads + 1) * self.index_dim
        index = at.linear("index", m, width, self.attention.hidden, self.layers)
        return [*self.attention.rows(m, at), *index]

    def decode(self, sequences: Array, context: Array, at: Shard) -> list[Operator]:
        """Return attention over the best blocks, and the index over all."""
        best = np.minimum(context, float(self.seen))
        parts = self.attention.decode(sequences, best, at)
        width = context * self.index_dim
        return [*parts, elementwise("index", "argmax", sequences, width, self.layers,
                                    at.formats.rest)]  # fmt: skip

    def prefill(self, prompts: Array, length: Array, at: Shard) -> list[Operator]:
        """Return attention like that of a window as long, and the scores of the index."""
        like = replace(self.attention, window=self.seen)
        depth = float(self.index_heads * self.index_dim)
        scored = np.maximum(length / 2.0, 1.0)
        index = matmul("index", prompts * length, scored, depth, self.layers, at.formats.rest)
        return [*like.prefill(prompts, length, at), index]
