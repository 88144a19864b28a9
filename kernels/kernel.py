"""The interface that every kernel implements, and the types it uses (case, cost, error).

``groundspeed.calibrate`` runs any class that has the methods of :class:`Kernel`, so a new kernel
needs no change there. Example:

    kernel = TorchMatmul(dtype="bfloat16")
    calls = kernel.prepare({"m": 16, "n": 4096, "k": 4096}, pool)  # call these in rotation
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from groundspeed.kernels.operands import OperandPool

Case = Mapping[str, float]
"""One input of a kernel: the value of each numeric column.

For example ``{"m": 16, "n": 4096, "k": 4096}``.
"""

Call = Callable[[], object]
"""Runs a prepared case once; its result is ignored by the timing."""

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Torch data type for each data type name that profiles use."""


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes of an operation if every operand crosses the memory bus exactly once.

    Two costs can be added with ``+``.
    """

    flops: float
    """[FLOP] Floating-point operations; a multiply-add counts as two."""
    read_bytes: float
    """[bytes] Memory that is read."""
    written_bytes: float
    """[bytes] Memory that is written."""

    @property
    def bytes(self) -> float:
        """[bytes] Bytes read plus bytes written."""
        return self.read_bytes + self.written_bytes

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
        )


class UnsupportedCaseError(ValueError):
    """Raised when a kernel cannot run a case on a device; the message gives the reason."""


@runtime_checkable
class ManyRuns(Protocol):
    """A kernel that runs its operation several times per call; the time of one run is reported."""

    @property
    def runs_per_call(self) -> int:
        """Number of runs in one call."""
        ...


class Kernel(Protocol):
    """One implementation of one operation."""

    @property
    def operation(self) -> str:
        """Name of the operation as it appears in profiles, e.g. ``matmul``."""
        ...

    @property
    def backend(self) -> str:
        """Library that implements the operation: ``torch`` or ``triton``."""
        ...

    @property
    def config_key(self) -> Mapping[str, str]:
        """Config key of the measured curve: data type, stream mode, and so on."""
        ...

    def cost(self, case: Case) -> Cost:
        """Return the algorithmic FLOPs and bytes of a case."""
        ...

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return callables that each run the case once, each on different operands."""
        ...

    def check(self, case: Case, pool: OperandPool) -> float:
        """Return the largest error against float64 in units of the tolerance; above 1 is wrong."""
        ...


def deviation(
    got: torch.Tensor,
    expected: torch.Tensor,
    scale: float | torch.Tensor,
    dtype: torch.dtype,
    *,
    terms: float = 1.0,
) -> float:
    """Return the largest error of a result, in units of the rounding error that is allowed.

    Parameters
    ----------
    got, expected : Tensor
        The result, and a reference of the same shape computed in float64.
    scale : float or Tensor
        Typical magnitude of an element of the result (``sqrt(k)`` for a product of matrices of
        normal numbers), for all elements or, as a tensor of a shape that broadcasts, for each. It
        is needed because the error of a sum scales with its terms, not with the sum, which can be
        close to zero by cancellation.
    dtype : torch.dtype
        Data type of the result; an error of four units in the last place is allowed.
    terms : float, default 1
        Number of terms that were summed in float32. The rounding errors of a running sum form a
        random walk, so the allowed error grows with the square root of this number.

    Returns
    -------
    float
        Above 1 the result is wrong; infinite if any element is NaN or infinite.
    """
    if not torch.isfinite(got).all():
        return float("inf")
    stored, summed = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    reference = expected.double()
    typical = torch.as_tensor(scale, dtype=torch.float64, device=got.device).clamp(min=1e-30)
    allowed = 4.0 * (stored + summed * terms**0.5) * typical
    error = (got.double() - reference).abs() / (allowed + 4.0 * stored * reference.abs())
    return float(error.max())


CHECK_EVERY = 32
"""One element of every block of this many rows (and columns) is compared with float64. No kernel
has smaller tiles along a longer dimension, so a missing or misplaced tile is seen."""


def spread(size: int, device: torch.device, every: int = CHECK_EVERY) -> torch.Tensor:
    """Return one index of every block of ``every``, at changing places, and the first and last.

    >>> spread(100, torch.device("cpu")).tolist()
    [0, 45, 90, 99, 99]
    """
    blocks = torch.arange(0, size, every, device=device)
    places = blocks + torch.arange(blocks.numel(), device=device) * 13 % every
    last = torch.full((1,), size - 1, dtype=blocks.dtype, device=device)
    return torch.cat((places.clamp(max=size - 1), last))


CHUNK_ITEMS = 1 << 24
"""Elements that a check converts to float64 at once: 128 MiB."""


def chunks(size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most ``CHUNK_ITEMS`` elements."""
    for start in range(0, size, CHUNK_ITEMS):
        yield slice(start, min(start + CHUNK_ITEMS, size))
