"""Mixture of experts: grouped matrix products over the tokens that each expert was sent, in Triton.

A token goes to ``top_k`` of ``experts``. Few tokens: each expert that is hit streams all its
weights for one row (memory-bound, and how *many* are hit decides). Many tokens: a product for each
expert, padded to a tile, so 17 tokens cost as much as 32. Routing is balanced (round robin) or
skewed as real routers are (Zipf); the busiest expert then decides.

The rows are sorted by expert and each expert's rows padded to a tile; a table says which expert
each tile belongs to. Gate-up product, SiLU, down product: the three a model runs.

Legend: T tokens, E experts, K inner size, N outer size, R = T * top_k rows.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# (a jitted kernel is launched by indexing it with its grid)

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from groundspeed.kernels.decoder.elementwise import silu_mul
from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError, deviation
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import vendor_of

ZIPF_EXPONENT = 1.2
"""Skew of published expert loads; the timing tables of serving stacks use the same."""

BLOCK_M = 16
BLOCK_N = 64
BLOCK_K = 64


@triton.jit
def grouped_kernel(
    x_ptr, w_ptr, y_ptr, row_ptr, expert_ptr, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of rows of one expert times one block of its weight: y = x @ w[expert].T."""
    tile, pid_n = tl.program_id(0), tl.program_id(1)
    expert = tl.load(expert_ptr + tile).to(tl.int64)
    slot = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    row = tl.load(row_ptr + slot).to(tl.int64)  # -1: padding
    real = row >= 0
    columns = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    x_block = x_ptr + row[:, None] * K + inner[None, :]
    w_block = w_ptr + expert * N * K + columns.to(tl.int64)[None, :] * K + inner[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        left = K - start
        x = tl.load(x_block, mask=real[:, None] & (inner[None, :] < left), other=0.0)
        w = tl.load(w_block, mask=(columns[None, :] < N) & (inner[:, None] < left), other=0.0)
        total = tl.dot(x, w, total)
        x_block += BLOCK_K
        w_block += BLOCK_K
    at = slot.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=columns[None, :] < N)


@dataclass(frozen=True)
class Routing:
    """Which rows go to which expert, sorted and padded to tiles."""

    token: torch.Tensor
    """(slots,) int32: the token of each slot, -1 for padding."""
    slot: torch.Tensor
    """(slots,) int32: the slot itself, -1 for padding (rows of the second product)."""
    expert: torch.Tensor
    """(tiles,) int32"""


def route(tokens: int, experts: int, top_k: int, distribution: str, *, seed: int = 0) -> np.ndarray:
    """The experts of each token.

    Returns
    -------
    (tokens, top_k) int64 ndarray
        Distinct in each row.
    """
    if distribution == "balanced":
        return (np.arange(tokens * top_k) % experts).reshape(tokens, top_k)
    if distribution != "zipf":
        raise UnsupportedCaseError(f"unknown routing '{distribution}', known: balanced, zipf")
    generator = np.random.default_rng(seed)
    popularity = -ZIPF_EXPONENT * np.log(np.arange(1, experts + 1))
    # Gumbel noise on log-weights, largest k: sampling without replacement by those weights.
    noisy = popularity + generator.gumbel(size=(tokens, experts))
    chosen: np.ndarray = np.argpartition(-noisy, top_k - 1, axis=1)[:, :top_k]
    return chosen


def tiles_of(chosen: np.ndarray, experts: int, device: torch.device) -> Routing:
    """Sort rows by expert and pad each expert's rows to whole tiles."""
    top_k = chosen.shape[1]
    flat = chosen.reshape(-1)
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=experts)
    token, owner, begin = [], [], 0
    for expert in np.flatnonzero(counts):
        rows = order[begin : begin + counts[expert]] // top_k
        begin += counts[expert]
        tiles = -(-rows.size // BLOCK_M)
        token.append(np.pad(rows, (0, tiles * BLOCK_M - rows.size), constant_values=-1))
        owner += [int(expert)] * tiles
    tokens = np.concatenate(token)
    slots = np.where(tokens >= 0, np.arange(tokens.size), -1)

    def put(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int32)).to(device)

    return Routing(put(tokens), put(slots), put(np.array(owner)))


