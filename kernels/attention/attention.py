"""Attention through torch, for prefill (compute-bound) and for decode (memory-bound).

The FLOPs of prefill grow with the square of the prompt length; decode mainly reads the KV cache.
Both call ``scaled_dot_product_attention``, which chooses its own backend. In decode, one query
token per sequence attends to ``kv_len`` cached tokens. The query heads that share a KV head are
passed as if they were tokens of one head, so the cache is read once per group instead of once per
head. Without this, grouped-query decode on a CPU is ten times slower.

    kernel = PrefillAttention(dtype="bfloat16")
    case = {"batch": 1, "seq_len": 2048, "heads": 32, "kv_heads": 8, "head_dim": 128}
    calls = kernel.prepare(case, pool)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.kernel import (
    CHECK_EVERY,
    DTYPES,
    Call,
    Case,
    Cost,
    UnsupportedCaseError,
    deviation,
    spread,
)
from groundspeed.kernels.operands import OperandPool

CHECK_ROWS = 256
"""Approximate number of rows of a head that are compared with float64: one of every tile of 128
rows for prompts of up to 32768 tokens."""


def attend_prefill(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute causal attention over a whole prompt.

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


def attend_window(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int, masks: dict[int, torch.Tensor]
) -> torch.Tensor:
    """Compute causal attention in which each token sees the last ``window`` tokens only.

    The prompt is cut into blocks of a window. A block sees itself and the block before, which makes
    as many pairs of tokens as causal attention over two windows.

    Parameters
    ----------
    q : (batch, heads, seq_len, head_dim) Tensor
    k, v : (batch, kv_heads, seq_len, head_dim) Tensor
    window : int
        [tokens] Number of tokens that a token sees, with itself.
    masks : dict
        Masks by the length of a block, kept from call to call; filled by this function.

    Returns
    -------
    (batch, heads, seq_len, head_dim) Tensor
    """
    length = q.shape[2]
    parts = [attend_prefill(q[:, :, :window], k[:, :, :window], v[:, :, :window])]
    for start in range(window, length, window):
        rows = min(window, length - start)
        if rows not in masks:
            here = torch.arange(window, window + rows, device=q.device)[:, None]
            there = torch.arange(window + rows, device=q.device)
            masks[rows] = (there <= here) & (there > here - window)
        seen = slice(start - window, start + rows)
        grouped = q.shape[1] != k.shape[1]
        parts.append(
            F.scaled_dot_product_attention(
                q[:, :, start : start + rows], k[:, :, seen], v[:, :, seen],
                attn_mask=masks[rows], enable_gqa=grouped,
            )
        )  # fmt: skip
    return torch.cat(parts, dim=2)


def attend_decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute the attention of one new token per sequence over its KV cache.

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
        """Data type of the activations and of the KV cache."""
        return {"dtype": self.dtype}


@dataclass(frozen=True)
class PrefillAttention(_Attention):
    """Prefill attention: causal self-attention over a prompt."""

    operation: str = "attention_prefill"

    def cost(self, case: Case) -> Cost:
        """Return FLOPs of the causal half (scores, weighted sum); Q, K, V read, output written."""
        b, s, h, kv, d = _sizes(case, "seq_len")
        item = DTYPES[self.dtype].itemsize
        flops = 4.0 * b * h * d * s * (s + 1) / 2
        return Cost(flops, float(item * b * s * d * (h + 2 * kv)), float(item * b * s * d * h))

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per operand set, with enough sets to keep the operands cold."""

        def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Call:
            return lambda: attend_prefill(q, k, v)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [attention(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with attention computed explicitly in float64."""
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
    """Decode attention: one new token per sequence attends to its KV cache."""

    operation: str = "attention_decode"

    def cost(self, case: Case) -> Cost:
        """Return the cost of reading the KV cache up to ``kv_len``; query and output are small."""
        b, s, h, kv, d = _sizes(case, "kv_len")
        item = DTYPES[self.dtype].itemsize
        read = item * b * d * (2 * kv * s + h)
        return Cost(4.0 * b * h * d * s, float(read), float(item * b * d * h))

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per KV cache, with enough caches to keep them cold."""

        def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Call:
            return lambda: attend_decode(q, k, v)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [attention(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with attention computed explicitly in float64."""
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
        raise UnsupportedCaseError(f"{h} query heads are not a multiple of {kv} KV heads")
    return b, s, h, kv, d


def attention_deviation(got: torch.Tensor, expected: torch.Tensor, tokens: int) -> float:
    """Return the error of attention in units of the tolerance.

    The output of a row is a mean of values, so it shrinks with the square root of the number of
    tokens: the tolerance follows the magnitude of each row. A fixed one would accept all zeros for
    long contexts.

    Parameters
    ----------
    got, expected : (rows, head_dim) Tensor
        Rows of one head, and the same rows in float64.
    tokens : int
        Number of tokens that a row attends to; their products are summed in float32.
    """
    magnitude = expected.square().mean(-1, keepdim=True).sqrt()
    return deviation(got, expected, magnitude, got.dtype, terms=tokens)


def _check(
    got: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
) -> float:
    """Compare rows of three heads with float64: of the first, middle and last sequence and head."""
    if not torch.isfinite(got).all():
        return float("inf")
    worst = 0.0
    batch, heads, rows, head_dim = q.shape
    group = heads // k.shape[1]
    at = spread(rows, q.device, every=max(CHECK_EVERY, rows // CHECK_ROWS))
    for b, h in {(0, 0), (batch // 2, heads // 2), (batch - 1, heads - 1)}:
        qs, ks, vs = q[b, h][at].double(), k[b, h // group].double(), v[b, h // group].double()
        scores = qs @ ks.T / head_dim**0.5
        if causal:
            later = torch.arange(ks.shape[0], device=q.device) > at[:, None]
            scores = scores.masked_fill(later, float("-inf"))
        expected = scores.softmax(-1) @ vs
        worst = max(worst, attention_deviation(got[b, h][at], expected, k.shape[2]))
    return worst
