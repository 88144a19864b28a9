"""Run the program as a user does: another process, its own folder, real exit codes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 1800.0
"""[s] Guard against a hang. No test asserts a duration: on a busy machine all of this is slower."""

QUIET_START_S = 2.0
"""[s] Importing torch in a new process on two quiet cores."""


@dataclass(frozen=True)
class Ran:
    """Exit code and output of a process that has ended."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """This test's environment, with the same code importable."""
    path = os.pathsep.join(p for p in sys.path if p)
    return os.environ | {"PYTHONPATH": path} | more


def groundspeed(*arguments: str, cwd: Path | None = None, **variables: str) -> Ran:
    """Run ``groundspeed`` with arguments."""
    run = subprocess.run(
        [sys.executable, "-P", "-m", "groundspeed", *arguments],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return Ran(run.returncode, run.stdout, run.stderr)


@contextmanager
def running(
    command: Sequence[str], *, output: int = subprocess.PIPE, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a process; when the test leaves, also by a failure, nothing of it is left."""
    process = subprocess.Popen(
        command, env=environment(**variables), stdout=output, stderr=output, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def slowness() -> float:
    """How many times longer a process takes to start now than on a quiet machine, at least 1.

    For timeouts that are part of what is tested (a rank that does not answer within five
    seconds): on a busy machine they must grow, or a slow rank is taken for a dead one.
    """
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, timeout=PATIENCE_S)
    return max(1.0, (time.monotonic() - begin) / QUIET_START_S)
