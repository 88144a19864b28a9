"""The physics check: a consistent profile passes, and each kind of inconsistency is reported."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import profile_factory
from groundspeed.profiles import Profile, check_profile


def errors(document: dict[str, Any]) -> list[str]:
    violations = check_profile(Profile.model_validate(document))
    return [f"{v.where}: {v.what}" for v in violations if v.severity == "error"]


def scale_times(document: dict[str, Any], curve: int, factor: float) -> None:
    for p in document["curves"][curve]["points"]:
        for key in ("time_s", "q10_s", "q90_s", "low_s", "high_s"):
            p[key] *= factor


def rederive(document: dict[str, Any]) -> None:
    """Recompute the rates from the changed curves, so that only the change itself is wrong."""
    profile = Profile.model_validate(document | {"rates": []})
    rates = profile_factory.derive_rates(
        profile.curves, profile.datasheet, profile.stability, profile.device.last_level_cache_bytes
    )
    document["rates"] = [r.model_dump(mode="json") for r in rates]


def test_consistent_profile_passes() -> None:
    assert check_profile(profile_factory.profile()) == []


def microseconds_taken_for_milliseconds(d: dict[str, Any]) -> None:
    scale_times(d, 0, 1e-3)


def sparse_peak(d: dict[str, Any]) -> None:
    scale_times(d, 0, 0.5)


def bits_for_bytes(d: dict[str, Any]) -> None:
    scale_times(d, 1, 1 / 8)


@pytest.mark.parametrize("slip", [microseconds_taken_for_milliseconds, sparse_peak, bits_for_bytes])
def test_wrong_unit_gives_a_rate_above_the_roof(slip: Callable[[dict[str, Any]], None]) -> None:
    document = profile_factory.document()
    slip(document)
    rederive(document)
    assert any("above" in e for e in errors(document))


def test_rate_up_to_the_boost_clock_is_allowed_and_above_is_not() -> None:
    # 1000 TFLOPS is above the datasheet's 989 but below the 1070 that 1980 MHz gives.
    for target, allowed in ((1000e12, True), (1050e12, True), (1120e12, False)):
        document = profile_factory.document()
        best = document["curves"][0]["points"][-1]
        factor = best["flops"] / target / best["time_s"]
        scale_times(document, 0, factor)
        rederive(document)
        assert (errors(document) == []) == allowed, target


def test_bytes_that_differ_from_the_operation_are_reported() -> None:
    document = profile_factory.document()
    for p in document["curves"][1]["points"]:
        p["bytes"] *= 4
    rederive(document)
    assert any("the operation has" in e for e in errors(document))


def test_rate_that_differs_from_its_curve_is_reported() -> None:
    document = profile_factory.document()
    document["rates"][0]["value"] *= 1.19
    document["rates"][0]["high"] *= 1.2
    assert any("its curve gives" in e for e in errors(document))


def test_rate_without_a_curve_is_reported() -> None:
    document = profile_factory.document()
    document["rates"].append(document["rates"][0] | {"quantity": "matmul fp4"})
    assert any("do not list the same rates" in e for e in errors(document))


def test_less_time_for_more_work_is_reported() -> None:
    document = profile_factory.document()
    p = document["curves"][0]["points"][5]  # m = 1024: now far slower than 2048, 4096 and 8192
    for key in ("time_s", "q10_s", "q90_s", "low_s", "high_s"):
        p[key] *= 16.0
    rederive(document)
    assert any("more work takes" in e for e in errors(document))


def test_less_time_for_more_work_is_accepted_if_the_machine_was_noisy() -> None:
    """Other load explains the wrong order on a noisy machine; on a steady one it is an error."""
    document = profile_factory.document()
    p = document["curves"][0]["points"][5]
    for key in ("time_s", "q10_s", "q90_s", "low_s", "high_s"):
        p[key] *= 16.0
    document["stability"] = [
        {"limit": "memory", "reference": "matmul", "time_s": 1e-3, "repeats": 24,
         "spread_fraction": 0.5, "drift_fraction": 0.0, "verdict": verdict}
        for verdict in ("steady", "noisy")
    ]  # fmt: skip
    rederive(document)
    assert not any("more work takes" in e for e in errors(document))
    document["stability"].pop()
    rederive(document)
    assert any("more work takes" in e for e in errors(document))


def test_law_that_does_not_fit_its_own_points_is_reported() -> None:
    document = profile_factory.document()
    document["laws"] = [
        {
            "operation": "matmul",
            "config_key": {"dtype": "bfloat16"},
            "model_form": "soft_roofline",
            "coefficients": {
                "startup_s": {"value": 3e-3, "low": 3e-3, "high": 3e-3},
                "bandwidth_bytes_per_s": {"value": 4e9, "low": 4e9, "high": 4e9},
                "compute_flops_per_s": {"value": 7e11, "low": 7e11, "high": 7e11},
                "sharpness": {"value": 3.0, "low": 3.0, "high": 3.0},
            },
            "fit_range": {"m": (1.0, 8192.0), "n": (4096.0, 4096.0), "k": (4096.0, 4096.0)},
            "points": 9,
            "held_out": {
                "points": 9, "method": "leave one out", "median_fraction": 0.1,
                "q90_fraction": 0.2, "log_q05": -0.1, "log_q50": 0.0, "log_q95": 0.1,
            },
            "origin": "measured",
            "source": "somewhere else",
        }
    ]  # fmt: skip
    assert any("its own points take" in e for e in errors(document))


@given(st.floats(0.05, 20.0))
def test_scaled_matmul_times_fail_exactly_if_a_rate_exceeds_the_roof(factor: float) -> None:
    """For any scale factor, the check fails if and only if a rate exceeds the roof of the GPU."""
    document = profile_factory.document()
    scale_times(document, 0, factor)
    rederive(document)
    fastest = max(p["flops"] / p["time_s"] for p in document["curves"][0]["points"])
    assert (errors(document) == []) == (fastest <= 1.02 * 989.4e12 * 1980 / 1830)
