"""Test detection rules on simulated fleets with known faults, and time the screening of a fleet.

    python benchmarks/fleet.py            both tables
    python benchmarks/fleet.py rules      recall and false alarms of each rule
    python benchmarks/fleet.py speed      screening time, up to 41,667 nodes (ten million rows)
    python benchmarks/fleet.py links FILE pairs of real nodes (h100_10_nodes_pairwise.csv)

Columns of the table of rules: ``found`` is the share of slowed GPUs that a rule flags in one run.
``false`` is the number of healthy GPUs flagged per thousand GPUs and metric. ``after`` is the
number of GPUs that are still flagged after two re-runs although their noise-free value lies within
2 % of their class.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from groundspeed.fleet.links.pairwise import Pairs, judge_pairs
from groundspeed.fleet.screen.confirm import confirm, measured_units
from groundspeed.fleet.screen.findings import Screening
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import clean_fleet
from groundspeed.fleet.trial.baseline_detectors import DETECTORS
from groundspeed.fleet.trial.simulated_fleet import GPUS, Fault, SimulatedFleet, simulate_fleet

JUDGED = ("matmul_bf16", "matmul_fp8", "hbm_copy")
TRIALS = {1: 60, 4: 60, 32: 30, 1000: 2}

Named = set[tuple[str, int | None]]


def main() -> None:
    """Run the benchmarks named on the command line; default: rules and speed."""
    wanted = sys.argv[1:] or ["rules", "speed"]
    if "rules" in wanted:
        rules()
    if "speed" in wanted:
        for nodes in (10, 100, 1000, 10_000, 41_667):
            done = subprocess.run(
                [sys.executable, __file__, "one", str(nodes)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            print(done.stdout.rstrip(), flush=True)
    if wanted[0] == "links":
        links(Path(wanted[1]))
    if wanted[0] == "one":
        speed(int(wanted[1]))


def named(screening: Screening) -> Named:
    """Return the nodes and GPUs that a screening flags with WARN or FAIL."""
    return {(f.node, f.gpu) for f in screening.findings if f.verdict in ("WARN", "FAIL")}


def rules() -> None:
    """Print recall and false alarms of each rule, for GPUs slowed by 5 % and by 3 %."""
    print(f"{'nodes':>6} {'slowed':>7}  {'rule':16} {'found':>7} {'false':>7} {'after':>6}")
    for nodes, trials in TRIALS.items():
        for loss in (0.05, 0.03):
            scores: dict[str, list[float]] = {}
            for seed in range(trials):
                score_one_fleet(nodes, loss, seed, scores)
            for rule, (hits, faults, false, after) in scores.items():
                rate = 1000.0 * false / (nodes * GPUS * trials * len(JUDGED))
                rest = f"{after:6.0f}" if rule == "groundspeed" else ""
                share = hits / faults
                print(f"{nodes:6} {loss:7.0%}  {rule:16} {share:7.1%} {rate:7.2f} {rest:>6}")


def score_one_fleet(nodes: int, loss: float, seed: int, scores: dict[str, list[float]]) -> None:
    """Simulate a fleet, apply each rule to it, and record the counts in ``scores``.

    groundspeed's own screening is also confirmed by two re-runs.
    """
    rng = np.random.default_rng(seed)
    count = 1 if nodes < 1000 else 20
    places = rng.choice(nodes, count, replace=False)
    faults = tuple(Fault(int(n), int(rng.integers(GPUS)), loss) for n in places)
    truth = {(f"n{f.node:05d}", f.gpu) for f in faults}
    runs = [simulate_fleet(nodes, seed=seed, faults=faults, run=r) for r in range(3)]
    tables = [clean_fleet(r.table, "simulated") for r in runs]
    screenings = [screen(table) for table in tables]
    mine = named(screenings[0])
    blamed = named(confirm(screenings[0], screenings[1:], [measured_units(t) for t in tables[1:]]))
    count_results(
        scores, "groundspeed", mine, truth, len([u for u in blamed if healthy(runs[0], u)])
    )
    table = runs[0].table[runs[0].table["metric"].isin(JUDGED)]
    for name, rule in DETECTORS.items():
        theirs: Named = set()
        for _, part in table.groupby("metric"):
            flagged = part[rule(part).to_numpy()]
            theirs |= set(zip(flagged["node"], flagged["gpu"], strict=True))
        count_results(scores, name, theirs, truth, 0)


def count_results(
    scores: dict[str, list[float]], rule: str, units: Named, truth: set[tuple[str, int]], after: int
) -> None:
    """Add hits, faults, false alarms and false alarms left after the re-runs to a rule's scores."""
    row = scores.setdefault(rule, [0.0, 0.0, 0.0, 0.0])
    row[0] += len(units & truth)
    row[1] += len(truth)
    row[2] += len({u for u in units - truth if u[1] is not None})
    row[3] += after


def healthy(fleet: SimulatedFleet, unit: tuple[str, int | None]) -> bool:
    """Return True if a GPU's noise-free values are less than 2 % below the median of its class."""
    rows = fleet.truth
    share = 1.0 - rows["value"] / rows.groupby("metric")["value"].transform("median")
    mine = (rows["node"] == unit[0]) & (rows["gpu"] == unit[1])
    return bool(unit[1] is not None and share[mine].max() < 0.02)


def links(path: Path) -> None:
    """Judge all pairs of real nodes: as measured, with one link slowed, with one node slowed."""
    rows = pd.read_csv(path)
    rows = rows[rows["N"] == 2]
    ends = rows["nodes"].str.split(",", expand=True)
    for (test, gpus), mine in rows.groupby(["test", "G"], sort=True):
        first, second = (tuple(ends.loc[mine.index, i].astype(str)) for i in (0, 1))
        bandwidth = 1e9 * mine["peak_busbw_GBs"].to_numpy(dtype=np.float64)
        cable = np.where(np.arange(len(mine)) == 3, 0.6, 1.0)
        node = np.where([first[0] in pair for pair in zip(first, second, strict=True)], 0.7, 1.0)
        for what, share in (("as measured", 1.0), ("one link -40 %", cable),
                            ("one node -30 %", node)):  # fmt: skip
            findings = judge_pairs(Pairs(first, second, bandwidth * share))
            said = "; ".join(
                f"{f.level} {'-'.join(f.nodes)} {-f.loss_fraction:.0%} "
                f"({f.slow_pairs} of {f.pairs} slow)" for f in findings
            )  # fmt: skip
            print(f"{test!s:13} {gpus} GPUs a node {len(mine):3} pairs  {what:15} {said or 'none'}")


def speed(nodes: int) -> None:
    """Time the screening of a CSV file with ``nodes`` nodes and 30 metrics per GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.csv"
        simulate_fleet(nodes, seed=1, extra_metrics=27).table.to_csv(path, index=False)
        child = (
            "import sys, time, resource\n"
            "from pathlib import Path\n"
            "from groundspeed.fleet.screen.screen_table import screen\n"
            "from groundspeed.fleet.reading.fleet_files import read_fleet\n"
            "begin = time.perf_counter()\n"
            "screening = screen(read_fleet([Path(sys.argv[1])]))\n"
            "took = time.perf_counter() - begin\n"
            "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
            "print(f'{screening.nodes:6} nodes {screening.measurements:10,} rows {took:7.2f} s "
            "{peak:5.2f} GiB peak')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", child, str(path)], check=True, capture_output=True, text=True
        )
        print(done.stdout.rstrip())


if __name__ == "__main__":
    main()
