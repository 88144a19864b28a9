"""Gather pages from all over a cache: the access of paged KV, without the arithmetic.

Pages of 16 KiB (16 tokens of 8 heads of 64 in bf16) lie in random order; a stream that follows a
table reaches less than one that runs straight on, and this says how much less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.operands import OperandPool

PAGE_BYTES = 16384


@dataclass(frozen=True)
class PageGather:
    """Copy pages in the order of a random table; counts the read and the write."""

    dtype: str = "bfloat16"
    operation: str = "stream"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """A stream of its own mode."""
        return {"mode": "gather", "dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Half of ``bytes`` is read, half written."""
        return Cost(0.0, case["bytes"] / 2.0, case["bytes"] / 2.0)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One gather for each of enough page sets to leave every cache."""

        def gather(pages: torch.Tensor, table: torch.Tensor, out: torch.Tensor) -> Call:
            return lambda: torch.index_select(pages, 0, table, out=out)

        sets = pool.rotations(case["bytes"])
        return [gather(*self._build(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Every page lies where the table says."""
        pages, table, out = self._build(case, pool)
        torch.index_select(pages, 0, table, out=out.fill_(float("nan")))
        return 0.0 if torch.equal(out, pages[table]) else float("inf")

    def _build(
        self, case: Case, pool: OperandPool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dtype = DTYPES[self.dtype]
        count = int(case["bytes"] / 2.0 / PAGE_BYTES)
        if count < 1:
            raise UnsupportedCaseError(f"{case['bytes']:g} bytes hold no page to gather")
        size = (count, PAGE_BYTES // dtype.itemsize)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
        return pool.take(size, dtype), order.to(pool.device), pool.scratch(size, dtype)
