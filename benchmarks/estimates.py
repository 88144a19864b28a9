"""Measure how long predictions take: one, a sweep, a plan, a table, and a cold start.

    python benchmarks/estimates.py [--rows ROWS.csv]

Everything but the cold start is measured in one process that has asked for the same deployments
before. A cold start is a new process that runs ``groundspeed estimate``; it alternates with a
process that only imports numpy and pydantic, and with AISimulate's command line where that is
installed (``--peer PYTHON``, an interpreter that has it).
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import groundspeed as gs
from groundspeed.estimator import find_model
from groundspeed.estimator.backtest.backtest import backtest
from groundspeed.estimator.decisions.plan import make_plan
from groundspeed.estimator.decisions.plan_records import Candidate, Request
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.serving.closed_form import Loads, closed_form
from groundspeed.estimator.serving.step_time import StepTimes, step_graph
from groundspeed.estimator.serving.workload import Workload

CHUNK = 20_000
TURNS = 5
DEPLOYMENTS = (
    ("llama-3.1-8b", "h100", 1), ("llama-3.3-70b", "h200", 4), ("qwen3-32b", "mi300x", 1),
    ("deepseek-r1", "h200", 8), ("gpt-oss-120b", "b200", 1), ("qwen3-30b-a3b", "h100", 2),
)  # fmt: skip
CONCURRENCY = (1, 2, 4, 8, 16, 32, 64, 128)
ESTIMATE = [
    "-m", "groundspeed", "estimate", "deepseek-r1", "--gpu", "h200", "--tp", "8",
    "--concurrency", "16", "--json",
]  # fmt: skip
PEER = [
    "-m", "aisimulate.cli.main", "cli", "estimate", "--model-path", "Qwen/Qwen3-32B",
    "--system", "h200_sxm", "--tp-size", "1",
]  # fmt: skip


def main() -> None:
    """Run all measurements and print their results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=Path, help="table of measured servers")
    parser.add_argument("--peer", help="python interpreter that has AISimulate")
    options = parser.parse_args()
    times = []
    for model, gpu, tp in DEPLOYMENTS:
        server = build_server(model, gpu, ServerOptions(tp=tp))
        server.predict(Workload(1024, 512, 64))
        for n in CONCURRENCY:
            begin = time.perf_counter()
            server.predict(Workload(1024, 512, n))
            times.append(time.perf_counter() - begin)
    median_ms, largest_ms = 1e3 * statistics.median(times), 1e3 * max(times)
    print(f"one prediction with simulation         {median_ms:8.1f} ms median, "
          f"{largest_ms:.1f} largest of {len(times)}")  # fmt: skip
    sweep = [timed(lambda: gs.sweep("deepseek-r1", gpu="h200", tp=8, concurrency=CONCURRENCY))
             for _ in range(TURNS)]  # fmt: skip
    print(f"sweep of eight concurrencies           {1e3 * statistics.median(sweep):8.1f} ms")
    hardware = find_hardware("h200")
    candidate = Candidate("h200", hardware.best, ServerOptions().engine_on(hardware), 8, 3.0)
    request = Request(find_model("llama-3.3-70b"), [candidate], Workload(1024, 1024))
    plans = [timed(lambda: make_plan(request)) for _ in range(TURNS)]
    made = make_plan(request)
    print(f"plan of {made.tried} candidates                  {statistics.median(plans):8.2f} s, "
          f"{made.simulated} of them simulated")  # fmt: skip
    if options.rows:
        with options.rows.open(newline="") as file:
            rows = list(csv.DictReader(file))[:1000]
        took = timed(lambda: backtest(rows, lambda name: find_hardware(name).best))
        print(f"backtest of {len(rows):,} rows                 {took:8.1f} s")
    print(f"closed form                            {closed_form_rate():8,.0f} loads per second")
    cold, bare, peer = [], [], []
    for _ in range(TURNS):
        cold.append(process(sys.executable, ESTIMATE))
        bare.append(process(sys.executable, ["-c", "import numpy, pydantic"]))
        if options.peer:
            peer.append(process(options.peer, PEER))
    a, b = statistics.median(cold), statistics.median(bare)
    print(f"cold start of one estimate             {a:8.2f} s, {a / b:.1f} times the imports alone")
    if peer:
        c = statistics.median(peer)
        print(f"cold start of AISimulate's estimate    {c:8.2f} s, {c / a:.1f} times ours")


def closed_form_rate() -> float:
    """Return how many loads the closed form evaluates per second."""
    server = build_server("llama-3.1-70b", "h200", ServerOptions(tp=4, dtype="fp8"))
    graph = step_graph(server.model, server.deployment, server.engine)
    steps = StepTimes(graph, server.nodes, server.engine, 1024, 16_384.0)
    rng = np.random.default_rng(0)
    loads = Loads(
        rng.uniform(128.0, 8192.0, CHUNK),
        rng.uniform(16.0, 4096.0, CHUNK),
        np.floor(rng.uniform(1.0, 512.0, CHUNK)),
    )
    closed_form(steps, server.engine, loads)
    return CHUNK / min(timed(lambda: closed_form(steps, server.engine, loads)) for _ in range(10))


def timed(run: Callable[[], object]) -> float:
    """Return how long a call takes [s]."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def process(python: str, arguments: list[str]) -> float:
    """Run Python with these arguments in a new process and return the wall time [s]."""
    begin = time.perf_counter()
    subprocess.run([python, *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
