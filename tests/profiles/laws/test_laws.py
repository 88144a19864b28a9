"""Laws: limits of the soft roofline, prediction intervals, and inputs outside the fit range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundspeed.profiles import InputError, Law, law_time
from groundspeed.profiles.laws import soft_roofline
from groundspeed.profiles.laws.work import Work

COEFFICIENTS = {
    "startup_s": 3e-6,
    "compute_flops_per_s": 8e14,
    "bandwidth_bytes_per_s": 4e12,
    "sharpness": 3.0,
}
positive = st.floats(1.0, 1e15)


def make_law() -> Law:
    return Law.model_validate(
        {
            "operation": "matmul",
            "config_key": {"dtype": "bfloat16"},
            "model_form": "soft_roofline",
            "coefficients": {
                k: {"value": v, "low": 0.9 * v, "high": 1.1 * v} for k, v in COEFFICIENTS.items()
            },
            "fit_range": {"m": (1.0, 4096.0), "n": (512.0, 8192.0), "k": (512.0, 8192.0)},
            "points": 40,
            "held_out": {
                "points": 40,
                "method": "10-fold cross-validation",
                "median_fraction": 0.05,
                "q90_fraction": 0.15,
                "log_q05": -0.1,
                "log_q50": 0.0,
                "log_q95": 0.2,
            },
            "origin": "measured",
            "source": "a test",
        }
    )


def columns(m: float, n: float = 4096.0, k: float = 4096.0) -> dict[str, np.ndarray]:
    return {"m": np.array([m]), "n": np.array([n]), "k": np.array([k])}


def work(flops: float, moved: float) -> Work:
    return Work({}, np.array([flops]), np.array([moved]))


@given(positive, positive)
def test_soft_roofline_lies_between_maximum_and_sum_of_its_terms(
    flops: float, moved: float
) -> None:
    time = soft_roofline.time_s(work(flops, moved), COEFFICIENTS)[0]
    compute, traffic = flops / 8e14, moved / 4e12
    assert time >= (3e-6 + max(compute, traffic)) * (1 - 1e-9)
    assert time <= (3e-6 + compute + traffic) * (1 + 1e-9)


@given(positive, positive, st.floats(1.0, 16.0))
def test_twice_the_work_never_takes_less_time(flops: float, moved: float, sharpness: float) -> None:
    law = COEFFICIENTS | {"sharpness": sharpness}
    less = soft_roofline.time_s(work(flops, moved), law)[0]
    more = soft_roofline.time_s(work(2 * flops, 2 * moved), law)[0]
    assert more >= less


def test_prediction_interval_equals_the_held_out_quantiles() -> None:
    predicted = law_time(make_law(), columns(64.0))
    assert predicted.low_s[0] == pytest.approx(predicted.time_s[0] * np.exp(-0.1))
    assert predicted.high_s[0] == pytest.approx(predicted.time_s[0] * np.exp(0.2))
    assert not predicted.extrapolated[0]


def test_case_outside_the_fit_range_is_extrapolated_with_a_wider_interval() -> None:
    inside, outside = law_time(make_law(), columns(4096.0)), law_time(make_law(), columns(16384.0))
    assert outside.extrapolated[0]
    assert outside.high_s[0] / outside.time_s[0] > inside.high_s[0] / inside.time_s[0]


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_size_that_is_not_positive_and_finite_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="positive and finite"):
        law_time(make_law(), columns(bad))


def test_missing_column_is_refused() -> None:
    with pytest.raises(InputError, match="needs column 'k'"):
        law_time(make_law(), {"m": np.array([1.0]), "n": np.array([1.0])})