def grouped_product(
    x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, rows: torch.Tensor, expert: torch.Tensor
) -> torch.Tensor:
    """Multiply each slot's row by its expert's weight.

    Parameters
    ----------
    x : (rows, K) Tensor
    w : (E, N, K) Tensor
    y : (slots, N) Tensor
    rows : (slots,) int32 Tensor
        Row of x for each slot; -1 gives zeros.
    expert : (slots / BLOCK_M,) int32 Tensor
    """
    _, n, k = w.shape
    grid = (expert.numel(), triton.cdiv(n, BLOCK_N))
    grouped_kernel[grid](
        x, w, y, rows, expert, n, k,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
        num_warps=4, num_stages=min(4, vendor_of(x.device).most_stages),
    )  # fmt: skip
    return y


@dataclass(frozen=True)
class GroupedExperts:
    """Gate-up, SiLU and down products of the experts of one layer."""

    dtype: str
    distribution: str = "balanced"
    shape: tuple[tuple[str, float], ...] = ()
    """Experts, top k, hidden and intermediate size: each shape is a regime of its own."""
    operation: str = "moe"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """The data type, how tokens are routed, and the shape of the layer."""
        sizes = {name: f"{value:g}" for name, value in self.shape}
        return {"dtype": self.dtype, "distribution": self.distribution} | sizes

    def cost(self, case: Case) -> Cost:
        """Three products a row; the weights of the experts that are hit, the activations."""
        tokens, experts, top_k, hidden, intermediate = _sizes(case)
        item = DTYPES[self.dtype].itemsize
        rows = tokens * top_k
        hit = np.unique(route(tokens, experts, top_k, self.distribution)).size
        weights = 3 * hidden * intermediate * hit
        return Cost(
            6.0 * rows * hidden * intermediate,
            float(item * (weights + tokens * hidden)),
            float(item * rows * hidden),
        )

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One layer for each of enough sets of experts to be cold."""
        return [self._build(case, pool)[0] for _ in range(pool.rotations(self.cost(case).bytes))]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare rows spread over the slots with float64."""
        call, x, up, down, routing = self._build(case, pool)
        got = call()
        if not isinstance(got, torch.Tensor):
            raise TypeError(f"experts returned {type(got).__name__}")
        slots = torch.nonzero(routing.token >= 0).flatten()
        slots = slots[torch.linspace(0, slots.numel() - 1, min(24, slots.numel())).long()]
        worst = 0.0
        for slot in slots.tolist():
            expert = int(routing.expert[slot // BLOCK_M])
            row = x[int(routing.token[slot])].double()
            middle = silu_mul((up[expert].double() @ row)[None])[0]
            expected = down[expert].double() @ middle
            scale = float(middle.norm())
            # The middle is rounded to the data type too, so twice the rounding of one product.
            worst = max(worst, deviation(got[slot], expected, 2.0 * scale, got.dtype))
        return worst

    def _build(
        self, case: Case, pool: OperandPool
    ) -> tuple[Call, torch.Tensor, torch.Tensor, torch.Tensor, Routing]:
        tokens, experts, top_k, hidden, intermediate = _sizes(case)
        dtype = DTYPES[self.dtype]
        routing = tiles_of(route(tokens, experts, top_k, self.distribution), experts, pool.device)
        x = pool.take((tokens, hidden), dtype)
        up = pool.take((experts, 2 * intermediate, hidden), dtype)
        down = pool.take((experts, hidden, intermediate), dtype)
        slots = routing.token.numel()
        middle = pool.scratch((slots, 2 * intermediate), dtype)
        out = pool.scratch((slots, hidden), dtype).fill_(float("nan"))

        def layer() -> torch.Tensor:
            grouped_product(x, up, middle, routing.token, routing.expert)
            return grouped_product(silu_mul(middle), down, out, routing.slot, routing.expert)

        return layer, x, up, down, routing


def _sizes(case: Case) -> tuple[int, int, int, int, int]:
    tokens, experts, top_k, hidden, intermediate = (
        int(case[c]) for c in ("tokens", "experts", "top_k", "hidden", "intermediate")
    )
    if top_k > experts:
        raise UnsupportedCaseError(f"top {top_k} of {experts} experts do not exist")
    return tokens, experts, top_k, hidden, intermediate
