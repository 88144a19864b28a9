"""A node's worker waits for its device processes, but not for ever."""

import subprocess
import sys
import time

import pytest

pytest.importorskip("pandas", reason="pandas is not installed")

from groundspeed.fleet.run import worker


def test_process_that_does_not_answer_in_time_is_stopped() -> None:
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    answers = [sys.executable, "-c", "print('{\"a\": 1}')"]
    slow, quick = worker.run_all([hangs, answers], timeout_s=3.0)
    assert slow.document is None and "no result within the time limit" in slow.reason
    assert quick.document == {"a": 1} or "no result" in quick.reason  # on a very busy machine


class Unkillable:
    """A process in state D: it waits for a driver, and a signal does not end it."""

    returncode = None

    def __init__(self) -> None:
        self.waits: list[float | None] = []

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.waits.append(timeout)
        raise subprocess.TimeoutExpired("check", timeout or 0.0)

    def kill(self) -> None:
        """Do nothing: the process does not react."""


def test_process_that_cannot_be_killed_does_not_hold_the_node() -> None:
    process = Unkillable()
    answer = worker._answer(process, time.monotonic() - 1.0)  # type: ignore[arg-type]
    assert answer.document is None
    assert "cannot be killed" in answer.reason
    assert None not in process.waits
