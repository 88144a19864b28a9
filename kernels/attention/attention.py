"""Attention: prefill is arithmetic that grows with length squared, decode is reading the KV cache.

Both go through ``scaled_dot_product_attention``, with the backend that it picks here. In
decode one query token a sequence meets ``kv_len`` cached ones; the query heads that share a KV
head are laid side by side as if they were tokens, so the cache is read once for the group instead
of once a head (without it, grouped-query decode on a processor is ten times slower).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError, deviation
from groundspeed.kernels.operands import OperandPool


def attend_prefill(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of a whole prompt.

    Parameters
    ----------
    q : (batch, heads, seq_len, head_dim) Tensor
    k, v : (batch, kv_heads, seq_len, head_dim) Tensor

    Returns
    -------
    (batch, heads, seq_len, head_dim) Tensor
    """
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)


def attend_decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of one new token a sequence to its cache.

    Parameters
    ----------
    q : (batch, heads, 1, head_dim) Tensor
    k, v : (batch, kv_heads, kv_len, head_dim) Tensor

    Returns
    -------
    (batch, heads, 1, head_dim) Tensor
    """
    batch, heads, _, head_dim = q.shape
    kv_heads = k.shape[1]
    group = q.view(batch, kv_heads, heads // kv_heads, head_dim)
    return F.scaled_dot_product_attention(group, k, v).reshape(batch, heads, 1, head_dim)


@dataclass(frozen=True)
class _Attention:
    dtype: str
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """The data type of activations and cache."""
        return {"dtype": self.dtype}


@dataclass(frozen=True)
class PrefillAttention(_Attention):
    """Causal self-attention over a prompt."""

    operation: str = "attention_prefill"

    def cost(self, case: Case) -> Cost:
        """Scores and weighted sum of the causal half; Q, K, V read, output written."""
        b, s, h, kv, d = _sizes(case, "seq_len")
        item = DTYPES[self.dtype].itemsize
        flops = 4.0 * b * h * d * s * (s + 1) / 2
        return Cost(flops, float(item * b * s * d * (h + 2 * kv)), float(item * b * s * d * h))

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One attention for each of enough operand sets."""

        def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Call:
            return lambda: attend_prefill(q, k, v)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [attention(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64 attention, written out."""
        q, k, v = self._operands(case, pool)
        return _check(attend_prefill(q, k, v), q, k, v, causal=True)

    def _operands(
        self, case: Case, pool: OperandPool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        b, s, h, kv, d = _sizes(case, "seq_len")
        dtype = DTYPES[self.dtype]
        k, v = pool.take((b, kv, s, d), dtype), pool.take((b, kv, s, d), dtype)
        return pool.take((b, h, s, d), dtype), k, v


@dataclass(frozen=True)
class DecodeAttention(_Attention):
    """One new token a sequence against its cache."""

    operation: str = "attention_decode"

    def cost(self, case: Case) -> Cost:
        """The whole cache up to ``kv_len`` is read; query and output are small."""
        b, s, h, kv, d = _sizes(case, "kv_len")
        item = DTYPES[self.dtype].itemsize
        read = item * b * d * (2 * kv * s + h)
        return Cost(4.0 * b * h * d * s, float(read), float(item * b * d * h))

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One attention for each of enough caches to be cold."""

        def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Call:
            return lambda: attend_decode(q, k, v)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [attention(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64 attention, written out."""
        q, k, v = self._operands(case, pool)
        return _check(attend_decode(q, k, v), q, k, v, causal=False)

    def _operands(
        self, case: Case, pool: OperandPool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        b, s, h, kv, d = _sizes(case, "kv_len")
        dtype = DTYPES[self.dtype]
        k, v = pool.take((b, kv, s, d), dtype), pool.take((b, kv, s, d), dtype)
        return pool.take((b, h, 1, d), dtype), k, v


def _sizes(case: Case, length: str) -> tuple[int, int, int, int, int]:
    b, s, h, kv, d = (int(case[c]) for c in ("batch", length, "heads", "kv_heads", "head_dim"))
    if h % kv:
        raise UnsupportedCaseError(f"{h} query heads do not divide into {kv} KV heads")
    return b, s, h, kv, d


def _check(
    got: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
) -> float:
    """Compare the first and last sequence's first and last head with float64."""
    if not torch.isfinite(got).all():
        return float("inf")
    worst = 0.0
    group = q.shape[1] // k.shape[1]
    for b, h in {(0, 0), (q.shape[0] - 1, q.shape[1] - 1)}:
        qs, ks, vs = q[b, h].double(), k[b, h // group].double(), v[b, h // group].double()
        scores = qs @ ks.T / q.shape[-1] ** 0.5
        if causal:
            ones = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(~ones.tril(), float("-inf"))
        # Weights sum to one and values are normal, so an element is of order one at most.
        expected = scores.softmax(-1) @ vs
        worst = max(worst, deviation(got[b, h], expected, 1.0, got.dtype))
    return worst
