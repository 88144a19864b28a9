"""Run the program as a user does: another process, its own folder, real exit codes."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """What a run left behind."""

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
        timeout=600,
    )
    return Ran(run.returncode, run.stdout, run.stderr)
