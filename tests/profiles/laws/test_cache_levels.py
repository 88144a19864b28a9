"""Cache levels are found as plateaus of the read rate, also in noisy curves, and only there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from groundspeed.profiles.laws.cache_levels import find_cache_levels

SIZES = np.geomspace(2.0**16, 2.0**30, 43, dtype=np.float64)


def read_time(cache_bytes: list[float], rates: list[float]) -> NDArray[np.float64]:
    """Return seconds per byte if each cache serves its part and the next level serves the rest."""
    per_byte = np.zeros_like(SIZES)
    missed = np.ones_like(SIZES)
    for capacity, rate in zip([*cache_bytes, np.inf], rates, strict=True):
        served = np.minimum(missed, np.clip((capacity / SIZES - 0.5) / 0.5, 0.0, 1.0))
        per_byte += served / rate
        missed = missed - served
    return per_byte


@settings(deadline=None, max_examples=60)
@given(
    cache=st.floats(2.0**19, 2.0**27),
    fall=st.floats(1.6, 8.0),
    seed=st.integers(0, 1000),
)
def test_one_cache_and_the_memory_are_found_in_a_noisy_curve(
    cache: float, fall: float, seed: int
) -> None:
    noise = np.exp(np.random.default_rng(seed).normal(0.0, 0.02, SIZES.size))
    plateaus = find_cache_levels(SIZES, noise / read_time([cache], [fall * 4e12, 4e12]))
    fast, slow = plateaus[0], plateaus[-1]
    assert fast.rate_bytes_per_s == pytest.approx(fall * 4e12, rel=0.05)
    assert slow.rate_bytes_per_s == pytest.approx(4e12, rel=0.05)
    assert cache / 2.6 <= fast.largest_bytes <= 1.3 * cache


def test_two_caches_and_the_memory_give_three_levels() -> None:
    """An MI300X has 4 MB of L2 per die, 256 MB of Infinity Cache, and HBM."""
    rates = 1.0 / read_time([2.0**22, 2.0**28], [20e12, 9e12, 4e12])
    levels = find_cache_levels(SIZES, rates)
    assert [round(p.rate_bytes_per_s / 1e12) for p in levels] == [20, 9, 4]


def test_one_outlier_does_not_split_a_plateau() -> None:
    rates = np.full(SIZES.size, 4e12)
    rates[20] = 2.5e12
    (only,) = find_cache_levels(SIZES, rates)
    assert (only.smallest_bytes, only.largest_bytes) == (SIZES[0], SIZES[-1])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_sizes_have_no_plateau(count: int) -> None:
    assert find_cache_levels(SIZES[:count], np.full(count, 4e12)) == []


def test_steady_slope_has_no_plateau() -> None:
    rates = np.array([1e12 * 1.5**i for i in range(SIZES.size)])
    assert find_cache_levels(SIZES, rates) == []
