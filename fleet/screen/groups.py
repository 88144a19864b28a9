"""Split a class that is two: two kinds of GPU in a table, half of a fleet slow, near and far GPUs.

The median describes a class as long as less than half of it is slow. A class in two humps has no
usual value: its halves are judged apart, and the split itself is said, because only a person (or a
reference) can tell two kinds of GPU from a cause that one half shares. GPUs on the far socket reach
their host more slowly by nature: that split is topology, and is not said.

    split = two_groups(np.log(values), nodes, slots)
"""

import numpy as np
from numpy.typing import NDArray

from groundspeed.profiles.operations import Array

FEWEST = 6
"""Fewest units in which two groups can be told from outliers."""

LEAST_SHARE = 0.45
"""[1] Smallest share of the slow group; a smaller one leaves the median with the healthy units."""

FEWEST_FAST = 3
"""Fewest units of the fast group."""

LEAST_GAP = 0.10
"""[1] Smallest distance of the groups' medians, as a logarithm; healthy fleets spread less."""

CLEAR = 6.0
"""Smallest distance of the groups' medians in standard deviations of the wider group."""

MAD_TO_SD = 1.4826


def spread_of(x: Array) -> float:
    """Return a robust standard deviation: 1.4826 times the median absolute deviation."""
    return MAD_TO_SD * float(np.median(np.abs(x - np.median(x)))) if x.size else 0.0


def two_groups(x: Array) -> NDArray[np.bool_] | None:
    """Return a mask of the slow group if the values form two clear groups; None otherwise.

    Parameters
    ----------
    x : array
        Logarithms of the values, greater is better; NaN without a result.
    """
    finite = np.isfinite(x)
    values = x[finite]
    n = values.size
    if n < FEWEST:
        return None
    # Most classes are one: the slow group has the lower 45 %, the fast one the upper 3 %.
    at = int(0.4 * n), n - 1 - int(0.02 * n)
    low_value, high_value = np.partition(values, at)[list(at)]
    if high_value - low_value < LEAST_GAP:
        return None
    values = np.sort(values)
    # Otsu's method: the cut that leaves the least variance within the two sides.
    sizes = np.arange(1, n)
    left, total = np.cumsum(values)[:-1], float(values.sum())
    cut = int(np.argmax(left**2 / sizes + (total - left) ** 2 / (n - sizes)))
    low, high = values[: cut + 1], values[cut + 1 :]
    if low.size < LEAST_SHARE * n or high.size < max(FEWEST_FAST, 0.03 * n):
        return None
    gap = float(np.median(high) - np.median(low))
    if gap < LEAST_GAP or gap < CLEAR * max(spread_of(low), spread_of(high)):
        return None
    limit = 0.5 * (low[-1] + high[0])
    slow: NDArray[np.bool_] = finite & (x <= limit)
    return slow


def near_and_far(x: Array, slots: Array) -> NDArray[np.bool_] | None:
    """Return a mask of the GPUs of the upper half of the slots if sockets explain the values.

    In a node with two sockets, the first half of the GPUs is near one of them. If the halves differ
    by more than they spread, each half is a class of its own.

    Parameters
    ----------
    x : array
        Logarithms of bandwidths to the host; NaN without a result.
    slots : array
        GPU index of each value.
    """
    present = np.unique(slots[np.isfinite(x)])
    if present.size < 4 or present.size % 2 or present.max() >= 64 or present.min() < 0:
        return None
    upper: NDArray[np.bool_] = slots >= present[present.size // 2]
    one, two = x[~upper & np.isfinite(x)], x[upper & np.isfinite(x)]
    gap = abs(float(np.median(one) - np.median(two)))
    # Both halves must be tight, so that a half of slow GPUs is not taken for a socket.
    if gap < 2.0 * max(spread_of(one), spread_of(two)) or not 0.02 < gap < FARTHEST:
        return None
    return upper


FARTHEST = 0.45
"""[1] Largest effect of the far socket, as a logarithm: published MI300X nodes have 0.26."""
