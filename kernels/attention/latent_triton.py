"""Multi-head latent attention (MLA, DeepSeek) in Triton: absorbed decode, and prefill.

The cache holds one vector of 512 + 64 numbers per token for all heads: a latent part and a rotary
part. In *decode* the projections out of the latent space are absorbed into the queries, so all
heads attend to the same vectors: the latent part is key and value, the rotary part is key only. One
program serves a block of heads over a split of the context; a second kernel joins the splits. In
*prefill* every head has its own keys of 128 + 64 and values of 128 numbers, and the attention is
causal.

    kernel = LatentDecode(kv_dtype="fp8")
    calls = kernel.prepare({"batch": 8, "kv_len": 4096, "heads": 16}, pool)

Shapes: B batch, H heads, G heads of a block, L latent (512), R rotary (64), N tokens of a block.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (a jitted kernel is launched by indexing it with its grid, which pyright does not understand)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from groundspeed.kernels.attention.attention import CHECK_ROWS, attention_deviation
from groundspeed.kernels.attention.decode_triton import PAGE, join_kernel, splits_for
from groundspeed.kernels.kernel import CHECK_EVERY, DTYPES, Call, Case, Cost, spread
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import compute_units, vendor_of

LATENT, ROTARY, VALUE = 512, 64, 128
"""Sizes of latent part, rotary part and value head: those of DeepSeek V2 to V3.2 and Kimi K2."""

HEADS_A_BLOCK = 16
"""Heads of one program in decode: the smallest tile of the matrix units. Other blocks of heads read
the same cache, which the last-level cache then holds."""

DECODE_TOKENS = 32
"""[tokens] Cached tokens that a decode program loads at once: 36 KiB in 16 bit."""

PREFILL_ROWS, PREFILL_TOKENS = 64, 64
"""[tokens] Tile of queries and of keys in prefill."""


@triton.jit
def latent_decode_kernel(
    ql_ptr, qr_ptr, cache_ptr, table_ptr, length_ptr, part_ptr, lse_ptr, scale, pages,
    H: tl.constexpr, L: tl.constexpr, R: tl.constexpr, PAGE: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compute the partial attention of one split, for one sequence and one block of heads."""
    b, block, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(length_ptr + b)
    reach = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK_N) * BLOCK_N
    start = split * reach
    end = min(start + reach, length)
    g, n = block * BLOCK_G + tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_N)
    at_l, at_r = tl.arange(0, L), tl.arange(0, R)
    heads = b * H + g
    there = (g < H)[:, None]
    ql = tl.load(ql_ptr + heads[:, None] * L + at_l[None, :], mask=there, other=0.0)
    qr = tl.load(qr_ptr + heads[:, None] * R + at_r[None, :], mask=there, other=0.0)
    most = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_G,), tl.float32)
    acc = tl.zeros((BLOCK_G, L), tl.float32)
    for first in range(start, end, BLOCK_N):
        token = first + n
        inside = token < end
        page = tl.load(table_ptr + b * pages + token // PAGE, mask=inside, other=0)
        row = (page.to(tl.int64) * PAGE + token % PAGE) * (L + R)
        seen = inside[:, None]
        latent = tl.load(cache_ptr + row[:, None] + at_l[None, :], mask=seen, other=0.0)
        rotary = tl.load(cache_ptr + row[:, None] + L + at_r[None, :], mask=seen, other=0.0)
        latent = latent.to(ql.dtype)
        score = tl.dot(ql, latent.T) + tl.dot(qr, rotary.to(ql.dtype).T)
        score = tl.where(inside[None, :], score * scale, float("-inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        shrink = tl.exp(most - higher)
        weight = tl.exp(score - higher[:, None])
        acc = acc * shrink[:, None] + tl.dot(weight.to(ql.dtype), latent)
        total = total * shrink + tl.sum(weight, 1)
        most = higher
    # An empty split (a short sequence in a batch with longer ones) gets weight zero.
    safe = tl.where(total > 0.0, total, 1.0)
    lse = tl.where(total > 0.0, most + tl.log(safe), float("-inf"))
    out = heads * SPLITS + split
    tl.store(lse_ptr + out, lse, mask=g < H)
    tl.store(part_ptr + out[:, None] * L + at_l[None, :], acc / safe[:, None], mask=there)


@triton.jit
def latent_prefill_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, scale, length,
    D: tl.constexpr, R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compute causal attention of one tile of queries of one head; keys have D + R numbers."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    m, n = tile * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    at_d, at_r = tl.arange(0, D), tl.arange(0, R)
    keys = head * length * (D + R)
    values = head * length * D
    rows = (m < length)[:, None]
    qd = tl.load(q_ptr + keys + m[:, None] * (D + R) + at_d[None, :], mask=rows, other=0.0)
    qr = tl.load(q_ptr + keys + m[:, None] * (D + R) + D + at_r[None, :], mask=rows, other=0.0)
    most = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    for first in range(0, min((tile + 1) * BLOCK_M, length), BLOCK_N):
        token = first + n
        inside = (token < length)[:, None]
        at = k_ptr + keys + token[:, None] * (D + R)
        kd = tl.load(at + at_d[None, :], mask=inside, other=0.0)
        kr = tl.load(at + D + at_r[None, :], mask=inside, other=0.0)
        score = (tl.dot(qd, kd.T) + tl.dot(qr, kr.T)) * scale
        seen = (token[None, :] <= m[:, None]) & (token < length)[None, :]
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        shrink = tl.exp(most - higher)
        weight = tl.exp(score - higher[:, None])
        v = tl.load(v_ptr + values + token[:, None] * D + at_d[None, :], mask=inside, other=0.0)
        acc = acc * shrink[:, None] + tl.dot(weight.to(v.dtype), v)
        total = total * shrink + tl.sum(weight, 1)
        most = higher
    tl.store(
        out_ptr + values + m[:, None] * D + at_d[None, :],
        (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=rows,
    )  # fmt: skip


@dataclass(frozen=True)
class LatentCache:
    """A paged cache of latent vectors, with the absorbed queries of one decode step."""

    latent_q: torch.Tensor
    """(B, H, L) Queries in the latent space."""
    rotary_q: torch.Tensor
    """(B, H, R) Rotary part of the queries."""
    cache: torch.Tensor
    """(pages of all sequences, PAGE, L + R) Cached vectors."""
    table: torch.Tensor
    """(B, pages of a sequence) int32 Block table: index of each page in ``cache``."""
    lengths: torch.Tensor
    """(B,) int32 Number of cached tokens of each sequence."""


SCALE = (VALUE + ROTARY) ** -0.5
"""Scale of the scores: that of the heads before absorption."""


def latent_attention(cache: LatentCache, out: torch.Tensor, splits: int) -> torch.Tensor:
    """Compute the attention of one token per sequence in the latent space.

    Parameters
    ----------
    cache : LatentCache
    out : (B, H, L) Tensor
        Receives the result.
    splits : int
        Number of splits of the context; a power of two.
    """
    batch, heads, latent = cache.latent_q.shape
    device = cache.latent_q.device
    part = torch.empty(batch * heads * splits * latent, dtype=torch.float32, device=device)
    lse = torch.empty(batch * heads * splits, dtype=torch.float32, device=device)
    latent_decode_kernel[(batch, triton.cdiv(heads, HEADS_A_BLOCK), splits)](
        cache.latent_q, cache.rotary_q, cache.cache, cache.table, cache.lengths, part, lse,
        SCALE, cache.table.shape[1],
        H=heads, L=latent, R=ROTARY, PAGE=PAGE, SPLITS=splits, BLOCK_G=HEADS_A_BLOCK,
        BLOCK_N=DECODE_TOKENS, num_warps=_warps(cache.cache), num_stages=2,
    )  # fmt: skip
    join_kernel[(batch * heads,)](part, lse, out, D=latent, SPLITS=splits, num_warps=4)
    return out


def latent_prefill(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """Compute causal attention of prompts; q, k (B, H, S, D + R), v and out (B, H, S, D)."""
    batch, heads, length, _ = q.shape
    head_dim = v.shape[-1]
    latent_prefill_kernel[(triton.cdiv(length, PREFILL_ROWS), batch * heads)](
        q, k, v, out, SCALE, length,
        D=head_dim, R=ROTARY, BLOCK_M=PREFILL_ROWS, BLOCK_N=PREFILL_TOKENS,
        num_warps=4, num_stages=min(2, vendor_of(q.device).most_stages),
    )  # fmt: skip
    return out


def _warps(cache: torch.Tensor) -> int:
    """Return the warps of a decode program that does not spill registers.

    Widening 8-bit vectors needs twice the registers; the warps of an AMD GPU are twice as wide.
    """
    return 8 if cache.itemsize == 1 and vendor_of(cache.device).name == "nvidia" else 4


@dataclass(frozen=True)
class LatentDecode:
    """Absorbed decode attention over a paged cache of latent vectors in ``kv_dtype``."""

    kv_dtype: str = "bfloat16"
    dtype: str = "bfloat16"
    operation: str = "mla_decode"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type of the queries and of the cache."""
        return {"dtype": self.dtype, "kv_dtype": self.kv_dtype}

    def cost(self, case: Case) -> Cost:
        """Return the cost of reading the cache once for all heads; scores and weighted sum."""
        b, s, h = (int(case[c]) for c in ("batch", "kv_len", "heads"))
        item = DTYPES[self.dtype].itemsize
        stored = 1 if self.kv_dtype == "fp8" else DTYPES[self.kv_dtype].itemsize
        width = LATENT + ROTARY
        read = b * (stored * s * width + item * h * width)
        flops = 2.0 * b * h * s * (2 * LATENT + ROTARY)
        return Cost(flops, float(read), float(item * b * h * LATENT))

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per cache, with enough caches to keep them cold."""

        def step(cache: LatentCache, out: torch.Tensor, splits: int) -> Call:
            return lambda: latent_attention(cache, out, splits)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [step(*self._build(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare heads of the first, the middle and the last sequence with float64."""
        cache, out, splits = self._build(case, pool)
        got = latent_attention(cache, out.fill_(float("nan")), splits)
        if not torch.isfinite(got).all():
            return float("inf")
        worst = 0.0
        batch, heads, latent = got.shape
        at = spread(heads, got.device, every=HEADS_A_BLOCK)
        for b in {0, batch // 2, batch - 1}:
            length = int(cache.lengths[b])
            pages = cache.table[b, : -(-length // PAGE)].long()
            keys = cache.cache[pages].float().reshape(-1, latent + ROTARY)[:length].double()
            q = torch.cat((cache.latent_q[b, at], cache.rotary_q[b, at]), -1).double()
            expected = (q @ keys.T * SCALE).softmax(-1) @ keys[:, :latent]
            worst = max(worst, attention_deviation(got[b, at], expected, length))
        return worst

    def _build(self, case: Case, pool: OperandPool) -> tuple[LatentCache, torch.Tensor, int]:
        b, s, h = (int(case[c]) for c in ("batch", "kv_len", "heads"))
        stored = vendor_of(pool.device).fp8 if self.kv_dtype == "fp8" else DTYPES[self.kv_dtype]
        dtype = DTYPES[self.dtype]
        pages = -(-s // PAGE)
        # The pages are in random order, as they are after hours of serving.
        order = torch.randperm(b * pages, generator=torch.Generator().manual_seed(s))
        cache = LatentCache(
            latent_q=pool.take((b, h, LATENT), dtype),
            rotary_q=pool.take((b, h, ROTARY), dtype),
            cache=pool.take((b * pages, PAGE, LATENT + ROTARY), stored),
            table=order.to(torch.int32).view(b, pages).to(pool.device),
            lengths=torch.full((b,), s, dtype=torch.int32, device=pool.device),
        )
        blocks = -(-h // HEADS_A_BLOCK)
        return (
            cache,
            pool.scratch((b, h, LATENT), dtype),
            splits_for(b, blocks, s, compute_units(pool.device)),
        )


@dataclass(frozen=True)
class LatentPrefill:
    """Causal attention of prompts with keys of 192 and values of 128 numbers."""

    dtype: str = "bfloat16"
    operation: str = "mla_prefill"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type of the activations, in which a prompt's keys and values are, too."""
        return {"dtype": self.dtype, "kv_dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return FLOPs of the causal half; queries, keys, values read, output written."""
        b, s, h = (int(case[c]) for c in ("batch", "seq_len", "heads"))
        item = DTYPES[self.dtype].itemsize
        pairs = s * (s + 1) / 2
        flops = 2.0 * b * h * pairs * (VALUE + ROTARY + VALUE)
        read = item * b * s * h * (2 * (VALUE + ROTARY) + VALUE)
        return Cost(flops, float(read), float(item * b * s * h * VALUE))

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per operand set, with enough sets to keep the operands cold."""

        def attention(*operands: torch.Tensor) -> Call:
            return lambda: latent_prefill(*operands)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [attention(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare rows of three heads with float64: of the first, middle and last."""
        q, k, v, out = self._operands(case, pool)
        got = latent_prefill(q, k, v, out.fill_(float("nan")))
        if not torch.isfinite(got).all():
            return float("inf")
        worst = 0.0
        batch, heads, rows, _ = q.shape
        at = spread(rows, q.device, every=max(CHECK_EVERY, rows // CHECK_ROWS))
        for b, h in {(0, 0), (batch // 2, heads // 2), (batch - 1, heads - 1)}:
            scores = q[b, h][at].double() @ k[b, h].double().T * SCALE
            later = torch.arange(rows, device=q.device) > at[:, None]
            expected = scores.masked_fill(later, float("-inf")).softmax(-1) @ v[b, h].double()
            worst = max(worst, attention_deviation(got[b, h][at], expected, rows))
        return worst

    def _operands(
        self, case: Case, pool: OperandPool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        b, s, h = (int(case[c]) for c in ("batch", "seq_len", "heads"))
        dtype, width = DTYPES[self.dtype], VALUE + ROTARY
        q, k = pool.take((b, h, s, width), dtype), pool.take((b, h, s, width), dtype)
        value = (b, h, s, VALUE)
        return q, k, pool.take(value, dtype), pool.scratch(value, dtype)
