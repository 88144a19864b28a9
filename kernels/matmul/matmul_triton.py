"""GEMM in Triton: measures the matrix units with the same source code on every vendor.

The GEMM of a vendor library measures the speed that a model gets; this one measures the speed that
a GPU reaches with open code. Blocks of the result are processed in groups, so that neighbouring
blocks share operands in L2. Products accumulate in float32.

    triton_matmul(x, w, y)  # writes x @ w.T into y

Shapes: x (M, K), w (N, K), y (M, N).
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# (a jitted kernel is launched by indexing it with its grid, which pyright does not understand)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.matmul.matmul import check_product, matmul_cost, shape
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import compute_units, vendor_of


@dataclass(frozen=True)
class Tile:
    """Tiling of a GEMM: block sizes in m, n and k, and launch parameters of the kernel."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    group: int = 8
    """Number of blocks in m that are processed together, to share the weights in L2."""
    persistent: bool = False
    """Whether one program per compute unit loops over blocks and loads by tensor descriptors."""

    @property
    def name(self) -> str:
        """Name of the tile, e.g. ``128x256x64 persistent``."""
        return f"{self.m}x{self.n}x{self.k}" + (" persistent" if self.persistent else "")


TILES = (
    Tile(m=16, n=64, k=128, warps=4, stages=4),
    Tile(m=64, n=128, k=64, warps=4, stages=4),
    Tile(m=128, n=128, k=64, warps=8, stages=3),
    Tile(m=128, n=256, k=64, warps=8, stages=3),
    Tile(m=64, n=256, k=64, warps=8, stages=4, persistent=True),
    Tile(m=128, n=128, k=64, warps=8, stages=4, persistent=True),
    Tile(m=128, n=256, k=64, warps=8, stages=3, persistent=True),
)
"""Tiles for one row up to thousands; ``groundspeed.calibrate`` times those that can run."""

DESCRIPTOR_ALIGN_BYTES = 16
"""[bytes] Rows that a tensor descriptor loads must start at multiples of this."""


def tile_for(m: int, n: int) -> Tile:
    """Return the smallest tile that covers the rows, or a large non-persistent one (large GEMM)."""
    if m <= 16:
        return TILES[0]
    if m <= 64:
        return TILES[1]
    return TILES[3] if m * n >= 2048 * 2048 else TILES[2]


@triton.jit
def matmul_kernel(
    x_ptr,
    w_ptr,
    y_ptr,
    M,
    N,
    K,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Compute one block of y = x @ w.T."""
    pid = tl.program_id(0)
    blocks_m = tl.cdiv(M, BLOCK_M)
    blocks_n = tl.cdiv(N, BLOCK_N)
    group = pid // (GROUP * blocks_n)
    first_m = group * GROUP
    height = min(blocks_m - first_m, GROUP)
    pid_m = first_m + (pid % (GROUP * blocks_n)) % height
    pid_n = (pid % (GROUP * blocks_n)) // height

    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    # Offsets need 64 bits, because vocabulary times hidden size can exceed 2^31 elements.
    x_block = x_ptr + rows.to(tl.int64)[:, None] * K + inner[None, :]
    w_block = w_ptr + columns.to(tl.int64)[None, :] * K + inner[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        left = K - start
        x = tl.load(x_block, mask=(rows[:, None] < M) & (inner[None, :] < left), other=0.0)
        w = tl.load(w_block, mask=(columns[None, :] < N) & (inner[:, None] < left), other=0.0)
        total = tl.dot(x, w, total)
        x_block += BLOCK_K
        w_block += BLOCK_K
    y_block = y_ptr + rows.to(tl.int64)[:, None] * N + columns[None, :]
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y_block, total.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def persistent_kernel(
    x_ptr,
    w_ptr,
    y_ptr,
    M,
    N,
    K,
    PROGRAMS,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Compute every PROGRAMS-th block of y = x @ w.T, with loads through tensor descriptors."""
    x_tiles = tl.make_tensor_descriptor(x_ptr, [M, K], [K, 1], [BLOCK_M, BLOCK_K])
    w_tiles = tl.make_tensor_descriptor(w_ptr, [N, K], [K, 1], [BLOCK_N, BLOCK_K])
    y_tiles = tl.make_tensor_descriptor(y_ptr, [M, N], [N, 1], [BLOCK_M, BLOCK_N])
    blocks_m = tl.cdiv(M, BLOCK_M)
    blocks_n = tl.cdiv(N, BLOCK_N)
    for pid in range(tl.program_id(0), blocks_m * blocks_n, PROGRAMS):
        first_m = pid // (GROUP * blocks_n) * GROUP
        height = min(blocks_m - first_m, GROUP)
        row = (first_m + (pid % (GROUP * blocks_n)) % height) * BLOCK_M
        column = (pid % (GROUP * blocks_n)) // height * BLOCK_N
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, K, BLOCK_K):
            x = x_tiles.load([row, start])
            w = w_tiles.load([column, start])
            total = tl.dot(x, w.T, total)
        y_tiles.store([row, column], total.to(y_ptr.dtype.element_ty))


