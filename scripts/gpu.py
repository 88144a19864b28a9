"""Everything a GPU is needed for, in steps that survive being stopped; ends with one table.

Runs from a bare checkout with torch, triton, numpy, pandas, scipy, pydantic, typer and rich:

    PYTHONPATH=src python3 -P scripts/gpu.py OUT [--seconds 540]

Each step writes its result under OUT and is not run again when it is there, so the same command
continues after any interruption. ``--seconds`` stops cleanly before a time limit.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOL = [sys.executable, "-P", "-m", "groundspeed"]


def steps(out: Path) -> list[tuple[str, list[str]]]:
    """Name and command of each step; a step's standard output is its result."""
    profiles = ["--profile-dir", str(out / "profiles")]
    verify = [*TOOL, "verify", "--json", *profiles, "--osl", "32", "--seconds", "2"]
    long = ["--prompts", "256,4096,16384", "--batches", "1,8"]
    large = ["--prompts", "512,4096", "--batches", "1,16"]
    small = ["--prompts", "128,512,2048", "--batches", "1,8,64"]
    return [
        ("gpu tests", [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")]),
        ("quick 1", [*TOOL, "calibrate", "--quick", "--json", *profiles]),
        ("verify qwen2.5-7b", [*verify, "qwen2.5-7b", *small]),
        ("peers", [sys.executable, "-P", str(ROOT / "benchmarks" / "peers.py"), "cuda"]),
        ("standard 1", [*TOOL, "calibrate", "--json", *profiles]),
        ("quick 2", [*TOOL, "calibrate", "--quick", "--fresh", "--json", *profiles]),
        ("verify llama-3.1-8b", [*verify, "llama-3.1-8b", *long]),
        ("verify qwen2.5-32b", [*verify, "qwen2.5-32b", *large]),
        ("standard 2", [*TOOL, "calibrate", "--fresh", "--json", *profiles]),
    ]  # fmt: skip


def main() -> None:
    """Run what is left, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="stop before this much has passed"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"}
    for name, command in steps(options.out):
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
        if done.returncode in (0, 1, 5):  # 1: a check did not pass; 5: pytest found no test
            result.write_text(done.stdout)
        else:
            print(f"  failed: {done.stderr.strip()[-600:]}")
    table(options.out)


def table(out: Path) -> None:
    """One line a result."""
    print()
    for name, _ in steps(out):
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
        else:
            print(
                f"{name:24s} TTFT {document['ttft_median_error_fraction']:.1%}, "
                f"TPOT {document['tpot_median_error_fraction']:.1%}, "
                f"inside {document['inside_share']:.0%}, {document['blame']}"
            )


if __name__ == "__main__":
    main()
