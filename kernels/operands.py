"""A pool of random numbers from which kernels take their operands as views.

The pool exists for three reasons:

- *Random normal values, never zeros*: a chip that multiplies zeros draws less power and runs up to
  15 % faster than on real data.
- *Cold caches*: the weights of a model never fit in the cache, so each run must read weights that
  are not cached. Callers rotate through operand sets that together exceed three times the
  last-level cache.
- *Speed*: filling gigabytes with random numbers for each case would take longer than measuring it,
  so operands are views at different offsets of one pool, which is filled once.

>>> pool = OperandPool(torch.device("cpu"), pool_bytes=2**20, cold_bytes=2**18)
>>> a, b = pool.take((64, 64), torch.float32), pool.take((64, 64), torch.float32)
>>> a.data_ptr() != b.data_ptr()
True
"""

import math
from dataclasses import dataclass, field

import torch

STRETCH_ITEMS = 4_194_301
"""Number of random numbers that are drawn; the pool repeats them. It is a prime: no operand has
this size or a fraction of it, so its parts differ, and a kernel that reads one part twice instead
of the other gives another result."""

ALIGN_BYTES = 256
"""[bytes] Operands start at multiples of this."""

INTEGER_SIGMA = 40.0
"""Standard deviation of int8 operands: three standard deviations reach the end of the range."""


class OperandPool:
    """One block of memory per data type; operands are consecutive views of it.

    Parameters
    ----------
    device : torch.device
        Device on which the memory is allocated.
    pool_bytes : int
        [bytes] Size of the block of one data type, and therefore the limit for one operand.
    cold_bytes : int
        [bytes] Amount of other memory that must be touched between two uses of the same memory,
        so that it is no longer cached: three times the last-level cache.
    seed : int, default 0
        Random seed of the values.
    """

    def __init__(
        self, device: torch.device, *, pool_bytes: int, cold_bytes: int, seed: int = 0
    ) -> None:
        self.device = device
        self.pool_bytes = pool_bytes
        self.cold_bytes = cold_bytes
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._normal = _Ring()
        self._scratch = _Ring()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return the next operand: a read-only view of normal numbers.

        The view does not overlap any recent operand. Writing to it would change later operands.

        Raises
        ------
        MemoryError
            If the operand is larger than the pool; the message gives both sizes.
        """
        return self._next(self._normal, shape, dtype, fill=True)

    def scratch(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return the next view of memory to write to; its initial contents are arbitrary.

        Raises
        ------
        MemoryError
            If the view is larger than the pool, as in :meth:`take`.
        """
        return self._next(self._scratch, shape, dtype, fill=False)

    def rotations(self, touched_bytes: float, *, most: int = 2048) -> int:
        """Return how many operand sets are needed so that each run finds its operands uncached.

        Parameters
        ----------
        touched_bytes : float
            [bytes] Memory that one run touches.
        most : int, default 2048
            Upper limit of the result, which is at least 2.
        """
        return max(2, min(most, math.ceil(self.cold_bytes / max(touched_bytes, 1.0)) + 1))

    def _next(
        self, ring: "_Ring", shape: tuple[int, ...], dtype: torch.dtype, *, fill: bool
    ) -> torch.Tensor:
        items = math.prod(shape)
        if items * dtype.itemsize > self.pool_bytes:
            raise MemoryError(
                f"an operand of {items * dtype.itemsize / 2**20:.0f} MiB does not fit in "
                f"the operand pool of {self.pool_bytes / 2**20:.0f} MiB"
            )
        if dtype not in ring.blocks:
            block = torch.empty(self.pool_bytes // dtype.itemsize, dtype=dtype, device=self.device)
            ring.blocks[dtype] = self._fill(block) if fill else block.zero_()
        block = ring.blocks[dtype]
        start = ring.offset.get(dtype, 0)
        if start + items > block.numel():
            start = 0
        align = ALIGN_BYTES // dtype.itemsize
        ring.offset[dtype] = start + -(-items // align) * align
        return block[start : start + items].view(shape)

    def _fill(self, block: torch.Tensor) -> torch.Tensor:
        # Draw one stretch of random numbers and repeat it: no cache line equals its neighbours,
        # and on a CPU copying is thirty times cheaper than drawing new numbers.
        stretch = torch.randn(
            min(STRETCH_ITEMS, block.numel()), generator=self._generator, device=self.device
        )
        if not block.dtype.is_floating_point:  # int8 values as a quantizer produces them
            stretch = (stretch * INTEGER_SIGMA).round().clamp(-127, 127)
        stretch = stretch.to(block.dtype)
        for start in range(0, block.numel(), stretch.numel()):
            end = min(start + stretch.numel(), block.numel())
            block[start:end] = stretch[: end - start]
        return block


@dataclass
class _Ring:
    """One memory block per data type, with the offset in elements at which the next view starts."""

    blocks: dict[torch.dtype, torch.Tensor] = field(default_factory=dict)
    offset: dict[torch.dtype, int] = field(default_factory=dict)
