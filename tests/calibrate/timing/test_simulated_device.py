"""The sampling loop on simulated devices with a known run time.

Each simulated device shows one disturbance of real devices. The reported median must be within 1 %
of the true time, or a tag or the stop reason must report the disturbance. A test fails if a wrong
median comes without either.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from groundspeed.calibrate.timing.sampling import Sampled, sample_until
from groundspeed.calibrate.timing.stopping import StopRule

TRUTH_S = 1e-3
RULE = StopRule(min_samples=10, min_time_s=0.05, half_width_fraction=0.01, time_cap_s=2.0)

Behaviour = Callable[[int, np.random.Generator], float]


@dataclass
class SimulatedDevice:
    """A device with a virtual clock: a run takes TRUTH_S times what behaviour returns."""

    behaviour: Behaviour
    noise: float = 0.005
    overhead_s: float = 20e-6
    sample_s: float = TRUTH_S
    resolution_s: float = 1e-9
    clock_s: float = 0.0
    run: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def sample(self, count: int) -> list[float]:
        durations = []
        for _ in range(count):
            tail = np.exp(self.noise * abs(self.rng.normal()))
            duration = TRUTH_S * self.behaviour(self.run, self.rng) * tail
            self.run += 1
            # The launch overhead passes on the clock, but a timer of device events excludes it.
            self.clock_s += duration + self.overhead_s
            durations.append(duration)
        return durations


def measured(behaviour: Behaviour, **changes: float) -> Sampled:
    device = SimulatedDevice(behaviour, **changes)  # type: ignore[arg-type]
    return sample_until(device, RULE, now=lambda: device.clock_s)


def error(sampled: Sampled) -> float:
    return abs(sampled.summary.median_s / TRUTH_S - 1.0)


def test_undisturbed_device_is_measured_within_1_percent_without_tags() -> None:
    sampled = measured(lambda n, rng: 1.0)
    assert error(sampled) < 0.01
    assert sampled.tags == ()
    assert sampled.stop == "precise"


def test_launch_overhead_is_not_part_of_a_sample() -> None:
    assert error(measured(lambda n, rng: 1.0, overhead_s=5e-3)) < 0.01


MISBEHAVIOUR: dict[str, tuple[Behaviour, str]] = {
    "it warms up and slows down": (lambda n, rng: 1.0 + 0.3 * min(1.0, n / 150), "drift"),
    "it throttles after 60 runs": (lambda n, rng: 1.5 if n > 60 else 1.0, "drift"),
    "its clock has two states": (lambda n, rng: 1.3 if rng.random() < 0.45 else 1.0, "bimodal"),
    "another process runs at times": (lambda n, rng: 1.0 if (n // 40) % 2 else 1.25, "bimodal"),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_disturbed_device_is_measured_within_1_percent_or_flagged(name: str) -> None:
    behaviour, tag = MISBEHAVIOUR[name]
    sampled = measured(behaviour)
    assert error(sampled) < 0.01 or tag in sampled.tags or sampled.stop != "precise", sampled


def test_outliers_in_5_percent_of_the_runs_do_not_change_the_median() -> None:
    sampled = measured(lambda n, rng: 12.0 if rng.random() < 0.05 else 1.0)
    assert error(sampled) < 0.01


def test_outliers_in_20_percent_of_the_runs_are_flagged() -> None:
    sampled = measured(lambda n, rng: rng.uniform(2, 20) if rng.random() < 0.2 else 1.0)
    assert "outliers" in sampled.tags or "bimodal" in sampled.tags


def test_run_time_near_the_clock_resolution_is_flagged() -> None:
    assert "near-clock-resolution" in measured(lambda n, rng: 1.0, resolution_s=1e-4).tags


def test_very_noisy_device_stops_at_the_noise_plateau_or_time_cap() -> None:
    sampled = measured(lambda n, rng: float(np.exp(rng.normal())))
    assert sampled.stop in ("noise-plateau", "time-cap")


def test_rotating_operands_avoids_cache_hits_of_repeated_operands() -> None:
    """L2 serves a repeated operand; rotation over more data than L2 holds always misses it."""
    from collections import OrderedDict

    cache: OrderedDict[int, None] = OrderedDict()
    capacity = 6

    def cached(operands: int) -> Behaviour:
        cache.clear()

        def run(n: int, rng: np.random.Generator) -> float:
            operand = n % operands
            warm = operand in cache
            cache[operand] = None
            cache.move_to_end(operand)
            while len(cache) > capacity:
                cache.popitem(last=False)
            return 0.4 if warm else 1.0

        return run

    assert error(measured(cached(3 * capacity))) < 0.01
    assert error(measured(cached(1))) > 0.5  # which is why operands rotate
