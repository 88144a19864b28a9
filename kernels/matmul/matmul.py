"""Matrix product: the arithmetic limit at large m, weight streaming at small m.

``y[m, n] = x[m, k] @ w[n, k].T``, the layout in which a linear layer stores its weights, through
the library a model would use (cuBLASLt, hipBLASLt, oneDNN behind ``torch``). At m = 1 the weights
are read once for a single row and memory decides; at m = 4096 the same product is compute-bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, deviation
from groundspeed.kernels.operands import OperandPool

CHECK_SIDE = 48
"""Rows and columns of the result that are compared with float64: spread over all of it."""


@dataclass(frozen=True)
class TorchMatmul:
    """``torch.nn.functional.linear`` in one data type."""

    dtype: str
    operation: str = "matmul"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """The data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """2mnk FLOPs; x and w read, y written."""
        return matmul_cost(case, self.dtype)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One product for each of enough operand sets to keep the weights cold."""
        m, n, k = shape(case)
        dtype = DTYPES[self.dtype]

        def product(x: torch.Tensor, w: torch.Tensor) -> Call:
            return lambda: F.linear(x, w)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [product(pool.take((m, k), dtype), pool.take((n, k), dtype)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare rows and columns spread over the result with float64."""
        m, n, k = shape(case)
        x, w = (pool.take((rows, k), DTYPES[self.dtype]) for rows in (m, n))
        return check_product(F.linear(x, w), x, w)


def shape(case: Case) -> tuple[int, int, int]:
    """The three sizes of a product as integers."""
    return int(case["m"]), int(case["n"]), int(case["k"])


def matmul_cost(case: Case, dtype: str) -> Cost:
    """Algorithmic cost of a product in which every element crosses the bus once."""
    m, n, k = shape(case)
    item_bytes = DTYPES[dtype].itemsize
    return Cost(2.0 * m * n * k, float(item_bytes * (m * k + n * k)), float(item_bytes * m * n))


def check_product(y: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> float:
    """Compare a product with float64 on rows and columns spread over all of it.

    Parameters
    ----------
    y : (m, n) Tensor
    x : (m, k) Tensor
    w : (n, k) Tensor

    Returns
    -------
    float
        Largest error in units of the tolerance; infinite if *any* element is not finite.
    """
    (m, k), n = x.shape, w.shape[0]
    rows = torch.linspace(0, m - 1, min(m, CHECK_SIDE), device=x.device).long()
    columns = torch.linspace(0, n - 1, min(n, CHECK_SIDE), device=x.device).long()
    if not torch.isfinite(y).all():
        return float("inf")
    expected = x[rows].double() @ w[columns].double().T
    return deviation(y[rows][:, columns], expected, k**0.5, y.dtype, terms=k)
