"""Decode attention over a paged KV cache, split along the context, in Triton.

Serving engines use this scheme. The KV cache consists of pages of 16 tokens at arbitrary places in
memory, and a block table holds the position of each page. The context of a sequence is cut into
splits, so that even a batch of one fills the GPU. Each split produces a partial result and its
log-sum-exp, and a second kernel combines them. The query heads that share a KV head are processed
as one block, so the cache is read once. An fp8 cache is read as fp8, which halves the bytes and
with them the time of a memory-bound decode, and is converted to 16 bit in registers.

Shapes: B batch, H KV heads, G query heads per KV head, D head_dim, N tokens of a block.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (a jitted kernel is launched by indexing it with its grid, which pyright does not understand)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from groundspeed.kernels.attention.attention import attention_deviation
from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import compute_units, vendor_of

PAGE = 16
"""[tokens] Size of a KV cache page."""

BLOCK_N = 64
"""[tokens] Number of cached tokens that a program loads at once."""

MIN_SPLIT_TOKENS = 256
"""[tokens] Smallest split: combining shorter ones costs more than the parallelism gains."""

WAVES = 2
"""Target number of Triton programs per compute unit, which determines the number of splits."""


@triton.jit
def split_kernel(
    q_ptr, k_ptr, v_ptr, table_ptr, length_ptr, part_ptr, lse_ptr, scale, pages,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compute the partial attention of one split, for one sequence and one KV head."""
    b, h, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(length_ptr + b)
    reach = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK_N) * BLOCK_N
    start = split * reach
    end = min(start + reach, length)
    g, d, n = tl.arange(0, BLOCK_G), tl.arange(0, D), tl.arange(0, BLOCK_N)
    heads = (b * H + h) * G + g
    q = tl.load(q_ptr + heads[:, None] * D + d[None, :], mask=(g < G)[:, None], other=0.0)
    most = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_G,), tl.float32)
    acc = tl.zeros((BLOCK_G, D), tl.float32)
    for first in range(start, end, BLOCK_N):
        token = first + n
        inside = token < end
        page = tl.load(table_ptr + b * pages + token // PAGE, mask=inside, other=0)
        row = (page.to(tl.int64) * PAGE + token % PAGE) * H + h
        k = tl.load(k_ptr + row[None, :] * D + d[:, None], mask=inside[None, :], other=0.0)
        score = tl.dot(q, k.to(q.dtype)) * scale
        score = tl.where(inside[None, :], score, float("-inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        shrink = tl.exp(most - higher)
        weight = tl.exp(score - higher[:, None])
        v = tl.load(v_ptr + row[:, None] * D + d[None, :], mask=inside[:, None], other=0.0)
        acc = acc * shrink[:, None] + tl.dot(weight.to(q.dtype), v.to(q.dtype))
        total = total * shrink + tl.sum(weight, 1)
        most = higher
    # An empty split (a short sequence in a batch with longer ones) gets weight zero.
    safe = tl.where(total > 0.0, total, 1.0)
    lse = tl.where(total > 0.0, most + tl.log(safe), float("-inf"))
    out = heads * SPLITS + split
    tl.store(lse_ptr + out, lse, mask=g < G)
    tl.store(part_ptr + out[:, None] * D + d[None, :], acc / safe[:, None], mask=(g < G)[:, None])


@triton.jit
def join_kernel(part_ptr, lse_ptr, out_ptr, D: tl.constexpr, SPLITS: tl.constexpr):
    """Combine the partial results of one query head, weighted by their log-sum-exp."""
    head = tl.program_id(0)
    s, d = tl.arange(0, SPLITS), tl.arange(0, D)
    lse = tl.load(lse_ptr + head * SPLITS + s)
    weight = tl.exp(lse - tl.max(lse, 0))
    part = tl.load(part_ptr + (head * SPLITS + s)[:, None] * D + d[None, :])
    joined = tl.sum(part * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(out_ptr + head * D + d, joined.to(out_ptr.dtype.element_ty))


@dataclass(frozen=True)
class PagedCache:
    """A paged KV cache, with the query and the block table of one decode step."""

    q: torch.Tensor
    """(B, H * G, D) Query of the new token of each sequence."""
    k: torch.Tensor
    """(pages of all sequences, PAGE, H, D) Cached keys."""
    v: torch.Tensor
    """(pages of all sequences, PAGE, H, D) Cached values."""
    table: torch.Tensor
    """(B, pages of a sequence) int32 Block table: index of each page in ``k`` and ``v``."""
    lengths: torch.Tensor
    """(B,) int32 Number of cached tokens of each sequence."""


def paged_attention(cache: PagedCache, out: torch.Tensor, splits: int) -> torch.Tensor:
    """Compute the attention of one token per sequence over its pages.

    Parameters
    ----------
    cache : PagedCache
    out : (B, H * G, D) Tensor
        Receives the result.
    splits : int
        Number of splits of the context; a power of two.
    """
    batch, heads, head_dim = cache.q.shape
    kv_heads = cache.k.shape[2]
    group = heads // kv_heads
    device = cache.q.device
    part = torch.empty(batch * heads * splits * head_dim, dtype=torch.float32, device=device)
    lse = torch.empty(batch * heads * splits, dtype=torch.float32, device=device)
    split_kernel[(batch, kv_heads, splits)](
        cache.q, cache.k, cache.v, cache.table, cache.lengths, part, lse,
        head_dim**-0.5, cache.table.shape[1],
        H=kv_heads, G=group, D=head_dim, PAGE=PAGE, SPLITS=splits,
        BLOCK_G=max(16, triton.next_power_of_2(group)), BLOCK_N=BLOCK_N,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    join_kernel[(batch * heads,)](part, lse, out, D=head_dim, SPLITS=splits, num_warps=4)
    return out


def splits_for(batch: int, kv_heads: int, length: int, compute_units: int) -> int:
    """Return the number of splits, a power of two, that fills the GPU without too short splits.

    Examples
    --------
    >>> splits_for(batch=1, kv_heads=8, length=32768, compute_units=132)
    32
    >>> splits_for(batch=256, kv_heads=8, length=32768, compute_units=132)
    1
    """
    wanted = WAVES * compute_units // max(1, batch * kv_heads)
    possible = length // MIN_SPLIT_TOKENS
    return 1 << max(0, min(wanted, possible).bit_length() - 1)


@dataclass(frozen=True)
class PagedDecode:
    """Decode attention over a paged KV cache with data type ``dtype``: ``fp8`` or a 16-bit type."""

    dtype: str
    compute_dtype: str = "bfloat16"
    operation: str = "attention_decode"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type of the KV cache."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return the cost of reading the KV cache up to ``kv_len``; query and output are small."""
        b, s, h, kv, d = _sizes(case)
        item = 1 if self.dtype == "fp8" else DTYPES[self.dtype].itemsize
        return Cost(
            4.0 * b * h * d * s, float(item * b * d * (2 * kv * s + h)), float(item * b * d * h)
        )

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per KV cache, with enough caches to keep them cold."""

        def step(cache: PagedCache, out: torch.Tensor, splits: int) -> Call:
            return lambda: paged_attention(cache, out, splits)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [step(*self._build(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare three heads with float64: of the first, the middle and the last sequence."""
        cache, out, splits = self._build(case, pool)
        got = paged_attention(cache, out.fill_(float("nan")), splits)
        if not torch.isfinite(got).all():
            return float("inf")
        worst = 0.0
        batch, heads, head_dim = got.shape
        group = heads // cache.k.shape[2]
        for b, h in {(0, 0), (batch // 2, heads // 2), (batch - 1, heads - 1)}:
            length = int(cache.lengths[b])
            pages = cache.table[b, : -(-length // PAGE)].long()
            k, v = (
                x[pages][:, :, h // group].reshape(-1, head_dim)[:length].double()
                for x in (cache.k.float(), cache.v.float())
            )
            scores = cache.q[b, h].double() @ k.T / head_dim**0.5
            expected = scores.softmax(-1) @ v
            worst = max(worst, attention_deviation(got[b, h][None], expected[None], length))
        return worst

    def _build(self, case: Case, pool: OperandPool) -> tuple[PagedCache, torch.Tensor, int]:
        b, s, h, kv, d = _sizes(case)
        stored = vendor_of(pool.device).fp8 if self.dtype == "fp8" else DTYPES[self.dtype]
        dtype = DTYPES[self.compute_dtype if self.dtype == "fp8" else self.dtype]
        pages = -(-s // PAGE)
        shape = (b * pages, PAGE, kv, d)
        # The pages are in random order, as they are after hours of serving.
        order = torch.randperm(b * pages, generator=torch.Generator().manual_seed(s))
        cache = PagedCache(
            q=pool.take((b, h, d), dtype),
            k=pool.take(shape, stored),
            v=pool.take(shape, stored),
            table=order.to(torch.int32).view(b, pages).to(pool.device),
            lengths=torch.full((b,), s, dtype=torch.int32, device=pool.device),
        )
        return (
            cache,
            pool.scratch((b, h, d), dtype),
            splits_for(b, kv, s, compute_units(pool.device)),
        )


def _sizes(case: Case) -> tuple[int, int, int, int, int]:
    b, s, h, kv, d = (int(case[c]) for c in ("batch", "kv_len", "heads", "kv_heads", "head_dim"))
    if h % kv:
        raise UnsupportedCaseError(f"{h} query heads are not a multiple of {kv} KV heads")
    if d & (d - 1):
        raise UnsupportedCaseError(f"head_dim {d} is not a power of two, as Triton needs")
    return b, s, h, kv, d
