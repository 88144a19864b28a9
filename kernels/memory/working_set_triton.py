"""The working set of :mod:`groundspeed.kernels.memory.working_set`, read by a Triton kernel.

All compute units work on a working set of any size: the blocks of all repetitions are dealt out to
the programs in turn. A program's next block is therefore usually not in the small L1 cache of its
compute unit. Loads also bypass the L1 cache
(``.cg``: cache at the global level). The kernel sums its elements, because the compiler removes
loads whose result is not used.

    calls = TritonWorkingSet(dtype="float32").prepare({"bytes": 2.0**22}, pool)
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# (a jitted kernel is launched by indexing it with its grid, which pyright does not understand)

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
"""Number of elements that a program reads at once."""

WARPS = 8
"""Number of warps per program."""

PROGRAMS_PER_UNIT = 4
"""Programs per compute unit: enough loads in flight to hide the latency of the cache."""


@triton.jit
def working_set_kernel(x_ptr, sums_ptr, items, repeats, BLOCK: tl.constexpr):
    """Sum every n-th block over all repetitions, where n is the number of programs."""
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
    """Repeated read of a working set by a Triton kernel that sums it."""

    dtype: str = "float32"
    operation: str = "working_set"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return the bytes that one run reads."""
        return working_set_cost(case)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable on one operand, so that the operand stays cached."""
        x = working_set(case, DTYPES[self.dtype], pool)
        grid = self._grid(x)
        sums = torch.empty(grid, dtype=torch.float32, device=pool.device)
        count = repeats(case)
        return [lambda: working_set_kernel[grid](x, sums, x.numel(), count, BLOCK, num_warps=WARPS)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Check that two repetitions give twice the sum in float64."""
        x = working_set(case, DTYPES[self.dtype], pool)
        grid = self._grid(x)
        sums = torch.full(grid, float("nan"), device=pool.device)
        working_set_kernel[grid](x, sums, x.numel(), 2, BLOCK, num_warps=WARPS)
        got = sums.double().sum().reshape(1)
        expected = 2.0 * x.double().sum().reshape(1)
        return deviation(got, expected, x.numel() ** 0.5, torch.float32, terms=x.numel())

    @staticmethod
    def _grid(x: torch.Tensor) -> tuple[int]:
        """Return the number of programs: all compute units work, also on a small working set."""
        return (PROGRAMS_PER_UNIT * compute_units(x.device),)
