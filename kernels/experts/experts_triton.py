"""Mixture of experts (MoE): grouped GEMMs over the tokens routed to each expert, in Triton.

A token is routed to ``top_k`` of ``experts`` experts. With few tokens the layer is memory-bound:
each activated expert reads all its weights for one row, so the time depends on *how many* experts
are activated. With many tokens there is one GEMM per expert, padded to a tile, so 17 tokens cost as
much as 32. Routing is balanced (round robin) or skewed like that of real routers (Zipf); with
skewed routing the busiest expert determines the time.

The rows are sorted by expert, and the rows of each expert are padded to whole tiles; a table maps
each tile to its expert. The kernel runs the three steps of a model: gate-up GEMM, SiLU, down GEMM.

    kernel = GroupedExperts(dtype="bfloat16", distribution="zipf")
    case = {"tokens": 64, "experts": 128, "top_k": 8, "hidden": 2048, "intermediate": 768}
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
from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError, deviation
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import vendor_of

ZIPF_EXPONENT = 1.2
"""Zipf exponent of published expert loads; timing tables of serving engines use the same value."""

BLOCK_M = 16
"""Rows of a tile: the rows of each expert are padded to a multiple of this."""

BLOCK_N = 64
BLOCK_K = 64


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


def tiles_of(chosen: np.ndarray, experts: int, device: torch.device) -> Routing:
    """Sort rows by expert and pad the rows of each expert to whole tiles."""
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
    """Multiply the row of each slot by the weight of its expert.

    Parameters
    ----------
    x : (rows, K) Tensor
    w : (E, N, K) Tensor
    y : (slots, N) Tensor
        Receives the result.
    rows : (slots,) int32 Tensor
        Row of x for each slot; -1 gives zeros.
    expert : (slots / BLOCK_M,) int32 Tensor
        Expert of each tile of ``BLOCK_M`` slots.
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
    """The experts of one MoE layer: gate-up GEMM, SiLU and down GEMM."""

    dtype: str
    distribution: str = "balanced"
    shape: tuple[tuple[str, float], ...] = ()
    """Sizes of the layer (experts, top k, hidden, intermediate); each shape has its own curve."""
    operation: str = "moe"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type, routing distribution and sizes of the layer."""
        sizes = {name: f"{value:g}" for name, value in self.shape}
        return {"dtype": self.dtype, "distribution": self.distribution} | sizes

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
        """Compare up to 24 rows, evenly spread over the slots, with float64."""
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
            # The intermediate result is rounded too: allow twice the rounding error of a GEMM.
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
        raise UnsupportedCaseError(f"top_k {top_k} is more than the {experts} experts")
    return tokens, experts, top_k, hidden, intermediate
