"""The same GEMM on different data, to measure how much the rate depends on the values.

Switching a transistor costs energy, so a chip at its power limit runs faster on zeros than on
random numbers: an A100 by 15 %, other GPUs by up to a third. All profiles are measured on normal
numbers; this kernel measures how much other data would overstate the rate of a device.

    calls = DataMatmul(dtype="bfloat16", data="zeros").prepare({"m": m, "n": n, "k": k}, pool)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.matmul.matmul import check_product, matmul_cost, shape
from groundspeed.kernels.operands import OperandPool

DATA = ("normal", "uniform", "zeros", "constant")
"""Kinds of data: standard normal, uniform from -1 to 1, all zeros, all 0.01."""


@dataclass(frozen=True)
class DataMatmul:
    """GEMM whose two operands hold one kind of data, one of ``DATA``."""

    dtype: str
    data: str
    operation: str = "matmul_data"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type and kind of data."""
        return {"dtype": self.dtype, "data": self.data}

    def cost(self, case: Case) -> Cost:
        """Return the FLOPs and bytes of the GEMM, which do not depend on the data."""
        return matmul_cost(case, self.dtype)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return callables for two operand sets: large GEMMs do not depend on the cache."""

        def product(x: torch.Tensor, w: torch.Tensor) -> Call:
            return lambda: F.linear(x, w)

        return [product(*self._operands(case, pool)) for _ in range(2)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64 on the same operands."""
        x, w = self._operands(case, pool)
        y = F.linear(x, w)
        # Sums of operands with a non-zero mean are of order k, not of order sqrt(k).
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
                raise UnsupportedCaseError(f"unknown kind of data '{self.data}', known: {known}")
        return x, w
