"""The sampling loop against simulated devices whose truth is known.

Each device misbehaves in one way that real ones do. The reported value must lie within 1 % of the
truth, or a tag must say what is wrong with it; a wrong number without a tag is the failure.
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
    """A device with a virtual clock: run n takes TRUTH_S times what its behaviour says."""

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
            # The host queues each launch; a timer between device events must not count it.
            self.clock_s += duration + self.overhead_s
            durations.append(duration)
        return durations


def measured(behaviour: Behaviour, **changes: float) -> Sampled:
    device = SimulatedDevice(behaviour, **changes)  # type: ignore[arg-type]
    return sample_until(device, RULE, now=lambda: device.clock_s)


def error(sampled: Sampled) -> float:
    return abs(sampled.summary.median_s / TRUTH_S - 1.0)


def test_a_quiet_device() -> None:
    sampled = measured(lambda n, rng: 1.0)
    assert error(sampled) < 0.01
    assert sampled.tags == ()
    assert sampled.stop == "precise"


def test_launch_overhead_is_not_in_the_sample() -> None:
    assert error(measured(lambda n, rng: 1.0, overhead_s=5e-3)) < 0.01


MISBEHAVIOUR: dict[str, tuple[Behaviour, str]] = {
    "it warms up and slows down": (lambda n, rng: 1.0 + 0.3 * min(1.0, n / 150), "drift"),
    "it throttles half-way": (lambda n, rng: 1.5 if n > 60 else 1.0, "drift"),
    "its clock has two states": (lambda n, rng: 1.3 if rng.random() < 0.45 else 1.0, "bimodal"),
    "a neighbour takes turns": (lambda n, rng: 1.0 if (n // 40) % 2 else 1.25, "bimodal"),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_a_device_that_misbehaves_is_measured_right_or_flagged(name: str) -> None:
    behaviour, tag = MISBEHAVIOUR[name]
    sampled = measured(behaviour)
    assert error(sampled) < 0.01 or tag in sampled.tags or sampled.stop != "precise", sampled


def test_rare_hiccups_do_not_matter() -> None:
    sampled = measured(lambda n, rng: 12.0 if rng.random() < 0.05 else 1.0)
    assert error(sampled) < 0.01


def test_many_hiccups_are_flagged() -> None:
    sampled = measured(lambda n, rng: rng.uniform(2, 20) if rng.random() < 0.2 else 1.0)
    assert "outliers" in sampled.tags or "bimodal" in sampled.tags


def test_a_case_near_the_clock_s_resolution_is_flagged() -> None:
    assert "near-clock-resolution" in measured(lambda n, rng: 1.0, resolution_s=1e-4).tags


def test_hopeless_noise_ends_and_says_so() -> None:
    sampled = measured(lambda n, rng: float(np.exp(rng.normal())))
    assert sampled.stop in ("noise-plateau", "time-cap")


def test_a_repeat_on_the_same_operand_is_not_what_rotation_measures() -> None:
    """L2 serves a repeated operand; rotation over more than the cache never meets a warm one."""
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
