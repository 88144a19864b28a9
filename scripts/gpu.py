"""Run the steps of the project that need a GPU in half an hour, and print a table of the results.

The steps are calibrations (twice, for the repeatability), verifications on configurations that no
calibration has seen, held-out shapes, comparisons with other benchmarks, and GPU tests. The script
runs from a bare checkout with torch, triton, numpy, pandas, scipy, pydantic, typer and rich:

    PYTHONPATH=src python3 -P scripts/gpu.py OUT [--budget-s 540]

It ends before the budget is used up, and continues when the same command is given again. Three
calls of nine minutes run everything but the last two steps, which take a call each. The most
valuable steps come first. A step that fails leaves its message in the table, and never costs the
next one; a step whose result exists is skipped.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOL = [sys.executable, "-P", "-m", "groundspeed"]
HELD_OUT = str(ROOT / "benchmarks" / "held_out.py")
HEALTHCHECK_EXIT_CODES = (0, 1, 2, 3)
START_S = 15.0
"""[s] Time that a step needs to start and to import torch."""


@dataclass(frozen=True)
class Step:
    """One program and what it needs."""

    name: str
    command: list[str]
    expected_s: float
    """[s] Expected duration on an H100. A step that does not fit into what is left of the budget
    waits for the next call."""
    resumes: bool = False
    """Whether it continues where it was stopped; others begin again."""

    def file(self, out: Path) -> Path:
        """File of its result."""
        return out / f"{self.name.replace(' ', '_')}.txt"


def steps(out: Path) -> list[Step]:
    """Return the steps, the most valuable first; the result of each is its stdout."""
    profiles = ["--profile-dir", str(out / "profiles")]
    device = [*profiles, "--device", "cuda:0"]
    quick = [*TOOL, "calibrate", "--quick", "--json", *device]
    standard = [*TOOL, "calibrate", "--json", *device]
    verify = [*TOOL, "verify", "--json", *device, "--osl", "32", "--seconds", "1"]
    return [
        Step("quick 1", quick, 75, resumes=True),
        # Twelve configurations that no calibration has seen.
        Step("verify qwen2.5-7b", [*verify, "qwen2.5-7b", "--prompts", "128,2048",
                                   "--batches", "1,16"], 70),
        Step("health", [*TOOL, "fleet", "healthcheck", "--json", *profiles], 30),
        Step("peers", [sys.executable, "-P", str(ROOT / "benchmarks" / "peers.py"), "cuda"], 60),
        Step("quick 2", [*quick, "--fresh"], 75, resumes=False),
        Step("verify llama-3.1-8b", [*verify, "llama-3.1-8b", "--prompts", "512,8192",
                                     "--batches", "1,8"], 80),
        Step("verify qwen2.5-32b", [*verify, "qwen2.5-32b", "--layers", "32", "--prompts",
                                    "512,16384", "--batches", "1,4"], 120),
        Step("standard 1", standard, 330, resumes=True),
        Step("gpu tests", tests(), 120),
        Step("verify mixtral-8x7b", [*verify, "mixtral-8x7b", "--layers", "8", "--prompts",
                                     "512,2048", "--batches", "1,8"], 60),
        Step("verify qwen2.5-7b fp8", [*verify, "qwen2.5-7b", "--weights", "fp8_row", "--prompts",
                                       "512,2048", "--batches", "1,8"], 60),
        Step("held out", [sys.executable, "-P", HELD_OUT, "cuda:0", str(out / "held_out")], 120),
        Step("standard 2", [*standard, "--fresh"], 330),
        # Half of the layers of a 70B model fit on one GPU in bf16. All layers do the same work.
        Step("verify llama-3.1-70b", [*verify, "llama-3.1-70b", "--layers", "40", "--prompts",
                                      "512,4096", "--batches", "1,16"], 150),
        Step("full", [*TOOL, "calibrate", "--full", "--json", *device], 530, resumes=True),
    ]  # fmt: skip


def rehearsal(out: Path) -> list[Step]:
    """Return the same kinds of steps in the smallest size on the CPU, to test this script."""
    profiles = ["--profile-dir", str(out / "profiles"), "--device", "cpu"]
    verify = [*TOOL, "verify", "--json", *profiles, "--osl", "4", "--seconds", "0.2"]
    small = ["qwen2.5-0.5b", "--prompts", "64", "--batches", "1"]
    return [
        Step("quick 1", [*TOOL, "calibrate", "--quick", "--json", *profiles], 1),
        Step("verify qwen2.5-0.5b", [*verify, *small], 1),
        Step("health", [*TOOL, "fleet", "healthcheck", "--json", *profiles], 1),
        Step("gpu tests", tests(), 1),
        Step(
            "verify mixtral-8x7b",
            [*verify, "mixtral-8x7b", "--layers", "8", "--prompts", "512,2048", "--batches", "1,8"],
            60,
        ),
        Step(
            "verify qwen2.5-7b fp8",
            [
                *verify,
                "qwen2.5-7b",
                "--weights",
                "fp8_row",
                "--prompts",
                "512,2048",
                "--batches",
                "1,8",
            ],
            60,
        ),
        Step("held out", [sys.executable, "-P", HELD_OUT, "cpu", str(out / "held_out"), "10"], 1),
    ]


def tests() -> list[str]:
    """Return the command of the tests that need a GPU; without pytest, it prints a note."""
    if importlib.util.find_spec("pytest") is None:
        return [sys.executable, "-c", "print('not run: pytest is not installed')"]
    plain = ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    plain += ["-W", "ignore::pytest.PytestConfigWarning"]  # options of plugins that may be missing
    return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *plain, str(ROOT / "tests")]


def elapsed_in(file: Path) -> Callable[[], float]:
    """Return a clock [s] that reads durations, one in a line, from a file instead of the host."""
    return lambda: sum(map(float, file.read_text().split())) if file.exists() else 0.0


def run_steps(
    chosen: list[Step], out: Path, budget_s: float, now: Callable[[], float] = time.monotonic
) -> None:
    """Run the steps that have no result yet, as far as the budget goes.

    Parameters
    ----------
    chosen : list of Step
    out : Path
        Folder of the results.
    budget_s : float
        [s] Time for this call.
    now : callable, optional
        Clock [s]. Default: that of the host.
    """
    out.mkdir(parents=True, exist_ok=True)
    begin_s = now()
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"}
    waiting = [s for s in chosen if not s.file(out).exists()]
    started = 0
    for step in waiting:
        left_s = budget_s - (now() - begin_s)
        # A step that would not fit even into a whole budget is tried when it comes first.
        if left_s < step.expected_s and (started or left_s < START_S):
            print(f"{step.name}: waits for the next call ({left_s:.0f} s are left)")
            continue
        print(f"{step.name} ...", flush=True)
        started += 1
        result = run_step(step, environment, left_s)
        if result is not None:
            step.file(out).write_text(result)


def run_step(step: Step, environment: dict[str, str], left_s: float) -> str | None:
    """Run one step, and return its output or the message of its failure; None to try it again."""
    try:
        done = subprocess.run(
            step.command, env=environment, capture_output=True, text=True,
            timeout=max(left_s, START_S), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        if step.resumes:
            print("  stopped by the budget: the next call continues it")
            return None
        return "failed: it did not end within the budget"
    accepted_codes = HEALTHCHECK_EXIT_CODES if step.name == "health" else (0, 1, 5)
    if done.returncode in accepted_codes and done.stdout.strip():
        return done.stdout  # exit code 1: a check failed; 5: pytest found no test
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    print(f"  failed: {said[-1]}")
    return f"failed: {said[-1]}"


def main() -> None:
    """Run the steps that have no result yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the results; created if missing")
    parser.add_argument(
        "--budget-s", type=float, default=540.0, help="[s] end before this time; default: 540"
    )
    parser.add_argument("--rehearse", action="store_true", help="run small steps on the CPU")
    parser.add_argument("--only", help="names of steps, separated by commas; default: all")
    parser.add_argument("--clock", type=Path, help="file with durations, instead of the clock")
    options = parser.parse_args()
    chosen = (rehearsal if options.rehearse else steps)(options.out)
    if options.only:
        names = [n.strip() for n in options.only.split(",")]
        unknown = sorted(set(names) - {s.name for s in chosen})
        if unknown:
            parser.error(f"unknown step '{unknown[0]}', known: {', '.join(s.name for s in chosen)}")
        chosen = [s for s in chosen if s.name in names]
    now = elapsed_in(options.clock) if options.clock else time.monotonic
    run_steps(chosen, options.out, options.budget_s, now)
    table(options.out, chosen)


