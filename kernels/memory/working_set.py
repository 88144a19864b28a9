"""Read bandwidth as a function of the working set size, which shows the effective cache sizes.

A working set is read repeatedly inside one operation. If it fits in a cache, that cache serves the
reads; if not, the next level does. The curve of bandwidth over size therefore has a plateau for
each level, and the sizes at which it falls are the *effective* cache sizes. They can be smaller
than those of the datasheet, e.g. when a cache is shared by two halves of a chip or with other
tenants.

The operands of this kernel are warm (cached) on purpose.

    calls = TorchWorkingSet(dtype="float32").prepare({"bytes": 2.0**22}, pool)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError, deviation
from groundspeed.kernels.operands import OperandPool

READ_BYTES = 2.0**28
"""[bytes] Amount that one run reads for any working set, so the launch cost is negligible."""


def repeats(case: Case) -> int:
    """Return how many times one run reads the working set."""
    return max(1, round(READ_BYTES / case["bytes"]))


def working_set_cost(case: Case) -> Cost:
    """Return the bytes that one run reads: the working set times the repeats."""
    return Cost(0.0, repeats(case) * case["bytes"], 0.0)


def working_set(case: Case, dtype: torch.dtype, pool: OperandPool) -> torch.Tensor:
    """Return the tensor that a case reads.

    Raises
    ------
    UnsupportedCaseError
        If the size is less than one element.
    """
    items = int(case["bytes"] / dtype.itemsize)
    if items < 1:
        raise UnsupportedCaseError(f"{case['bytes']:g} bytes are less than one element")
    return pool.take((items,), dtype)


@dataclass(frozen=True)
class TorchWorkingSet:
    """Repeated read through torch: row sums of a matrix whose rows are all the same memory."""

    dtype: str = "float32"
    operation: str = "working_set"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return the bytes that one run reads."""
        return working_set_cost(case)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable on one operand, so that the operand stays cached."""
        rows = working_set(case, DTYPES[self.dtype], pool).expand(repeats(case), -1)
        sums = torch.empty(rows.shape[0], dtype=rows.dtype, device=pool.device)
        return [lambda: torch.sum(rows, dim=1, out=sums)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare the row sums with the sum in float64."""
        x = working_set(case, DTYPES[self.dtype], pool)
        got = x.expand(2, -1).sum(dim=1)
        expected = x.double().sum().expand(2)
        return deviation(got, expected, x.numel() ** 0.5, got.dtype, terms=x.numel())
