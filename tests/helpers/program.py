"""Run ``groundspeed`` as a user does: in another process, in a given folder, with its exit code."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 1800.0
"""[s] Longest wait before a test counts as hung.

It is long because a busy machine slows every process down; no test asserts a duration.
"""

QUIET_START_S = 2.0
"""[s] Time to import torch in a new process on two idle cores, the reference of ``slowness``."""


@dataclass(frozen=True)
class Ran:
    """Exit code, standard output and standard error of a finished process."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """Return the environment variables of this process, with its import path in PYTHONPATH."""
    path = os.pathsep.join(p for p in sys.path if p)
    return os.environ | {"PYTHONPATH": path} | more


def groundspeed(*arguments: str, cwd: Path | None = None, **variables: str) -> Ran:
    """Run ``groundspeed`` with the given arguments and environment variables, and wait for it."""
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
    """Start a process, and kill it when the block ends, also after a failed test."""
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
    """Return how many times longer a process takes to start than on an idle machine (at least 1).

    Tests multiply timeouts that are part of the tested behaviour (a rank must answer within five
    seconds) by this factor. Otherwise a slow rank would count as dead on a busy machine.
    """
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, timeout=PATIENCE_S)
    return max(1.0, (time.monotonic() - begin) / QUIET_START_S)
