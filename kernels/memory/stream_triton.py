"""Memory streams in Triton: read, write, copy and triad with wide loads and no other work.

The read kernel sums its elements, because the compiler removes loads whose result is not used. Each
program writes one partial sum, which proves that every element was read.

    calls = TritonStream(mode="read", dtype="float32").prepare({"bytes": 2.0**30}, pool)
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# (a jitted kernel is launched by indexing it with its grid, which pyright does not understand)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, deviation
from groundspeed.kernels.memory.stream import (
    ARRAYS,
    TRIAD_FACTOR,
    array_items,
    check_stream,
    stream_cost,
)
from groundspeed.kernels.operands import OperandPool

BLOCK = 4096
"""Elements that a program moves: in float32, 128 threads move 16 bytes each, eight times."""

WARPS = 4
"""Number of warps per program."""


@triton.jit
def read_kernel(a_ptr, sums_ptr, items, BLOCK: tl.constexpr):
    """Store the sum of one block of the input."""
    pid = tl.program_id(0)
    at = pid.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + at, mask=at < items, other=0.0)
    tl.store(sums_ptr + pid, tl.sum(a.to(tl.float32), axis=0))


@triton.jit
def write_kernel(out_ptr, items, value, BLOCK: tl.constexpr):
    """Fill one block of the output with a value."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    filled = tl.full((BLOCK,), value, dtype=tl.float32)
    tl.store(out_ptr + at, filled.to(out_ptr.dtype.element_ty), mask=at < items)


@triton.jit
def copy_kernel(a_ptr, out_ptr, items, BLOCK: tl.constexpr):
    """Copy one block of the input to the output."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(a_ptr + at, mask=at < items), mask=at < items)


@triton.jit
def triad_kernel(a_ptr, b_ptr, out_ptr, items, factor, BLOCK: tl.constexpr):
    """Store a + factor * b for one block."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + at, mask=at < items).to(tl.float32)
    b = tl.load(b_ptr + at, mask=at < items).to(tl.float32)
    tl.store(out_ptr + at, (a + factor * b).to(out_ptr.dtype.element_ty), mask=at < items)


@dataclass(frozen=True)
class TritonStream:
    """Memory stream through the Triton kernel of its mode."""

    mode: str
    dtype: str = "float32"
    operation: str = "stream"
    backend: str = "triton"

    @property
    def config_key(self) -> dict[str, str]:
        """Stream mode and data type."""
        return {"mode": self.mode, "dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return ``bytes``, split into bytes read and bytes written by the mode."""
        return stream_cost(case, self.mode)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per set of arrays, with enough sets to exceed every cache."""
        return [self._build(case, pool)[0] for _ in range(pool.rotations(case["bytes"]))]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64; outputs hold NaN before, so unwritten elements are detected."""
        call, inputs, output = self._build(case, pool)
        output.fill_(float("nan"))
        call()
        if self.mode == "read":
            blocks = torch.nn.functional.pad(inputs[0].double(), (0, -inputs[0].numel() % BLOCK))
            expected = blocks.view(-1, BLOCK).sum(1)
            return deviation(output, expected, BLOCK**0.5, torch.float32, terms=BLOCK)
        return check_stream(self.mode, output, inputs)

    def _build(
        self, case: Case, pool: OperandPool
    ) -> tuple[Call, list[torch.Tensor], torch.Tensor]:
        items = array_items(case, self.mode, self.dtype)
        dtype = DTYPES[self.dtype]
        inputs = [pool.take((items,), dtype) for _ in range(ARRAYS[self.mode][0])]
        grid = (triton.cdiv(items, BLOCK),)
        if self.mode == "read":
            sums = torch.empty(grid, dtype=torch.float32, device=pool.device)
            a = inputs[0]
            return lambda: read_kernel[grid](a, sums, items, BLOCK, num_warps=WARPS), inputs, sums
        out = pool.scratch((items,), dtype)
        if self.mode == "write":
            return lambda: write_kernel[grid](out, items, 1.5, BLOCK, num_warps=WARPS), inputs, out
        a = inputs[0]
        if self.mode == "copy":
            return lambda: copy_kernel[grid](a, out, items, BLOCK, num_warps=WARPS), inputs, out
        b = inputs[1]
        return (
            lambda: triad_kernel[grid](a, b, out, items, TRIAD_FACTOR, BLOCK, num_warps=WARPS),
            inputs,
            out,
        )
