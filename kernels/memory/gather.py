"""Gather pages in random order: the memory access of a paged KV cache, without the arithmetic.

Pages have 16 KiB (16 tokens of 8 heads of 64 in bf16) and are in random order. A stream that
follows a block table reaches less bandwidth than a sequential one; this kernel measures how much
less.

    calls = PageGather(dtype="bfloat16").prepare({"bytes": 2.0**29}, pool)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.operands import OperandPool

PAGE_BYTES = 16384
"""[bytes] Size of a page."""


@dataclass(frozen=True)
class PageGather:
    """Copy of pages in the order of a random table; the bytes include the read and the write."""

    dtype: str = "bfloat16"
    operation: str = "stream"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Stream mode ``gather`` and data type."""
        return {"mode": "gather", "dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return the bytes: half of ``bytes`` is read, half is written."""
        return Cost(0.0, case["bytes"] / 2.0, case["bytes"] / 2.0)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per set of pages, with enough sets to exceed every cache."""

        def gather(pages: torch.Tensor, table: torch.Tensor, out: torch.Tensor) -> Call:
            return lambda: torch.index_select(pages, 0, table, out=out)

        sets = pool.rotations(case["bytes"])
        return [gather(*self._build(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Check that every page is at the position that the table gives."""
        pages, table, out = self._build(case, pool)
        torch.index_select(pages, 0, table, out=out.fill_(float("nan")))
        return 0.0 if torch.equal(out, pages[table]) else float("inf")

    def _build(
        self, case: Case, pool: OperandPool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dtype = DTYPES[self.dtype]
        count = int(case["bytes"] / 2.0 / PAGE_BYTES)
        if count < 1:
            raise UnsupportedCaseError(f"a gather of {case['bytes']:g} bytes is less than one page")
        size = (count, PAGE_BYTES // dtype.itemsize)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
        return pool.take(size, dtype), order.to(pool.device), pool.scratch(size, dtype)