def document_of(step: Step, out: Path) -> dict[str, Any] | None:
    """Return the JSON document of a step's result; None if it has none."""
    try:
        found = json.loads(step.file(out).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def repeatability(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Median difference between the rates of two calibrations."""
    rates = {r["quantity"]: r["value"] for r in first["rates"]}
    both = [
        abs(r["value"] / rates[r["quantity"]] - 1.0)
        for r in second["rates"]
        if r["quantity"] in rates
    ]
    return median(both)


def table(out: Path, chosen: list[Step]) -> None:
    """Print the result of each step, one line for each value."""
    print()
    documents = {step.name: document_of(step, out) for step in chosen}
    for step in chosen:
        name, path = step.name, step.file(out)
        document = documents[name]
        if document is None:
            text = path.read_text().strip() if path.exists() else "not run yet"
            print(f"{name:24s} {text.splitlines()[-1] if text else 'no output'}")
            continue
        if "rates" in document:
            for rate in document["rates"]:
                share = f"{rate['utilization']:.1%}" if rate.get("utilization") else ""
                print(
                    f"{name:24s} {rate['quantity']:36s} {rate['value']:.4g} {rate['unit']} {share}"
                )
        elif "budgets" in document:
            for row in document["budgets"]:
                middle, q90 = row["median_error_fraction"], row["q90_error_fraction"]
                print(
                    f"{name:24s} {row['points']:3d} points: median {middle:.1%}, P90 {q90:.1%}, "
                    f"in 90 % interval {row['inside_share']:.0%}"
                )
        elif "state" in document:
            judged = [r for r in document["rows"] if r["loss_fraction"] is not None]
            print(
                f"{name:24s} {document['state']}: {len(judged)} results compared; "
                f"{document['against']}"
            )
        else:
            print(
                f"{name:24s} TTFT {document['ttft_median_error_fraction']:.1%}, "
                f"TPOT {document['tpot_median_error_fraction']:.1%}, "
                f"in 90 % interval {document['inside_share']:.0%}, {document['blame']}"
            )
    for kind in ("quick", "standard"):
        pair = [documents.get(f"{kind} {i}") for i in (1, 2)]
        if pair[0] and pair[1]:
            difference = repeatability(pair[0], pair[1])
            print(f"{kind} 1 against 2: rates differ by {difference:.1%} (median)")


if __name__ == "__main__":
    main()
