"""The working set of :mod:`groundspeed.kernels.memory.working_set`, read by a Triton kernel.

Each program reads one stretch after another and begins each repetition one stretch further, so
that what a compute unit's own small cache still holds is not what it asks for next; loads ask the
shared cache (``.cg``: cache at the global level). Its sum is what keeps the loads.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# (a jitted kernel is launched by indexing it with its grid)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, deviation
from groundspeed.kernels.memory.working_set import repeats, working_set, working_set_cost
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import compute_units

BLOCK = 4096
WARPS = 8
PROGRAMS_PER_UNIT = 4
"""Enough loads in flight to cover the cache's latency."""


@triton.jit
def working_set_kernel(x_ptr, sums_ptr, items, repeats, BLOCK: tl.constexpr):
    """Sum every PROGRAMS-th block, over all repetitions."""
    pid = tl.program_id(0)
    programs = tl.num_programs(0)
    blocks = tl.cdiv(items, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for step in range(pid, blocks * repeats, programs):
        at = (step % blocks) * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + at, mask=at < items, other=0.0, cache_modifier=".cg")
    tl.store(sums_ptr + pid, tl.sum(total, axis=0))


@dataclass(frozen=True)
class TritonWorkingSet:
    """Sums of a working set that is read many times."""

    dtype: str = "float32"
    operation: str = "working_set"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """The data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Bytes read by one run."""
        return working_set_cost(case)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One callable on one operand: it is to stay where it was read."""
        x = working_set(case, DTYPES[self.dtype], pool)
        grid = self._grid(x)
        sums = torch.empty(grid, dtype=torch.float32, device=pool.device)
        count = repeats(case)
        return [lambda: working_set_kernel[grid](x, sums, x.numel(), count, BLOCK, num_warps=WARPS)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Two repetitions add up to twice the sum."""
        x = working_set(case, DTYPES[self.dtype], pool)
        grid = self._grid(x)
        sums = torch.full(grid, float("nan"), device=pool.device)
        working_set_kernel[grid](x, sums, x.numel(), 2, BLOCK, num_warps=WARPS)
        got = sums.double().sum().reshape(1)
        expected = 2.0 * x.double().sum().reshape(1)
        return deviation(got, expected, x.numel() ** 0.5, torch.float32, terms=x.numel())

    @staticmethod
    def _grid(x: torch.Tensor) -> tuple[int]:
        return (min(triton.cdiv(x.numel(), BLOCK), PROGRAMS_PER_UNIT * compute_units(x.device)),)
