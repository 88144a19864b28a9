"""The same product on other numbers: what power-dependent data changes.

Switching a transistor costs energy, so a chip at its power limit runs faster on zeros than on
random numbers: an A100 by 15 %, others by up to a third. Profiles stand on normal numbers; this
kernel measures how far the flattering ones would be off on this device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.matmul.matmul import check_product, matmul_cost, shape
from groundspeed.kernels.operands import OperandPool

DATA = ("normal", "uniform", "zeros", "constant")


@dataclass(frozen=True)
class DataMatmul:
    """A product of operands that all hold one kind of data."""

    dtype: str
    data: str
    operation: str = "matmul_data"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """The data type and the kind of data."""
        return {"dtype": self.dtype, "data": self.data}

    def cost(self, case: Case) -> Cost:
        """Compute the FLOPs and bytes, which are those of any product."""
        return matmul_cost(case, self.dtype)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Two operand sets: large products do not depend on the cache."""

        def product(x: torch.Tensor, w: torch.Tensor) -> Call:
            return lambda: F.linear(x, w)

        return [product(*self._operands(case, pool)) for _ in range(2)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64 on the very operands."""
        x, w = self._operands(case, pool)
        y = F.linear(x, w)
        # Operands that do not average out make sums of order k, not of its square root.
        size = float(x.double().abs().mean() * w.double().abs().mean()) * x.shape[1] ** 0.5
        return check_product(y, x, w) / float(max(1.0, size))

    def _operands(self, case: Case, pool: OperandPool) -> tuple[torch.Tensor, torch.Tensor]:
        m, n, k = shape(case)
        dtype = DTYPES[self.dtype]
        if self.data == "normal":
            return pool.take((m, k), dtype), pool.take((n, k), dtype)
        x, w = pool.scratch((m, k), dtype), pool.scratch((n, k), dtype)
        for operand in (x, w):
            if self.data == "uniform":
                operand.uniform_(-1.0, 1.0)
            elif self.data == "zeros":
                operand.zero_()
            elif self.data == "constant":
                operand.fill_(0.01)
            else:
                known = ", ".join(DATA)
                raise UnsupportedCaseError(f"unknown data '{self.data}', known: {known}")
        return x, w
