"""Read bandwidth as a function of how much is read: where each cache ends, found and not assumed.

A working set is read again and again inside one operation. As long as it fits a cache, that cache
answers; beyond it, the next one. The curve of rate over size therefore has a plateau for each
level, and the sizes at which it falls are what the caches are *worth*, which need not be what a
datasheet says (a cache shared by two halves of a chip, or by other tenants, ends earlier).

This is the one kernel whose operands are warm on purpose.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError, deviation
from groundspeed.kernels.operands import OperandPool

READ_BYTES = 2.0**28
"""One run reads about this much, whatever the working set: starting vanishes."""


def repeats(case: Case) -> int:
    """How often one run reads the working set."""
    return max(1, round(READ_BYTES / case["bytes"]))


def working_set_cost(case: Case) -> Cost:
    """Every repetition reads the whole set."""
    return Cost(0.0, repeats(case) * case["bytes"], 0.0)


def working_set(case: Case, dtype: torch.dtype, pool: OperandPool) -> torch.Tensor:
    """The operand of a case.

    Raises
    ------
    UnsupportedCaseError
        If it has no element.
    """
    items = int(case["bytes"] / dtype.itemsize)
    if items < 1:
        raise UnsupportedCaseError(f"a working set of {case['bytes']:g} bytes has no element")
    return pool.take((items,), dtype)


@dataclass(frozen=True)
class TorchWorkingSet:
    """Row sums of a matrix whose rows are all the same memory."""

    dtype: str = "float32"
    operation: str = "working_set"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """The data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Bytes read by one run."""
        return working_set_cost(case)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One callable on one operand: it is to stay where it was read."""
        rows = working_set(case, DTYPES[self.dtype], pool).expand(repeats(case), -1)
        sums = torch.empty(rows.shape[0], dtype=rows.dtype, device=pool.device)
        return [lambda: torch.sum(rows, dim=1, out=sums)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Every row has the same sum."""
        x = working_set(case, DTYPES[self.dtype], pool)
        got = x.expand(2, -1).sum(dim=1)
        expected = x.double().sum().expand(2)
        return deviation(got, expected, x.numel() ** 0.5, got.dtype, terms=x.numel())
