"""The stop rule: every stop reason, the minimum of samples and time, and a certain end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from groundspeed.calibrate.timing.stopping import StopRule, stop_reason

RULE = StopRule(
    min_samples=10, min_time_s=0.1, half_width_fraction=0.01, time_cap_s=2.0, max_samples=500
)


def noisy(n: int, spread: float) -> np.ndarray:
    return 1e-3 * np.exp(spread * np.random.default_rng(n).normal(size=n))


def test_low_noise_stops_as_precise() -> None:
    assert stop_reason(noisy(50, 0.01), elapsed_s=0.2, rule=RULE) == "precise"


def test_no_stop_before_the_minimum_time_and_samples() -> None:
    assert stop_reason(noisy(50, 0.001), elapsed_s=0.05, rule=RULE) is None
    assert stop_reason(noisy(9, 0.001), elapsed_s=10.0, rule=RULE) is None


def test_persistent_noise_stops_at_the_noise_plateau() -> None:
    samples = noisy(300, 0.5)
    assert stop_reason(samples, elapsed_s=0.5, rule=RULE) is None
    assert stop_reason(samples, elapsed_s=1.5, rule=RULE) == "noise-plateau"


def test_time_cap_and_sample_cap_stop_the_sampling() -> None:
    assert stop_reason(noisy(20, 0.5), elapsed_s=2.5, rule=RULE) == "time-cap"
    growing = 1e-3 * np.exp(np.linspace(0.0, 8.0, 500) * np.tile([1.0, -1.0], 250))
    assert stop_reason(growing, elapsed_s=0.3, rule=RULE) == "sample-cap"


def test_bimodal_samples_do_not_stop_as_precise() -> None:
    two = np.tile([1.0e-3, 1.4e-3], 30)
    assert stop_reason(two, elapsed_s=0.5, rule=RULE) is None


@given(st.lists(st.floats(1e-6, 10.0), min_size=10, max_size=600), st.floats(2.0, 1e6))
def test_any_samples_stop_after_the_time_cap(samples: list[float], elapsed_s: float) -> None:
    assert stop_reason(np.array(samples), elapsed_s=elapsed_s, rule=RULE) is not None