def can_run(tile: Tile, n: int, k: int, dtype: torch.dtype) -> bool:
    """Return whether a tile can compute a shape.

    Tensor descriptors need aligned rows, and Triton 3.3 or newer.
    """
    if tile.persistent and not hasattr(tl, "make_tensor_descriptor"):
        return False
    aligned = all(size * dtype.itemsize % DESCRIPTOR_ALIGN_BYTES == 0 for size in (n, k))
    return aligned or not tile.persistent


def _allocate(size: int, alignment: int, stream: int | None) -> torch.Tensor:
    """Allocate memory for the tensor descriptors that a kernel creates."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def triton_matmul(
    x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, tile: Tile | None = None
) -> torch.Tensor:
    """Write x @ w.T into y.

    Parameters
    ----------
    x : (M, K) Tensor
    w : (N, K) Tensor
    y : (M, N) Tensor
        Receives the result. All three tensors are contiguous and have the same data type.
    tile : Tile, optional
        Tiling of the GEMM. If not given, it is chosen by the shape.

    Raises
    ------
    UnsupportedCaseError
        If the tile is persistent and the rows are not aligned.
    """
    (m, k), n = x.shape, w.shape[0]
    t = tile or tile_for(m, n)
    stages = min(t.stages, vendor_of(x.device).most_stages)
    if t.persistent:
        if not can_run(t, n, k, x.dtype):
            raise UnsupportedCaseError(f"rows of {n} and {k} elements are not aligned to 16 bytes")
        programs = min(triton.cdiv(m, t.m) * triton.cdiv(n, t.n), compute_units(x.device))
        triton.set_allocator(_allocate)
        persistent_kernel[(programs,)](
            x, w, y, m, n, k, programs,
            BLOCK_M=t.m, BLOCK_N=t.n, BLOCK_K=t.k, GROUP=t.group,
            num_warps=t.warps, num_stages=stages,
        )  # fmt: skip
        return y
    grid = (triton.cdiv(m, t.m) * triton.cdiv(n, t.n),)
    matmul_kernel[grid](
        x, w, y, m, n, k,
        BLOCK_M=t.m, BLOCK_N=t.n, BLOCK_K=t.k, GROUP=t.group,
        num_warps=t.warps, num_stages=stages,
    )  # fmt: skip
    return y


@dataclass(frozen=True)
class TritonMatmul:
    """GEMM through :func:`triton_matmul` in one data type."""

    dtype: str
    tile: Tile | None = None
    operation: str = "matmul"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return 2mnk FLOPs, the bytes of x and w as read and those of y as written."""
        return matmul_cost(case, self.dtype)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per operand set, with enough sets to keep the weights cold."""

        def product(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Call:
            return lambda: triton_matmul(x, w, y, self.tile)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [product(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64; the output holds NaN before, to detect unwritten elements."""
        x, w, y = self._operands(case, pool)
        return check_product(triton_matmul(x, w, y.fill_(float("nan")), self.tile), x, w)

    def _operands(
        self, case: Case, pool: OperandPool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        m, n, k = shape(case)
        dtype = DTYPES[self.dtype]
        return pool.take((m, k), dtype), pool.take((n, k), dtype), pool.scratch((m, n), dtype)
