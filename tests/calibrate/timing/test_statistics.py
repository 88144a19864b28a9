"""Statistics of synthetic samples: clean, drifting, bimodal, autocorrelated, with outliers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundspeed.calibrate.timing.statistics import (
    diagnose,
    median_interval,
    quick_half_width,
    summarize,
)

RNG = np.random.default_rng(7)


def clean(n: int = 200, *, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """Return timing samples: a minimum of 1 ms plus one-sided noise with a short tail."""
    rng = np.random.default_rng(seed)
    return 1e-3 * (1.0 + noise * np.abs(rng.normal(size=n)))


def test_clean_samples_have_no_tag() -> None:
    assert all(diagnose(clean(seed=s)) == () for s in range(20))


def test_drift_of_20_percent_is_tagged_and_of_2_percent_is_not() -> None:
    assert "drift" in diagnose(clean() * np.linspace(1.0, 1.2, 200))
    assert "drift" in diagnose(clean() * np.linspace(1.2, 1.0, 200))
    assert "drift" not in diagnose(clean() * np.linspace(1.0, 1.02, 200))


def test_throttling_half_way_is_tagged_drift_and_bimodal() -> None:
    samples = clean()
    samples[100:] *= 1.4
    assert {"drift", "bimodal"} <= set(diagnose(samples))


def test_two_clock_states_are_tagged_bimodal() -> None:
    samples = clean() * np.where(RNG.random(200) < 0.4, 1.35, 1.0)
    assert diagnose(samples) == ("bimodal",)


def test_outliers_are_tagged_and_do_not_move_the_median() -> None:
    samples = clean()
    hit = RNG.random(200) < 0.15
    samples[hit] *= RNG.uniform(1.5, 20.0, hit.sum())
    assert "outliers" in diagnose(samples)
    assert summarize(samples).median_s == pytest.approx(np.median(clean()), rel=0.01)


def test_nine_samples_are_tagged_few_samples() -> None:
    assert diagnose(clean(9)) == ("few-samples",)


def test_interval_contains_the_true_median_in_about_90_percent_of_cases() -> None:
    inside = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        low, high = median_interval(np.exp(0.05 * rng.normal(size=40)), seed=seed)
        inside += low <= 1.0 <= high
    assert 0.84 <= inside / 300 <= 0.97


def test_autocorrelation_widens_the_interval() -> None:
    """Correlated neighbouring samples carry less information than independent ones."""
    wide, narrow = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        steps = rng.normal(size=200)
        walk = np.zeros(200)
        for i in range(1, 200):
            walk[i] = 0.9 * walk[i - 1] + steps[i]
        samples = np.exp(0.02 * walk)
        low, high = median_interval(samples, seed=seed)
        wide.append(high - low)
        low, high = median_interval(rng.permutation(samples), seed=seed)
        narrow.append(high - low)
    assert np.mean(wide) > 1.3 * np.mean(narrow)


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=60))
def test_median_lies_within_the_quantiles_the_interval_and_the_range(values: list[float]) -> None:
    s = summarize(np.array(values))
    assert s.q10_s <= s.median_s <= s.q90_s
    assert s.low_s <= s.median_s <= s.high_s
    assert min(values) <= s.median_s <= max(values)


@pytest.mark.parametrize("bad", [[], [0.0], [-1.0], [float("nan")], [float("inf")]])
def test_impossible_samples_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="samples"):
        summarize(np.array(bad))


def test_half_width_shrinks_with_more_samples() -> None:
    rng = np.random.default_rng(0)
    widths = [quick_half_width(np.exp(0.1 * rng.normal(size=n))) for n in (20, 200, 2000)]
    assert widths[0] > widths[1] > widths[2]
    assert quick_half_width(np.ones(1)) == float("inf")
