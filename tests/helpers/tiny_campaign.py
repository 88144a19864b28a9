"""Run a calibration that takes seconds, as a program that tests can kill and restart.

With ``--slow`` it sleeps 20 ms after each case, so that a test can kill it in the middle.

Usage: python tiny_campaign.py FOLDER [--slow]
"""

import sys
import time
from pathlib import Path

import torch

from groundspeed.calibrate.design.measurement_plan import Mode
from groundspeed.calibrate.run.campaign import Request, calibrate
from groundspeed.calibrate.run.device import open_device
from groundspeed.calibrate.timing.stopping import StopRule
from groundspeed.profiles import save_profile

TINY = Mode(
    name="tiny",
    matmul_points={"bfloat16": 8, "float32": 6},
    stream_points=5,
    attention_points=5,
    elementwise_points=5,
    longest_call_s=0.002,
    rule=StopRule(min_samples=5, min_time_s=0.001, half_width_fraction=0.2, time_cap_s=0.02),
    largest_operand_bytes=2.0**24,
    peak_steps=2,
    sustained={"bfloat16": 0.2},
    data=True,
)


def main(folder: Path, *, slow: bool) -> None:
    """Calibrate the CPU and write ``profile.json`` into the folder."""
    torch.set_num_threads(1)

    def progress(done: int, total: int, name: str) -> None:
        print(done, total, name, flush=True)
        if slow:
            time.sleep(0.02)

    request = Request(open_device("cpu"), TINY, folder / "journal.jsonl", "tiny_campaign", seed=1)
    profile = calibrate(request, progress)
    save_profile(profile, folder / "profile.json", force=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), slow="--slow" in sys.argv)
