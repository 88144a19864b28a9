"""Memory bandwidth, by what is done with the memory: read, write, copy, triad.

They differ, on every chip: a read-only stream need not turn the bus around, a write may have to
read a line before it can fill it, copy and triad mix both. So they are four numbers. Bytes are
counted as the program sees them (copy moves two arrays, triad three); what a processor reads
behind its back to fill a line is its own loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.kernel import DTYPES, Call, Case, Cost, UnsupportedCaseError, deviation
from groundspeed.kernels.operands import OperandPool

ARRAYS = {"read": (1, 0), "write": (0, 1), "copy": (1, 1), "triad": (2, 1)}
"""Arrays read and written by each mode."""

TRIAD_FACTOR = 3.0
CHECK_ITEMS = 1 << 16


@dataclass(frozen=True)
class TorchStream:
    """Streams through torch: max-reduce, fill, copy, and a + 3 b."""

    mode: str
    dtype: str = "float32"
    operation: str = "stream"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """The mode and the data type."""
        return {"mode": self.mode, "dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """``bytes`` moved, split by what the mode reads and writes."""
        return stream_cost(case, self.mode)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One stream for each of enough array sets to leave every cache."""
        items = array_items(case, self.mode, self.dtype)
        dtype = DTYPES[self.dtype]
        reads, writes = ARRAYS[self.mode]
        return [
            stream_call(
                self.mode,
                [pool.take((items,), dtype) for _ in range(reads)],
                [pool.scratch((items,), dtype) for _ in range(writes)],
            )
            for _ in range(pool.rotations(case["bytes"]))
        ]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Run each mode on arrays of its own and compare with float64."""
        items = array_items(case, self.mode, self.dtype)
        reads, writes = ARRAYS[self.mode]
        dtype = DTYPES[self.dtype]
        inputs = [pool.take((items,), dtype) for _ in range(reads)]
        poison = float("nan")  # an element that is not written stays visible
        outputs = [pool.scratch((items,), dtype).fill_(poison) for _ in range(writes)]
        result = stream_call(self.mode, inputs, outputs)()
        got = outputs[0] if outputs else result
        if not isinstance(got, torch.Tensor):
            raise TypeError(f"stream {self.mode} returned {type(got).__name__}")
        return check_stream(self.mode, got, inputs)


def array_items(case: Case, mode: str, dtype: str) -> int:
    """Elements of each array so that all arrays together move ``bytes``.

    Raises
    ------
    UnsupportedCaseError
        If that is less than one element.
    """
    items = int(case["bytes"] / sum(ARRAYS[mode]) / DTYPES[dtype].itemsize)
    if items < 1:
        raise UnsupportedCaseError(f"stream of {case['bytes']:g} bytes has no element")
    return items


def stream_cost(case: Case, mode: str) -> Cost:
    """Bytes of a stream, split by direction."""
    reads, writes = ARRAYS[mode]
    per_array = case["bytes"] / (reads + writes)
    return Cost(0.0, reads * per_array, writes * per_array)


def stream_call(mode: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> Call:
    """The stream of a mode over given arrays, as a callable."""
    if mode == "read":
        return lambda: torch.amax(inputs[0])
    if mode == "write":
        return lambda: outputs[0].fill_(1.5)
    if mode == "copy":
        return lambda: outputs[0].copy_(inputs[0])
    if mode == "triad":
        return lambda: torch.add(inputs[0], inputs[1], alpha=TRIAD_FACTOR, out=outputs[0])
    raise UnsupportedCaseError(f"unknown stream mode '{mode}', known: {', '.join(ARRAYS)}")


def check_stream(mode: str, got: torch.Tensor, inputs: list[torch.Tensor]) -> float:
    """Deviation of a stream's result from float64, in units of the tolerance.

    Stretches at the start, middle and end are compared; every element must be finite, and the
    outputs held NaN before.
    """
    if mode == "read":
        expected = inputs[0].max().double()  # a maximum is one of its inputs: nothing rounds
        return deviation(got.reshape(1), expected.reshape(1), 1.0, got.dtype)
    if not torch.isfinite(got).all():
        return float("inf")
    worst = 0.0
    for at in (0, max(0, got.numel() // 2), max(0, got.numel() - CHECK_ITEMS)):
        part = slice(at, at + CHECK_ITEMS)
        parts = [a[part].double() for a in inputs]
        if mode == "write":
            wanted = torch.full_like(got[part], 1.5, dtype=torch.float64)
        elif mode == "copy":
            wanted = parts[0]
        else:
            wanted = parts[0] + TRIAD_FACTOR * parts[1]
        worst = max(worst, deviation(got[part], wanted, 1.0, got.dtype))
    return worst
