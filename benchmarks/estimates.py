"""Measure the number of predictions per second, and the time of one from a cold start.

    python benchmarks/estimates.py

In one process on one core, it times the closed form for arrays of loads, and single estimates with
the simulation. The step-time tables are built beforehand and timed separately. A cold start is a
new process that runs ``groundspeed estimate``. It alternates with a process that only imports numpy
and pydantic.
"""

import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

from groundspeed.estimator import find_model
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.engine import find_engine
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.serving.closed_form import Loads, closed_form
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.step_time import StepTimes, step_graph
from groundspeed.estimator.serving.workload import Workload

CHUNK = 20_000
TURNS = 5
ESTIMATE = [
    "-m", "groundspeed", "estimate", "deepseek-r1", "--gpu", "h200", "--tp", "8",
    "--concurrency", "16", "--json",
]  # fmt: skip


def main() -> None:
    """Run all measurements and print their results."""
    hardware, engine = find_hardware("h200").best, find_engine("vllm")
    model, deployment = find_model("llama-3.1-70b"), Deployment(tp=4, dtype="fp8")
    begin = time.perf_counter()
    steps = StepTimes(step_graph(model, deployment, engine), hardware, engine, 1024, 16_384.0)
    tables_s = time.perf_counter() - begin
    rng = np.random.default_rng(0)
    points, begin = 0, time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while points < 1_000_000:
        loads = Loads(
            rng.uniform(128.0, 8192.0, CHUNK),
            rng.uniform(16.0, 4096.0, CHUNK),
            np.floor(rng.uniform(1.0, 512.0, CHUNK)),
        )
        estimates = closed_form(steps, engine, loads)
        assert np.isfinite(estimates.ttft_s).all()
        points += CHUNK
    closed_s = time.perf_counter() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    server = Server(model, deployment, engine, hardware)
    times = []
    for n in (1, 8, 64, 256):
        begin = time.perf_counter()
        server.predict(Workload(1024, 512, n))
        times.append(time.perf_counter() - begin)
    print(f"step-time tables of one deployment     {tables_s * 1e3:8.1f} ms")
    print(f"closed form, {points:,} loads        {points / closed_s:8,.0f} per second, "
          f"{grown / 1024:.0f} MiB more memory")  # fmt: skip
    print(f"one estimate with simulation           {statistics.median(times) * 1e3:8.1f} ms")
    cold, bare = [], []
    for _ in range(TURNS):
        cold.append(timed(ESTIMATE))
        bare.append(timed(["-c", "import numpy, pydantic"]))
    a, b = statistics.median(cold), statistics.median(bare)
    print(f"cold start of one estimate             {a:8.2f} s, {a / b:.1f} times the imports alone")


def timed(arguments: list[str]) -> float:
    """Run Python with these arguments in a new process and return the wall time [s]."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ
    )
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
