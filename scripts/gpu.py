"""Run all steps of the project that need a GPU, and print one table of their results.

The steps are GPU tests, calibration, verification and comparisons with other benchmarks. It runs
from a bare checkout with torch, triton, numpy, pandas, scipy, pydantic, typer and rich:

    PYTHONPATH=src python3 -P scripts/gpu.py OUT [--seconds 540]

Each step writes its result under OUT. A step whose result exists is skipped, so the same command
continues after an interruption. ``--seconds`` stops cleanly before a time limit.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOL = [sys.executable, "-P", "-m", "groundspeed"]


Step = tuple[str, list[str]]


def steps(out: Path) -> list[Step]:
    """Return name and command of each step, most important first; the result is its stdout."""
    profiles = ["--profile-dir", str(out / "profiles")]
    verify = [*TOOL, "verify", "--json", *profiles, "--osl", "32", "--seconds", "2"]
    long = ["--prompts", "256,4096,16384", "--batches", "1,8"]
    large = ["--prompts", "512,4096", "--batches", "1,16"]
    small = ["--prompts", "128,512,2048", "--batches", "1,8,64"]
    # Half of the layers of a 70B model fit on one GPU in bf16. All layers do the same work.
    half = ["--layers", "40", "--prompts", "512,4096", "--batches", "1,16"]
    return [
        ("gpu tests", tests()),
        ("quick 1", [*TOOL, "calibrate", "--quick", "--json", *profiles]),
        ("health", [*TOOL, "fleet", "healthcheck", "--json", *profiles]),
        ("verify qwen2.5-7b", [*verify, "qwen2.5-7b", *small]),
        ("peers", [sys.executable, "-P", str(ROOT / "benchmarks" / "peers.py"), "cuda"]),
        ("standard 1", [*TOOL, "calibrate", "--json", *profiles]),
        ("quick 2", [*TOOL, "calibrate", "--quick", "--fresh", "--json", *profiles]),
        ("verify llama-3.1-8b", [*verify, "llama-3.1-8b", *long]),
        ("verify qwen2.5-32b", [*verify, "qwen2.5-32b", *large]),
        ("verify mistral-7b-v0.3", [*verify, "mistral-7b-v0.3", *long]),
        ("verify llama-3.1-70b", [*verify, "llama-3.1-70b", *half]),
        ("held out", [sys.executable, "-P", HELD_OUT, "cuda:0", str(out / "held_out")]),
        ("standard 2", [*TOOL, "calibrate", "--fresh", "--json", *profiles]),
        ("full", [*TOOL, "calibrate", "--full", "--json", *profiles]),
    ]


def rehearsal(out: Path) -> list[Step]:
    """Return the same kinds of steps in the smallest size on the CPU, to test this script."""
    profiles = ["--profile-dir", str(out / "profiles"), "--device", "cpu"]
    verify = [*TOOL, "verify", "--json", *profiles, "--osl", "4", "--seconds", "0.2"]
    return [
        ("gpu tests", tests()),
        ("quick 1", [*TOOL, "calibrate", "--quick", "--json", *profiles]),
        ("health", [*TOOL, "fleet", "healthcheck", "--json", *profiles]),
        ("verify qwen2.5-0.5b", [*verify, "qwen2.5-0.5b", "--prompts", "64", "--batches", "1"]),
        ("held out", [sys.executable, "-P", HELD_OUT, "cpu", str(out / "held_out"), "10"]),
    ]


def tests() -> list[str]:
    """Return the command of the tests that need a GPU; without pytest, it prints a note."""
    if importlib.util.find_spec("pytest") is None:
        return [sys.executable, "-c", "print('not run: pytest is not installed')"]
    plain = ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    plain += ["-W", "ignore::pytest.PytestConfigWarning"]  # options of plugins that may be missing
    return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *plain, str(ROOT / "tests")]


HELD_OUT = str(ROOT / "benchmarks" / "held_out.py")
HEALTHCHECK_EXIT_CODES = (0, 1, 2, 3)


def main() -> None:
    """Run the steps that have no result yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the results; created if missing")
    parser.add_argument(
        "--seconds", type=float, default=1e6, help="[s] stop before this time; default: no limit"
    )
    parser.add_argument("--rehearse", action="store_true", help="run small steps on the CPU")
    options = parser.parse_args()
    chosen = (rehearsal if options.rehearse else steps)(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"}
    for name, command in chosen:
        result = options.out / f"{name.replace(' ', '_')}.txt"
        left = options.seconds - (time.monotonic() - begin)
        if result.exists():
            continue
        if left < 30:
            print(f"time limit reached before '{name}': run the same command again to continue")
            break
        print(f"{name} ...", flush=True)
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=left, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"time limit reached in '{name}': run the same command again to continue")
            break
        accepted_codes = HEALTHCHECK_EXIT_CODES if name == "health" else (0, 1, 5)
        if done.returncode in accepted_codes:  # 1: a check failed; 5: pytest found no test
            result.write_text(done.stdout)
        else:
            print(f"  failed: {done.stderr.strip()[-600:]}")
    table(options.out, chosen)


def table(out: Path, chosen: list[Step]) -> None:
    """Print the result of each step, one line for each value."""
    print()
    for name, _ in chosen:
        path = out / f"{name.replace(' ', '_')}.txt"
        if not path.exists():
            print(f"{name:24s} not run")
            continue
        text = path.read_text()
        try:
            document = json.loads(text)
        except ValueError:
            print(f"{name:24s} {text.strip().splitlines()[-1] if text.strip() else 'no output'}")
            continue
        if "rates" in document:
            for rate in document["rates"]:
                share = f"{rate['utilization']:.1%}" if rate.get("utilization") else ""
                print(
                    f"{name:24s} {rate['quantity']:36s} {rate['value']:.4g} {rate['unit']} {share}"
                )
        elif "budgets" in document:
            for row in document["budgets"]:
                median, q90 = row["median_error_fraction"], row["q90_error_fraction"]
                print(
                    f"{name:24s} {row['points']:3d} points: median {median:.1%}, P90 {q90:.1%}, "
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


if __name__ == "__main__":
    main()
