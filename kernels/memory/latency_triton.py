"""How long one load takes: a chase of pointers through a working set, in Triton.

Each load's address is the result of the one before, so nothing overlaps and the time a step is
the latency of whichever level of memory holds the working set. The chain is one random cycle over
cache lines (a permutation without short cycles, by Sattolo's algorithm), so no prefetcher guesses
it. One program, one lane: a device's bandwidth plays no part.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# (a jitted kernel is launched by indexing it with its grid)

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.operands import OperandPool

LINE_BYTES = 128
"""Stride between chain elements: a cache line of a GPU, two of a processor."""

STEPS = 4096


@triton.jit
def chase_kernel(chain_ptr, end_ptr, steps):
    """Follow the chain; store where it ends, or the compiler would drop the loop."""
    at = tl.load(end_ptr)
    for _ in range(steps):
        at = tl.load(chain_ptr + at)
    tl.store(end_ptr, at)


def random_cycle(items: int, *, seed: int) -> np.ndarray:
    """A permutation of ``items`` that is one single cycle (Sattolo's algorithm).

    Returns
    -------
    (items,) int64 ndarray
        ``next[i]`` is where i leads.
    """
    order = np.random.default_rng(seed).permutation(items)
    following = np.empty(items, dtype=np.int64)
    following[order] = np.roll(order, -1)
    return following


@dataclass(frozen=True)
class PointerChase:
    """Latency of dependent loads over a working set of ``bytes``."""

    steps: int = STEPS
    operation: str = "latency"
    backend: str = "triton"

    @property
    def runs_per_call(self) -> int:
        """A call is this many loads."""
        return self.steps

    @property
    def config_key(self) -> dict[str, str]:
        """What kind of access."""
        return {"op": "load"}

    def cost(self, case: Case) -> Cost:
        """One line a step; no rate is meant."""
        return Cost(0.0, 0.0, 0.0)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One chain, followed on from where the last run ended: its lines stay where they are."""
        chain, end = self._chain(case, pool)
        return [lambda: chase_kernel[(1,)](chain, end, self.steps, num_warps=1)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """The end of a short chase is where the permutation says."""
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
            raise UnsupportedCaseError(f"a chase through {case['bytes']:g} bytes has no two lines")
        stride = LINE_BYTES // 8
        chain = torch.zeros(lines * stride, dtype=torch.int64, device=pool.device)
        following = torch.from_numpy(random_cycle(lines, seed=lines) * stride)
        chain[::stride] = following.to(pool.device)
        return chain, torch.zeros(1, dtype=torch.int64, device=pool.device)
