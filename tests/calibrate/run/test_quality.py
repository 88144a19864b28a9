"""Warnings about the quality of a calibration: how many cases, how large, and the remedy."""

import pytest

import profile_factory
from groundspeed.calibrate.run.quality import TAGGED, quality_warnings
from groundspeed.profiles.schema import Curve, Environment, Stability

PROFILE = profile_factory.profile()


def tagged(tag: str, count: int) -> list[Curve]:
    curve = PROFILE.curves[0]
    points = tuple(
        p.model_copy(update={"tags": (tag,)}) if i < count else p
        for i, p in enumerate(curve.points)
    )
    return [curve.model_copy(update={"points": points})]


def environment(**changes: object) -> Environment:
    return PROFILE.environment.model_copy(update=changes)


def test_clean_run_has_no_warning() -> None:
    assert quality_warnings(PROFILE.curves, PROFILE.environment, ()) == []


@pytest.mark.parametrize("tag", TAGGED)
def test_tag_on_many_cases_gives_a_warning_with_count_and_remedy(tag: str) -> None:
    (text,) = quality_warnings(tagged(tag, 4), PROFILE.environment, ())
    assert text.startswith("4 of 9 cases ")
    assert TAGGED[tag] in text


def test_tag_on_under_a_tenth_of_the_cases_gives_no_warning() -> None:
    twenty = PROFILE.curves[0].points * 3
    points = (twenty[0].model_copy(update={"tags": ("drift",)}), *twenty[1:])
    curve = PROFILE.curves[0].model_copy(update={"points": points})
    assert quality_warnings([curve], PROFILE.environment, ()) == []


def test_noise_other_processes_and_mig_each_give_a_warning() -> None:
    noisy = Stability(
        limit="memory", reference="matmul", time_s=1e-3, repeats=24, spread_fraction=0.12,
        drift_fraction=0.0, verdict="noisy",
    )  # fmt: skip
    warnings = quality_warnings(
        PROFILE.curves, environment(other_processes=2, partition_mode="MIG"), (noisy,)
    )
    assert len(warnings) == 3
    assert "memory reference varied by 12%" in warnings[0]
    assert "2 other processes" in warnings[1]
    assert "MIG" in warnings[2]


def test_virtual_machine_and_rate_above_the_datasheet_each_give_a_warning() -> None:
    rate = PROFILE.rates[0].model_copy(update={"utilization": 1.07})
    warnings = quality_warnings(
        PROFILE.curves, environment(virtualization="virtual machine"), (), (rate,)
    )
    assert "virtual machine" in warnings[0]
    assert f"{rate.quantity} is 107% of the datasheet" in warnings[1]


def test_changing_clock_gives_a_warning_and_steady_clock_does_not() -> None:
    curve = PROFILE.curves[0]

    def at(clocks: list[float]) -> list[str]:
        points = [
            p.model_copy(update={"clock_mhz": clocks[i % len(clocks)]})
            for i, p in enumerate(curve.points)
        ]
        changed = curve.model_copy(update={"points": tuple(points)})
        return quality_warnings([changed], PROFILE.environment, ())

    assert at([1980.0, 1965.0]) == []
    (text,) = at([1980.0, 1410.0])
    assert "moved between 1410 and 1980 MHz" in text


def test_cases_stopped_at_the_time_cap_give_a_warning() -> None:
    curve = PROFILE.curves[0]
    capped = tuple(p.model_copy(update={"stop": "time-cap"}) for p in curve.points)
    (text,) = quality_warnings(
        [curve.model_copy(update={"points": capped})], PROFILE.environment, ()
    )
    assert "9 of 9 cases ran out of time" in text
