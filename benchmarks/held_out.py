"""Test matmul laws fitted on this device to 24, 48, 96 and 192 points against 200 random shapes.

    python benchmarks/held_out.py DEVICE FOLDER [SHAPES]

SHAPES is the number of random shapes to predict (default 200). The shapes for the fit and those to
predict are measured in one run and in random order. The measurements are written to a journal in
FOLDER, so that an interrupted run can be continued by the same command. The output is JSON: for
each number of points, the median and the 90 % quantile of the error, the bias, and the share of
held-out measurements inside the 90 % interval.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from groundspeed.calibrate import choose_points, fit_law
from groundspeed.calibrate.design.measurement_plan import QUICK, matmul_kernel, planned
from groundspeed.calibrate.run.campaign import Request, fingerprint, make_harness
from groundspeed.calibrate.run.device import RunningDevice, open_device
from groundspeed.calibrate.run.journal import Journal
from groundspeed.calibrate.run.runner import Run
from groundspeed.calibrate.timing.telemetry import open_telemetry

BUDGETS = (24, 48, 96, 192)
CANDIDATES = 400
SEED = 20


def main() -> None:
    """Measure all shapes, fit laws to each number of points, and print their errors."""
    device, folder = sys.argv[1], Path(sys.argv[2])
    held_out = int(sys.argv[3]) if len(sys.argv) > 3 else 200
    running = open_device(device)
    gpu = running.device.kind != "cpu"
    dtype, largest = ("bfloat16", 14.0) if gpu else ("float32", 10.0)
    candidates = shapes(CANDIDATES if gpu else 4 * held_out, largest, SEED).assign(dtype=dtype)
    unseen = shapes(held_out, largest, SEED + 1).assign(dtype=dtype)
    budgets = [b for b in BUDGETS if b < len(candidates)]
    chosen = choose_points("matmul", candidates, budget=budgets[-1], seed=0)
    wanted = pd.concat([candidates.loc[chosen], unseen], ignore_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    wanted["time_us"] = measured(running, folder / "held_out.jsonl", wanted)
    seen, rest = wanted.iloc[: len(chosen)], wanted.iloc[len(chosen) :].dropna()
    rows = []
    for budget in budgets:
        points = seen.dropna()
        points = points.loc[choose_points("matmul", points, budget=budget, seed=0)]
        prediction = fit_law("matmul", points, device=running.datasheet).predict(rest)
        error = prediction["time_us"] / rest["time_us"] - 1.0
        inside = rest["time_us"].between(prediction["low_us"], prediction["high_us"])
        rows.append(
            {
                "points": budget,
                "median_error_fraction": float(error.abs().median()),
                "q90_error_fraction": float(error.abs().quantile(0.9)),
                "bias_fraction": float(error.median()),
                "inside_share": float(inside.mean()),
            }
        )
    print(json.dumps({"device": running.device.name, "held_out": len(rest), "budgets": rows}))


def shapes(count: int, largest: float, seed: int) -> pd.DataFrame:
    """Draw random matmul shapes: n and k from 512, m from 1; m above 16 is a multiple of 16."""
    rng = np.random.default_rng(seed)
    m = np.exp2(rng.uniform(0.0, largest, count)).round()
    n, k = (64.0 * np.exp2(rng.uniform(3.0, largest - 6.0, count)).round() for _ in range(2))
    return pd.DataFrame({"m": np.where(m > 16, 16.0 * np.round(m / 16.0), m), "n": n, "k": k})


def measured(running: RunningDevice, journal: Path, wanted: pd.DataFrame) -> list[float]:
    """Return the time of each matmul [us]; NaN if it does not fit in memory or is not valid."""
    mode = replace(QUICK, name="held-out", largest_operand_bytes=2.0**31)
    request = Request(running, mode, journal, "held-out", SEED, allow_busy=True)
    times = [np.nan] * len(wanted)
    with (
        torch.inference_mode(),
        Journal(journal, fingerprint(request)) as kept,
        open_telemetry(running.device.kind, running.torch_device.index or 0) as telemetry,
    ):
        run = Run(kept, make_harness(request, telemetry), lambda *_: None)
        for index in np.random.default_rng(SEED).permutation(len(wanted)):
            row = wanted.iloc[int(index)]
            case = {name: float(row[name]) for name in ("m", "n", "k")}
            kernel = matmul_kernel(str(row["dtype"]))
            entry = run.entry(planned(kernel, case, prefix=f"{index}: "), keep=False)
            if entry is not None and entry.point.valid:
                times[int(index)] = 1e6 * entry.point.time_s
    return times


if __name__ == "__main__":
    main()
