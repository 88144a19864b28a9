"""Latency of one load, by pointer chasing through a working set, in Triton.

The address of each load is the result of the previous one, so loads cannot overlap. The time per
load is then the latency of the memory level that holds the working set. The chain is one random
cycle over cache lines (a permutation without short cycles, by Sattolo's algorithm), so a prefetcher
cannot predict it. Only one program with one lane runs, so bandwidth has no influence.

    calls = PointerChase().prepare({"bytes": 2.0**20}, pool)
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# (a jitted kernel is launched by indexing it with its grid, which pyright does not understand)

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.operands import OperandPool

LINE_BYTES = 128
"""[bytes] Stride between chain elements: one cache line of a GPU, two of a CPU."""

STEPS = 4096
"""Number of loads in one call."""


@triton.jit
def chase_kernel(chain_ptr, end_ptr, steps):
    """Follow the chain and store its end, so that the compiler cannot remove the loop."""
    at = tl.load(end_ptr)
    for _ in range(steps):
        at = tl.load(chain_ptr + at)
    tl.store(end_ptr, at)


def random_cycle(items: int, *, seed: int) -> np.ndarray:
    """Return a random permutation that is one single cycle (Sattolo's algorithm).

    Returns
    -------
    (items,) int64 ndarray
        ``following[i]`` is the successor of i.
    """
    order = np.random.default_rng(seed).permutation(items)
    following = np.empty(items, dtype=np.int64)
    following[order] = np.roll(order, -1)
    return following


@dataclass(frozen=True)
class PointerChase:
    """Latency of dependent loads from a working set of ``bytes`` bytes."""

    steps: int = STEPS
    operation: str = "latency"
    backend: str = "triton"

    @property
    def runs_per_call(self) -> int:
        """Number of loads in one call."""
        return self.steps

    @property
    def config_key(self) -> dict[str, str]:
        """Kind of memory access: ``load``."""
        return {"op": "load"}

    def cost(self, case: Case) -> Cost:
        """Return zero FLOPs and bytes, because only the latency is of interest."""
        return Cost(0.0, 0.0, 0.0)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable; each run continues the chain, whose cache lines stay cached."""
        chain, end = self._chain(case, pool)
        return [lambda: chase_kernel[(1,)](chain, end, self.steps, num_warps=1)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Check that a chase of 64 loads ends where the permutation leads."""
        chain, end = self._chain(case, pool)
        host, at = chain.cpu().numpy(), 0
        for _ in range(64):
            at = int(host[at])
        chase_kernel[(1,)](chain, end, 64, num_warps=1)
        return 0.0 if int(end[0]) == at else float("inf")

    @staticmethod
    def _chain(case: Case, pool: OperandPool) -> tuple[torch.Tensor, torch.Tensor]:
        lines = int(case["bytes"]) // LINE_BYTES
        if lines < 2:
            raise UnsupportedCaseError(f"{case['bytes']:g} bytes are less than two cache lines")
        stride = LINE_BYTES // 8
        chain = torch.zeros(lines * stride, dtype=torch.int64, device=pool.device)
        following = torch.from_numpy(random_cycle(lines, seed=lines) * stride)
        chain[::stride] = following.to(pool.device)
        return chain, torch.zeros(1, dtype=torch.int64, device=pool.device)
