"""Everything a GPU is needed for, in steps that survive being stopped; ends with one table.

Runs from a bare checkout with torch, triton, numpy, pandas, scipy, pydantic, typer and rich:

    PYTHONPATH=src python3 -P scripts/gpu.py OUT [--seconds 540]

Each step writes its result under OUT and is not run again when it is there, so the same command
continues after any interruption. ``--seconds`` stops cleanly before a time limit.
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
    """Name and command of each step, the most wanted first; its standard output is its result."""
    profiles = ["--profile-dir", str(out / "profiles")]
    verify = [*TOOL, "verify", "--json", *profiles, "--osl", "32", "--seconds", "2"]
    long = ["--prompts", "256,4096,16384", "--batches", "1,8"]
    large = ["--prompts", "512,4096", "--batches", "1,16"]
    small = ["--prompts", "128,512,2048", "--batches", "1,8,64"]
    # Half of the layers of 70 B fit one GPU in bf16, and each layer is the same work.
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
    """The same kinds of steps, as small as they come, on the processor: whether all parts fit."""
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
    """The tests that need a GPU, if there is a pytest to run them."""
    if importlib.util.find_spec("pytest") is None:
        return [sys.executable, "-c", "print('pytest is not installed here: not run')"]
    plain = ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    plain += ["-W", "ignore::pytest.PytestConfigWarning"]  # settings of plugins that are not here
    return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *plain, str(ROOT / "tests")]


HELD_OUT = str(ROOT / "benchmarks" / "held_out.py")
HEALTH_CODES = (0, 1, 2, 3)


def main() -> None:
    """Run what is left, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--seconds", type=float, default=1e6, help="stop before this much has passed"
    )
    parser.add_argument("--rehearse", action="store_true", help="small steps on the processor")
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
            print(f"stopped before '{name}': run the same command again")
            break
        print(f"{name} ...", flush=True)
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=left, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"out of time in '{name}': run the same command again, it continues")
            break
        fine = HEALTH_CODES if name == "health" else (0, 1, 5)
        if done.returncode in fine:  # 1: a check did not pass; 5: pytest found no test
            result.write_text(done.stdout)
        else:
            print(f"  failed: {done.stderr.strip()[-600:]}")
    table(options.out, chosen)


def table(out: Path, chosen: list[Step]) -> None:
    """One line a result."""
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
                    f"inside {row['inside_share']:.0%}"
                )
        elif "state" in document:
            judged = [r for r in document["rows"] if r["loss_fraction"] is not None]
            print(f"{name:24s} {document['state']}: {len(judged)} judged; {document['against']}")
        else:
            print(
                f"{name:24s} TTFT {document['ttft_median_error_fraction']:.1%}, "
                f"TPOT {document['tpot_median_error_fraction']:.1%}, "
                f"inside {document['inside_share']:.0%}, {document['blame']}"
            )


if __name__ == "__main__":
    main()
