"""Run programs on a simulated machine: every process of them finds the GPUs that a test describes.

machine = Machine(gpus=8, faults=({"kind": "slow", "device": 3, "memory_bytes_per_s": 1e12},))
ran = simulate(machine, "calibrate", "--quick", "--json", folder=tmp_path)
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

MACHINE = Path(__file__).parent / "machine"
sys.path.append(str(MACHINE))

from program import PATIENCE_S, Ran, environment  # noqa: E402
from simulated_gpu.chip import MI300X, Chip, Machine  # noqa: E402

__all__ = ["MI300X", "Chip", "Machine", "simulate", "simulate_program", "variables"]


def variables(machine: Machine, folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process on the simulated machine."""
    folder.mkdir(parents=True, exist_ok=True)
    own = environment(TRITON_INTERPRET="1")
    path = os.pathsep.join([str(MACHINE), own["PYTHONPATH"]])
    about = replace(machine, folder=str(folder)).dump()
    return own | {"PYTHONPATH": path, "SIMULATED_MACHINE": about, "OMP_NUM_THREADS": "1"} | more


def simulate(machine: Machine, *arguments: str, folder: Path, **more: str) -> Ran:
    """Run ``groundspeed`` on the simulated machine; its profiles go into ``folder``."""
    return simulate_program(
        machine, [sys.executable, "-P", "-m", "groundspeed", *arguments], folder, **more
    )


def simulate_program(machine: Machine, command: list[str], folder: Path, **more: str) -> Ran:
    """Run any program on the simulated machine."""
    run = subprocess.run(
        command, env=variables(machine, folder, **more), capture_output=True, text=True,
        check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    return Ran(run.returncode, run.stdout, run.stderr)
