"""The CPU timer rotates through the calls, groups short ones and excludes work in between."""

import itertools
import statistics

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from groundspeed.calibrate.timing.timers import CpuTimer


def test_calls_are_taken_in_rotation() -> None:
    order: list[int] = []
    calls = [lambda i=i: (order.append(i), sum(range(20_000)))[1] for i in range(3)]
    timed = CpuTimer().prepare(calls)
    order.clear()
    timed.sample(7)
    assert len(order) >= 7
    assert all((b - a) % 3 == 1 for a, b in itertools.pairwise(order))


def test_between_callback_is_run_but_not_timed() -> None:
    log: list[str] = []

    def between() -> None:
        log.append("between")
        sum(range(300_000))

    timed = CpuTimer().prepare([lambda: log.append("call")], between=between)
    log.clear()
    samples = timed.sample(5)
    assert log == ["between", "call"] * 5
    alone = CpuTimer().prepare([between]).sample(5)
    assert statistics.median(samples) < statistics.median(alone)  # by a factor of about 1000


def test_short_calls_are_grouped_into_one_sample() -> None:
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    timed = CpuTimer().prepare([tick])
    count = 0
    samples = timed.sample(3)
    assert len(samples) == 3
    assert count > 3 * 10
