"""Memory bandwidth of four access modes: read, write, copy and triad.

The bandwidth of the modes differs on every chip, so each is measured. A read-only stream does not
switch the bus between reading and writing, a write may have to read a cache line before it can fill
it, and copy and triad mix both. Bytes are counted as the program accesses them (copy moves two
arrays, triad three). Additional reads of a CPU to fill a cache line are not counted, so they lower
the reported bandwidth.

    calls = TorchStream(mode="copy", dtype="float32").prepare({"bytes": 2.0**30}, pool)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.kernel import (
    DTYPES,
    Call,
    Case,
    Cost,
    UnsupportedCaseError,
    chunks,
    deviation,
)
from groundspeed.kernels.operands import OperandPool

ARRAYS = {"read": (1, 0), "write": (0, 1), "copy": (1, 1), "triad": (2, 1)}
"""Number of arrays that each mode reads, and number that it writes."""

TRIAD_FACTOR = 3.0
"""Factor of the triad ``out = a + factor * b``."""


@dataclass(frozen=True)
class TorchStream:
    """Memory stream through torch: read (maximum), write (fill), copy, or triad (a + 3 b)."""

    mode: str
    dtype: str = "float32"
    operation: str = "stream"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Stream mode and data type."""
        return {"mode": self.mode, "dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return ``bytes``, split into bytes read and bytes written by the mode."""
        return stream_cost(case, self.mode)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per set of arrays, with enough sets to exceed every cache."""
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
        """Run the mode on new arrays and compare every element with float64."""
        items = array_items(case, self.mode, self.dtype)
        if self.mode == "read":
            return _check_maximum(pool.scratch((items,), DTYPES[self.dtype]))
        reads, writes = ARRAYS[self.mode]
        dtype = DTYPES[self.dtype]
        inputs = [pool.take((items,), dtype) for _ in range(reads)]
        poison = float("nan")  # makes elements that are not written detectable
        outputs = [pool.scratch((items,), dtype).fill_(poison) for _ in range(writes)]
        stream_call(self.mode, inputs, outputs)()
        return check_stream(self.mode, outputs[0], inputs)


def array_items(case: Case, mode: str, dtype: str) -> int:
    """Return the number of elements per array, so that all arrays together have ``bytes`` bytes.

    Raises
    ------
    UnsupportedCaseError
        If the arrays have less than one element.
    """
    items = int(case["bytes"] / sum(ARRAYS[mode]) / DTYPES[dtype].itemsize)
    if items < 1:
        raise UnsupportedCaseError(f"a stream of {case['bytes']:g} bytes is less than one element")
    return items


def stream_cost(case: Case, mode: str) -> Cost:
    """Return the bytes of a stream, split into bytes read and bytes written."""
    reads, writes = ARRAYS[mode]
    per_array = case["bytes"] / (reads + writes)
    return Cost(0.0, reads * per_array, writes * per_array)


def stream_call(
    mode: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]
) -> Callable[[], torch.Tensor]:
    """Return a callable that runs the stream of a mode over the given arrays."""
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
    """Return the error of a stream's result against float64, in units of the tolerance.

    Every element is compared. The caller fills the outputs with NaN first, so unwritten elements
    are detected.
    """
    if not torch.isfinite(got).all():
        return float("inf")
    worst = 0.0
    for part in chunks(got.numel()):
        parts = [a[part].double() for a in inputs]
        if mode == "write":
            wanted = torch.full_like(got[part], 1.5, dtype=torch.float64)
        elif mode == "copy":
            wanted = parts[0]
        else:
            wanted = parts[0] + TRIAD_FACTOR * parts[1]
        worst = max(worst, deviation(got[part], wanted, 1.0, got.dtype))
    return worst


def _check_maximum(a: torch.Tensor) -> float:
    """Check that the maximum is found at the start, in the middle and at the end of an array."""
    a.fill_(0.0)
    for largest, at in ((1.0, 0), (2.0, a.numel() // 2), (3.0, a.numel() - 1)):
        a[at] = largest
        if not torch.equal(stream_call("read", [a], [])(), a.new_tensor(largest)):
            return float("inf")
    return 0.0
