"""What every kernel offers, and the records it speaks in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from groundspeed.kernels.operands import OperandPool

Case = Mapping[str, float]
"""The numeric columns of one input: ``{"m": 16, "n": 4096, "k": 4096}``."""

Call = Callable[[], object]

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Data types by the name that profiles use."""


@dataclass(frozen=True)
class Cost:
    """What an operation needs if every operand crosses the memory bus once; costs add."""

    flops: float
    read_bytes: float
    written_bytes: float

    @property
    def bytes(self) -> float:
        """Traffic both ways."""
        return self.read_bytes + self.written_bytes

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
        )


class UnsupportedCaseError(ValueError):
    """A kernel cannot run this case on this device; the message says why."""


@runtime_checkable
class ManyRuns(Protocol):
    """A kernel whose one call is several runs; what is reported is the time of one."""

    @property
    def runs_per_call(self) -> int:
        """Runs in one call."""
        ...


class Kernel(Protocol):
    """One operation, implemented one way."""

    @property
    def operation(self) -> str:
        """Name of the operation, as in profiles (``matmul``)."""
        ...

    @property
    def backend(self) -> str:
        """Who implements it: ``torch`` or ``triton``."""
        ...

    @property
    def config_key(self) -> Mapping[str, str]:
        """What its curve holds for: data type, stream mode."""
        ...

    def cost(self, case: Case) -> Cost:
        """Algorithmic cost of a case."""
        ...

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Callables that each run the case once, on different operands."""
        ...

    def check(self, case: Case, pool: OperandPool) -> float:
        """Largest deviation from float64, in units of the tolerance: above 1 is wrong."""
        ...


def deviation(
    got: torch.Tensor,
    expected: torch.Tensor,
    scale: float,
    dtype: torch.dtype,
    *,
    terms: float = 1.0,
) -> float:
    """Largest error in units of what rounding explains.

    Parameters
    ----------
    got, expected : Tensor
        Result, and the float64 reference of the same shape.
    scale : float
        Typical size of an element of the result (``sqrt(k)`` for a product of normal matrices):
        the error of a sum scales with its terms, not with a result that happens to cancel.
    dtype : torch.dtype
        Type of the result; four units in its last place are allowed.
    terms : float, default 1
        Terms that were summed in float32: rounding errors of a running sum walk at random, so
        they grow with the square root of this.

    Returns
    -------
    float
        Infinite if anything is not a number.
    """
    if not torch.isfinite(got).all():
        return float("inf")
    stored, summed = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    reference = expected.double()
    allowed = 4.0 * (stored + summed * terms**0.5) * max(scale, 1e-30)
    error = (got.double() - reference).abs() / (allowed + 4.0 * stored * reference.abs())
    return float(error.max())
