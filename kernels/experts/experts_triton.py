"""Mixture of experts (MoE): grouped GEMMs over the tokens routed to each expert, in Triton.

A token is routed to ``top_k`` of ``experts`` experts. With few tokens the layer is memory-bound:
each activated expert reads all its weights for one row, so the time depends on *how many* experts
are activated. With many tokens there is one GEMM per expert, padded to a tile, so 17 tokens cost as
much as 32. Routing is balanced (round robin) or skewed like that of real routers (Zipf); with
skewed routing the busiest expert determines the time.

The rows are sorted by expert, and the rows of each expert are padded to whole tiles; a table maps
each tile to its expert. The kernel runs the three steps of a model: gate-up GEMM, SiLU, down GEMM.

    kernel = GroupedExperts(dtype="bfloat16", distribution="zipf")
    case = {"tokens": 64, "hidden": 2048, "width": 768, "experts": 128, "top_k": 8, "ep": 1}
    calls = kernel.prepare(case, pool)

Shapes: T tokens, E experts, K inner size, N outer size, R = T * top_k rows.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# (a jitted kernel is launched by indexing it with its grid, which pyright does not understand)

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from groundspeed.kernels.decoder.elementwise import silu_mul
from groundspeed.kernels.kernel import (
    DTYPES,
    Call,
    Case,
    Cost,
    UnsupportedCaseError,
    deviation,
    spread,
)
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import vendor_of

CHECK_SLOTS = 256
"""Largest approximate number of rows that are compared with float64."""

ZIPF_EXPONENT = 1.2
"""Zipf exponent of published expert loads; timing tables of serving engines use the same value."""


@dataclass(frozen=True)
class ExpertTile:
    """Tiling of the grouped GEMM: block sizes and launch parameters."""

    m: int
    """Rows of a tile: the rows of each expert are padded to a multiple of this."""
    n: int
    k: int
    warps: int
    stages: int


TILES = (
    ExpertTile(m=16, n=64, k=128, warps=4, stages=4),
    ExpertTile(m=32, n=64, k=128, warps=4, stages=4),
    ExpertTile(m=64, n=128, k=64, warps=4, stages=4),
    ExpertTile(m=128, n=128, k=64, warps=8, stages=3),
)
"""Tiles for a few rows for each expert (a decode step) up to hundreds (a prefill)."""


def tile_for(rows_per_expert: float) -> ExpertTile:
    """Return the tile for the mean number of rows of an activated expert.

    A tile of 16 rows reaches a tenth of the matrix units' rate, because each weight that it loads
    is used for 16 rows only. A larger one wastes padding while experts have few rows. Engines
    switch in the same way.

    >>> [tile_for(rows).m for rows in (1, 20, 60, 400)]
    [16, 32, 64, 128]
    """
    return next((t for t in TILES if rows_per_expert <= t.m), TILES[-1])


@triton.jit
def grouped_kernel(
    x_ptr, w_ptr, y_ptr, row_ptr, expert_ptr, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Multiply one tile of rows of one expert by one block of its weight: y = x @ w[expert].T."""
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
    """Assignment of rows to experts, sorted by expert and padded to whole tiles of slots."""

    token: torch.Tensor
    """(slots,) int32 Index of the token in each slot; -1 for padding."""
    slot: torch.Tensor
    """(slots,) int32 Index of the slot itself (input row of the down GEMM); -1 for padding."""
    expert: torch.Tensor
    """(tiles,) int32 Index of the expert of each tile."""


def route(tokens: int, experts: int, top_k: int, distribution: str, *, seed: int = 0) -> np.ndarray:
    """Choose the experts of each token.

    Parameters
    ----------
    tokens, experts, top_k : int
    distribution : {'balanced', 'zipf'}
        Round robin, or random with Zipf-distributed popularity of the experts.
    seed : int, default 0
        Random seed of the Zipf routing.

    Returns
    -------
    (tokens, top_k) int64 ndarray
        Expert indices; the experts of one token are distinct.

    Raises
    ------
    UnsupportedCaseError
        If the distribution is unknown.
    """
    if distribution == "balanced":
        return (np.arange(tokens * top_k) % experts).reshape(tokens, top_k)
    if distribution != "zipf":
        raise UnsupportedCaseError(f"unknown routing '{distribution}', known: balanced, zipf")
    generator = np.random.default_rng(seed)
    popularity = -ZIPF_EXPONENT * np.log(np.arange(1, experts + 1))
    # The largest k log-weights with Gumbel noise are a sample without replacement (Gumbel top-k).
    noisy = popularity + generator.gumbel(size=(tokens, experts))
    chosen: np.ndarray = np.argpartition(-noisy, top_k - 1, axis=1)[:, :top_k]
    return chosen


