"""Sizes, algbw and busbw of collectives, exactly as nccl-tests defines them.

The meaning of "bytes" depends on the operation, which causes half of all mistakes in comparisons:

| operation | bytes | bus factor |
|---|---|---|
| all_reduce | buffer of each rank | 2 (n - 1) / n |
| all_gather, reduce_scatter | total size: n times the part of one rank | (n - 1) / n |
| gather, scatter, hypercube | total size: n times the part of one rank | (n - 1) / n |
| alltoall, alltoallv | send buffer of each rank | (n - 1) / n |
| broadcast, reduce, sendrecv | the buffer | 1 |

``algbw = bytes / time`` is the bandwidth that a program sees. ``busbw = algbw x factor`` is the
bandwidth on the link of the busiest device if a ring algorithm moves the data, so it can be
compared with the link bandwidth. If a switch sums the data (in-network reduction: NVLS, SHARP),
less data moves over the links and busbw may exceed the link bandwidth without a faster link.
(nccl-tests, doc/PERFORMANCE.md)

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
    "reduce": lambda n: 1.0,
    "gather": lambda n: (n - 1) / n,
    "scatter": lambda n: (n - 1) / n,
    "alltoallv": lambda n: (n - 1) / n,
    "hypercube": lambda n: (n - 1) / n,
}
"""Bus factor of each operation as a function of the number of ranks n."""

MEASURED: Final = (
    "all_reduce", "all_gather", "reduce_scatter", "alltoall", "broadcast", "sendrecv",
)  # fmt: skip
"""Operations that a calibration measures; the others are read from logs only."""

REDUCED_IN_NETWORK: Final = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce")
"""Operations that a switch can take over in part, by summing data or sending copies."""


def bus_factor(op: str, world_size: int) -> float:
    """Return the factor between algbw and busbw.

    Raises
    ------
    InputError
        If the operation is unknown or there are fewer than two ranks.
    """
    if op not in TRAFFIC:
        raise InputError(f"unknown collective '{op}'", remedy=did_you_mean(op, TRAFFIC))
    if world_size < 2:
        raise InputError(f"a collective needs at least two ranks, not {world_size}")
    return TRAFFIC[op](world_size)


def algbw(size_bytes: float, time_s: float) -> float:
    """Return the algorithm bandwidth, bytes over time [bytes/s]."""
    return size_bytes / time_s


def busbw(op: str, world_size: int, size_bytes: float, time_s: float) -> float:
    """Return the bus bandwidth: the load of the busiest link in a ring algorithm [bytes/s]."""
    return algbw(size_bytes, time_s) * bus_factor(op, world_size)
