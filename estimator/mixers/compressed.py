"""Compressed attention (DeepSeek-V4): one key-value vector for several tokens, and a window.

All heads read one cached vector of ``head_dim`` elements. Each layer sees the last ``window``
tokens one by one, and everything before in a compressed form: a small network (the compressor)
joins ``ratio`` tokens into one vector. With a ratio of 4 an index picks the ``index_top_k`` best of
them; with 128 there are so few that all are read; 0 means the window alone. So a new token at a
context of 8,192 reads 128 + 1,024 vectors in a layer of ratio 4, and 128 + 64 in one of ratio 128.

The output projection is split into groups of low rank. The residual is ``streams`` wide: small
matrices mix the streams before and after each part of a layer (hyper-connections).

Sizes follow the configuration and the public model code of vLLM and SGLang (``deepseek_v4``). Its
kernels were measured on few GPUs; here they are those of latent attention over as many vectors.
"""

from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.graph.operator import Operator, constant, elementwise, matmul
from groundspeed.estimator.mixers.mixer import Shard
from groundspeed.profiles.operations import Array

OVERLAPPED = 4
"""Compression ratio whose compressor looks at two blocks of tokens, and which has an index."""

FLOAT32_BYTES = 4.0


@dataclass(frozen=True)
class CompressedAttention:
    """Layers with compressed attention of one ratio."""

    layers: int
    hidden: int
    heads: int
    head_dim: int
    query_rank: int
    output_rank: int
    output_groups: int
    window: int
    ratio: int
    """Tokens of one compressed vector; 0: none, the window alone."""
    index_heads: int
    index_dim: int
    index_top_k: int
    streams: int

    @property
    def indexed(self) -> bool:
        """True if an index picks which compressed vectors are read."""
        return self.ratio == OVERLAPPED

    @property
    def blocks(self) -> int:
        """Number of blocks of ``ratio`` tokens that the compressor looks at."""
        return 0 if not self.ratio else 2 if self.indexed else 1

    @property
    def reduces(self) -> bool:
        """True: the heads are split over the ranks."""
        return True

    def parameters(self) -> int:
        """Return the number of parameters of one layer."""
        h, width = self.hidden, self.heads * self.head_dim
        queries = self.query_rank * (h + 1 + width)
        cache = self.head_dim * (h + 1)
        out = width * self.output_rank + self.output_groups * self.output_rank * h
        index = 0
        if self.indexed:
            index = self.query_rank * self.index_heads * self.index_dim + h * self.index_heads
            index += self._compressor(self.index_dim)
        mixing = (2 + self.streams) * self.streams
        hyper = 2 * (mixing * (self.streams * h + 1) + 3)
        return queries + cache + out + self.heads + self._compressor(self.head_dim) + index + hyper

    def _compressor(self, dim: int) -> int:
        """Return the parameters of a compressor: values, gates, positions and a norm."""
        wide = self.blocks * dim
        return 2 * self.hidden * wide + self.ratio * wide + (dim if wide else 0)

    def cached_items(self, tokens: float) -> float:
        """Return the elements of the window, the compressed vectors and the index's keys."""
        kept = min(tokens, float(self.window)) * self.head_dim
        if self.ratio:
            each = self.head_dim + (self.index_dim if self.indexed else 0)
            kept += tokens / self.ratio * each
        return self.layers * kept

    def read_items(self, tokens: float) -> float:
        """Return the elements that a new token reads."""
        seen = float(self._seen(np.array([tokens]))[0]) * self.head_dim
        if self.indexed:
            seen += tokens / self.ratio * self.index_dim
        return self.layers * seen

    def _seen(self, context: Array) -> Array:
        """Return how many vectors a token after ``context`` others reads."""
        seen: Array = np.minimum(context, float(self.window))
        if self.ratio:
            compressed = context / self.ratio
            seen = seen + (
                np.minimum(compressed, float(self.index_top_k)) if self.indexed else compressed
            )
        return seen

    def _mean_seen(self, length: Array) -> Array:
        """Return the mean of :meth:`_seen` over the tokens of prompts."""

        def mean(most: float, per: float) -> Array:
            # The mean over t of min(t / per, most) for t from 0 to the length.
            full = np.minimum(most * per / length, 1.0)
            below: Array = length / per / 2.0
            return np.where(full < 1.0, most * (1.0 - full / 2.0), below)

        seen = mean(float(self.window), 1.0)
        if self.ratio:
            most = float(self.index_top_k) if self.indexed else np.inf
            seen = seen + mean(most, float(self.ratio))
        return seen

    def cache_ways(self, tp: int) -> float:
        """Return 1: every rank needs the vectors of all tokens."""
        return 1.0

    def state_bytes(self) -> float:
        """Return the bytes of the blocks that the compressors have not finished, in 32 bits."""
        slots = self.blocks * self.ratio
        dims = self.head_dim + (self.index_dim if self.indexed else 0)
        return self.layers * 2.0 * slots * self.blocks * dims * FLOAT32_BYTES

    def rows(self, m: Array, at: Shard) -> list[Operator]:
        """Return the projections, compressors, rotary embedding and the mixing of streams."""
        f, count, h = at.formats, self.layers, self.hidden
        heads, groups = self.heads / at.tp, max(1.0, self.output_groups / at.tp)
        parts = at.linear("qkv", m, self.query_rank + self.head_dim, h, count)
        parts += at.linear("qkv", m, heads * self.head_dim, self.query_rank, count)
        if self.ratio:
            wide = self.blocks * (self.head_dim + (self.index_dim if self.indexed else 0))
            parts.append(matmul("compress", m, 2.0 * wide, h, count, f.rest))
            # The unfinished block is read, pooled and written back.
            parts.append(elementwise("compress", "kv_write", m, 2.0 * wide, count, f.rest))
        if self.indexed:
            width = self.index_heads * self.index_dim
            parts += at.linear("index", m, width, self.query_rank, count)
            # Queries of the index are rotated and quantized.
            parts.append(elementwise("index", "fp8_quantize", m, width, count, f.rest))
        # A group of heads is projected to a low rank of its own: as many weights as all together.
        depth = self.heads * self.head_dim / self.output_groups
        parts += at.linear("out", m, groups * self.output_rank, depth, count)
        parts += at.linear("out", m, h, groups * self.output_rank, count)
        parts.append(
            elementwise("norm", "rms_norm", m, self.query_rank + self.head_dim, count, f.rest)
        )
        turned = heads * self.head_dim + self.head_dim
        parts.append(elementwise("rotary", "rotary", m, turned, count, f.rest))
        streams = self.streams * h
        mixing = float((2 + self.streams) * self.streams)
        return [
            *parts,
            elementwise("streams", "rms_norm", m, streams, 2 * count, f.rest),
            matmul("streams", m, mixing, streams, 2 * count, f.rest),
            # The mixing matrix is made doubly stochastic, by iterations inside one kernel.
            elementwise("streams", "rms_norm", m, mixing, 2 * count, f.rest),
            elementwise("streams", "residual_add", m, streams, 2 * count, f.rest),
        ]

    def decode(self, sequences: Array, context: Array, at: Shard) -> list[Operator]:
        """Return attention over the window and the chosen vectors, and the index."""
        seen = np.maximum(self._seen(context), 1.0)
        parts = [self._attention("mla_decode", sequences, seen, at)]
        if self.indexed:
            scores = context / self.ratio
            columns = scores * self.index_dim / 2.0
            rest, count = at.formats.rest, self.layers
            parts.append(elementwise("index", "argmax", sequences, columns, count, rest))
            # The scores, in 32 bits, are read twice to find the largest.
            parts.append(elementwise("index", "argmax", sequences, 4.0 * scores, count, rest))
        return parts

    def prefill(self, prompts: Array, length: Array, at: Shard) -> list[Operator]:
        """Return attention of whole prompts over what each token sees, and the index.

        The law of latent attention's prefill counts 320 multiplications a pair of tokens and head
        (192 for the score, 128 for the value); here they are twice ``head_dim``.
        """
        f = at.formats
        pairs = 2.0 * np.maximum(self._mean_seen(length), 1.0)
        alike = prompts * length / pairs * (2.0 * self.head_dim / 320.0)
        parts = [self._attention("mla_prefill", alike, pairs, at)]
        if self.indexed:
            scored = np.maximum(length / self.ratio / 2.0, 1.0)
            depth = float(self.index_heads * self.index_dim)
            parts.append(matmul("index", prompts * length, scored, depth, self.layers, f.rest))
        return parts

    def _attention(self, operation: str, batch: Array, length: Array, at: Shard) -> Operator:
        name = "seq_len" if operation == "mla_prefill" else "kv_len"
        heads = constant(length, max(1, self.heads // at.tp))
        config_key = {
            "dtype": at.formats.activations, "kv_dtype": at.formats.cache, "library": at.kernels,
        }  # fmt: skip
        return Operator(
            "attention", operation, config_key,
            {"batch": batch, name: length, "heads": heads}, self.layers,
        )  # fmt: skip
