"""Measure how long the program takes to start, compared with a bare Python interpreter.

Goal: ``--help`` under 0.5 s and a whole estimate under 0.7 s on a small machine. The commands
alternate, so that a disturbance affects all of them alike. The output is the median time of each
command and its ratio to the bare interpreter.

    python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python": ["-c", "pass"],
    "import numpy, pydantic, rich, typer": ["-c", "import numpy, pydantic, rich, typer"],
    "groundspeed --help": ["-m", "groundspeed", "--help"],
    "groundspeed estimate": ["-m", "groundspeed", "estimate", "qwen2.5-32b", "--gpu", "h20"],
}
ROUNDS = 15


def main() -> None:
    """Time the commands alternately and print a table."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-P", *arguments], check=True, stdout=subprocess.DEVNULL
            )
            times[name].append(time.perf_counter() - begin)
    base = statistics.median(times["python"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:40s} {median:6.3f} s   {median / base:5.1f} x python")


if __name__ == "__main__":
    main()
