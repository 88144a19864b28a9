"""Collectives' sizes and bandwidths, exactly as nccl-tests defines them.

What "bytes" means differs by operation, and is half of all mistakes in comparing numbers:

| operation | bytes | bus factor |
|---|---|---|
| all_reduce | buffer of each rank | 2 (n - 1) / n |
| all_gather, reduce_scatter | the whole: n times what one rank holds | (n - 1) / n |
| alltoall | send buffer of each rank | (n - 1) / n |
| broadcast, sendrecv | the buffer | 1 |

``algbw = bytes / time`` is what a program sees; ``busbw = algbw x factor`` is what the wire of the
busiest device would carry if data moved as often as a ring moves it, so that it can be compared
with the link. Where a switch adds up on the way (NVLS, SHARP) data move less often, and busbw may
exceed the wire: that is in-network reduction, not a faster link. (nccl-tests, doc/PERFORMANCE.md)

>>> round(busbw("all_reduce", 8, 2**29, 2.04e-3) / 1e9)
461
"""

from collections.abc import Callable
from typing import Final

from groundspeed.profiles.errors import InputError, did_you_mean

TRAFFIC: Final[dict[str, Callable[[int], float]]] = {
    "all_reduce": lambda n: 2.0 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "alltoall": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "sendrecv": lambda n: 1.0,
}
"""Bus factor of each operation among n ranks."""

REDUCED_IN_NETWORK: Final = ("all_reduce", "reduce_scatter", "all_gather", "broadcast")
"""Operations that a switch can do a part of: adding up, or sending copies."""


def bus_factor(op: str, world_size: int) -> float:
    """What algbw is multiplied with.

    Raises
    ------
    InputError
        If the operation is unknown or there are fewer than two ranks.
    """
    if op not in TRAFFIC:
        raise InputError(f"unknown collective '{op}'", remedy=did_you_mean(op, TRAFFIC))
    if world_size < 2:
        raise InputError(f"a collective needs two ranks or more, not {world_size}")
    return TRAFFIC[op](world_size)


def algbw(size_bytes: float, time_s: float) -> float:
    """Bytes over time [bytes/s]."""
    return size_bytes / time_s


def busbw(op: str, world_size: int, size_bytes: float, time_s: float) -> float:
    """What the busiest wire would carry in a ring [bytes/s]."""
    return algbw(size_bytes, time_s) * bus_factor(op, world_size)
