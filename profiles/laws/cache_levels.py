"""Find the levels of the memory hierarchy (caches and device memory) in a bandwidth curve.

Input is the read bandwidth as a function of the working set size. A level is a plateau, i.e.
neighbouring sizes with similar rates. Between two plateaus the rate changes gradually, while a
growing part of the working set misses the cache. Nothing about the chip is assumed: a cache that
does not exist, or that other work occupies, gives no plateau.

>>> sizes = np.array([64e3, 128e3, 256e3, 512e3, 1e6, 2e6, 4e6, 8e6])
>>> rates = np.array([10e12, 10.2e12, 10.1e12, 9.9e12, 6e12, 4.1e12, 4.0e12, 4.05e12])
>>> levels = find_cache_levels(sizes, rates)
>>> [(p.smallest_bytes, p.largest_bytes, p.rate_bytes_per_s) for p in levels]
[(64000.0, 512000.0, 10050000000000.0), (2000000.0, 8000000.0, 4050000000000.0)]
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AGREE = 0.15
"""Rates of one plateau differ from their median by at most this fraction."""

ODD_ONES = 0.2
"""Fraction of the sizes of a plateau, except its ends, that may be outliers (disturbed samples)."""

FEWEST_SIZES = 3
"""Smallest number of sizes of a plateau.

Two neighbours can agree by chance, or because the slope between two plateaus is flat for one step.
"""


@dataclass(frozen=True)
class CacheLevel:
    """Range of working set sizes that one level of the memory hierarchy serves."""

    smallest_bytes: float
    """[bytes] Smallest working set of the plateau."""
    largest_bytes: float
    """[bytes] Largest working set of the plateau."""
    rate_bytes_per_s: float
    """[bytes/s] Median read bandwidth of the plateau."""


def find_cache_levels(
    size_bytes: NDArray[np.float64], rate_bytes_per_s: NDArray[np.float64]
) -> list[CacheLevel]:
    """Find the plateaus of a curve.

    Parameters
    ----------
    size_bytes : (N,) ndarray
        [bytes] Sizes of the working sets.
    rate_bytes_per_s : (N,) ndarray
        [bytes/s] Read bandwidth at each size.

    Returns
    -------
    list of CacheLevel
        Plateaus without overlap, in increasing order of size; longer plateaus have priority.
    """
    order = np.argsort(size_bytes)
    sizes, rates = size_bytes[order], rate_bytes_per_s[order]
    free = np.ones(sizes.size, dtype=bool)
    spans: list[tuple[int, int]] = []
    while True:
        best = (0, 0)
        for start in range(sizes.size):
            for end in range(start + 1, sizes.size + 1):
                if not free[start:end].all():
                    break
                if end - start > best[1] - best[0] and _agree(rates[start:end]):
                    best = (start, end)
        if best[1] - best[0] < FEWEST_SIZES:
            break
        spans.append(best)
        free[best[0] : best[1]] = False
    return [
        CacheLevel(float(sizes[a]), float(sizes[b - 1]), float(np.median(rates[a:b])))
        for a, b in sorted(spans)
    ]


def _agree(rates: NDArray[np.float64]) -> bool:
    median = np.median(rates)
    inside = np.abs(rates / median - 1.0) <= AGREE
    return bool(inside[0] and inside[-1] and np.mean(~inside) <= ODD_ONES)
