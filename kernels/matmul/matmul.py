"""GEMM through torch: compute-bound at large m, limited by reading the weights at small m.

The GEMM is ``y[m, n] = x[m, k] @ w[n, k].T``, with w stored as in a linear layer. It runs through
the library that a model would use (cuBLASLt, hipBLASLt or oneDNN, called by ``torch``). At m = 1
the weights are read for a single row, so the GEMM is memory-bound; at m = 4096 it is compute-bound.

    calls = TorchMatmul(dtype="bfloat16").prepare({"m": 16, "n": 4096, "k": 4096}, pool)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, deviation, spread
from groundspeed.kernels.operands import OperandPool


@dataclass(frozen=True)
class TorchMatmul:
    """GEMM through ``torch.nn.functional.linear`` in one data type."""

    dtype: str
    operation: str = "matmul"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return 2mnk FLOPs, the bytes of x and w as read and those of y as written."""
        return matmul_cost(case, self.dtype)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per operand set, with enough sets to keep the weights cold."""
        m, n, k = shape(case)
        dtype = DTYPES[self.dtype]

        def product(x: torch.Tensor, w: torch.Tensor) -> Call:
            return lambda: F.linear(x, w)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [product(pool.take((m, k), dtype), pool.take((n, k), dtype)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare rows and columns, evenly spread over the result, with float64."""
        m, n, k = shape(case)
        x, w = (pool.take((rows, k), DTYPES[self.dtype]) for rows in (m, n))
        return check_product(F.linear(x, w), x, w)


def shape(case: Case) -> tuple[int, int, int]:
    """Return the sizes m, n and k of a GEMM as integers."""
    return int(case["m"]), int(case["n"]), int(case["k"])


def matmul_cost(case: Case, dtype: str) -> Cost:
    """Return the algorithmic cost of a GEMM, in which every element crosses the memory bus once."""
    m, n, k = shape(case)
    item_bytes = DTYPES[dtype].itemsize
    return Cost(2.0 * m * n * k, float(item_bytes * (m * k + n * k)), float(item_bytes * m * n))


def take_rows(matrix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return some rows of a matrix in float64; fp8 has no indexing of its own."""
    if matrix.itemsize == 1:
        return matrix.view(torch.uint8)[rows].view(matrix.dtype).double()
    return matrix[rows].double()


def check_product(
    y: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    *,
    accumulator_eps: float = torch.finfo(torch.float32).eps,
    dtype: torch.dtype | None = None,
) -> float:
    """Compare a GEMM with float64 in one row and one column of every tile of the result.

    Parameters
    ----------
    y : (m, n) Tensor
        The result to check.
    x : (m, k) Tensor
    w : (n, k) Tensor
    accumulator_eps : float
        Rounding step of the accumulator. Default: that of float32.
    dtype : torch.dtype, optional
        Data type in which the result was stored. Default: that of ``y``.

    Returns
    -------
    float
        Largest error in units of the tolerance; infinite if *any* element is not finite.
    """
    k = x.shape[1]
    rows, columns = (spread(size, x.device) for size in y.shape)
    if not torch.isfinite(y).all():
        return float("inf")
    expected = take_rows(x, rows) @ take_rows(w, columns).T
    coarser = (accumulator_eps / torch.finfo(torch.float32).eps) ** 2
    return deviation(y[rows][:, columns], expected, k**0.5, dtype or y.dtype, terms=k * coarser)