def tiles_of(
    chosen: np.ndarray, experts: int, device: torch.device, block_m: int = TILES[0].m
) -> Routing:
    """Sort rows by expert and pad the rows of each expert to whole tiles of ``block_m`` rows."""
    top_k = chosen.shape[1]
    flat = chosen.reshape(-1)
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=experts)
    token, owner, begin = [], [], 0
    for expert in np.flatnonzero(counts):
        rows = order[begin : begin + counts[expert]] // top_k
        begin += counts[expert]
        tiles = -(-rows.size // block_m)
        token.append(np.pad(rows, (0, tiles * block_m - rows.size), constant_values=-1))
        owner += [int(expert)] * tiles
    tokens = np.concatenate(token)
    slots = np.where(tokens >= 0, np.arange(tokens.size), -1)

    def put(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int32)).to(device)

    return Routing(put(tokens), put(slots), put(np.array(owner)))


def grouped_product(
    x: torch.Tensor,
    w: torch.Tensor,
    y: torch.Tensor,
    rows: torch.Tensor,
    expert: torch.Tensor,
    tile: ExpertTile = TILES[0],
) -> torch.Tensor:
    """Multiply the row of each slot by the weight of its expert.

    Parameters
    ----------
    x : (rows, K) Tensor
    w : (E, N, K) Tensor
    y : (slots, N) Tensor
        Receives the result.
    rows : (slots,) int32 Tensor
        Row of x for each slot; -1 gives zeros.
    expert : (slots / tile.m,) int32 Tensor
        Expert of each tile of slots.
    tile : ExpertTile, optional
        Tiling, with which the slots were padded. Default: the smallest.
    """
    _, n, k = w.shape
    grid = (expert.numel(), triton.cdiv(n, tile.n))
    grouped_kernel[grid](
        x, w, y, rows, expert, n, k,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k,
        num_warps=tile.warps, num_stages=min(tile.stages, vendor_of(x.device).most_stages),
    )  # fmt: skip
    return y


@dataclass(frozen=True)
class GroupedExperts:
    """The experts of one MoE layer: gate-up GEMM, SiLU and down GEMM."""

    dtype: str
    distribution: str = "balanced"
    operation: str = "experts"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type and routing distribution; the sizes of the layer are columns."""
        return {"dtype": self.dtype, "distribution": self.distribution}

    def cost(self, case: Case) -> Cost:
        """Return FLOPs of three GEMMs per row, bytes of activated experts and activations."""
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
        """Return one callable per set of experts, with enough sets to keep the weights cold."""
        return [self._build(case, pool)[0] for _ in range(pool.rotations(self.cost(case).bytes))]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare rows of every tile, or of 256 evenly spread ones, with float64."""
        call, x, up, down, routing, tile = self._build(case, pool)
        got = call()
        if not isinstance(got, torch.Tensor):
            raise TypeError(f"experts returned {type(got).__name__}")
        slots = torch.nonzero(routing.token >= 0).flatten()
        if not torch.isfinite(got[slots]).all():
            return float("inf")
        at = spread(slots.numel(), pool.device, every=max(tile.m, slots.numel() // CHECK_SLOTS))
        checked = slots[at]
        owners = routing.expert[checked // tile.m]
        worst = 0.0
        for expert in sorted(set(owners.tolist())):
            own = checked[owners == expert]
            rows = x[routing.token[own].long()].double()
            middle = silu_mul(rows @ up[expert].double().T)
            expected = middle @ down[expert].double().T
            # The intermediate result is rounded too: allow twice the rounding error of a GEMM.
            scale = 2.0 * middle.norm(dim=-1, keepdim=True)
            worst = max(worst, deviation(got[own], expected, scale, got.dtype))
        return worst

    def _build(
        self, case: Case, pool: OperandPool
    ) -> tuple[Call, torch.Tensor, torch.Tensor, torch.Tensor, Routing, ExpertTile]:
        tokens, experts, top_k, hidden, intermediate = _sizes(case)
        dtype = DTYPES[self.dtype]
        chosen = route(tokens, experts, top_k, self.distribution)
        tile = tile_for(chosen.size / np.unique(chosen).size)
        routing = tiles_of(chosen, experts, pool.device, tile.m)
        x = pool.take((tokens, hidden), dtype)
        up = pool.take((experts, 2 * intermediate, hidden), dtype)
        down = pool.take((experts, hidden, intermediate), dtype)
        slots = routing.token.numel()
        middle = pool.scratch((slots, 2 * intermediate), dtype).fill_(float("nan"))
        out = pool.scratch((slots, hidden), dtype).fill_(float("nan"))

        def layer() -> torch.Tensor:
            grouped_product(x, up, middle, routing.token, routing.expert, tile)
            activated = silu_mul(middle)
            return grouped_product(activated, down, out, routing.slot, routing.expert, tile)

        return layer, x, up, down, routing, tile


def _sizes(case: Case) -> tuple[int, int, int, int, int]:
    tokens, experts, top_k, hidden, intermediate = (
        int(case[c]) for c in ("tokens", "experts", "top_k", "hidden", "width")
    )
    if case["ep"] != 1:
        raise UnsupportedCaseError("one device holds all experts: ep must be 1")
    if top_k > experts:
        raise UnsupportedCaseError(f"top_k {top_k} is more than the {experts} experts")
    return tokens, experts, top_k, hidden, intermediate
