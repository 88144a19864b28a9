"""Measure the error of laws on held-out shapes, next to three simpler models.

    python benchmarks/laws.py [SEEDS]

Published H200 timings (NVIDIA aiconfigurator-core 0.12.0, Apache-2.0) are read from the folder in
the environment variable GROUNDSPEED_REFERENCE. From each table a few points are chosen for the fit
and all others are predicted, for SEEDS random choices (default 10). Columns: median / 90 % quantile
of the absolute error in per cent, the bias in per cent, the share of held-out measurements inside
the 90 % interval, and the error of three naive models of the same points:

- *constant*: one share of the roofline (the usual "60 %"), set to its best value;
- *three constants*: fitted start-up time, compute rate and memory bandwidth;
- *nearest*: the measured share of the roofline at the nearest point.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from groundspeed.calibrate import choose_points, fit_law
from groundspeed.profiles.datasheet import find_device
from groundspeed.profiles.laws import law_time
from groundspeed.profiles.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "h200-sxm"
REFERENCE = Path(os.environ.get("GROUNDSPEED_REFERENCE", ROOT.parent / "shared" / "reference"))

Chosen = tuple[pd.DataFrame, pd.DataFrame]
"""Rows to fit, and rows to predict."""


@dataclass(frozen=True)
class Task:
    """One line of the printed table."""

    name: str
    operation: str
    split: Callable[[int], Chosen]
    """Splits the rows into rows to fit and rows to predict, for a random seed."""


def table(name: str) -> pd.DataFrame:
    """Read a published table of H200 timings by its name."""
    return pd.read_csv(REFERENCE / "silicon" / f"h200_{name}.csv.gz")


def aligned(frame: pd.DataFrame) -> "pd.Series[bool]":
    """Return a mask of the rows whose m is at most 16 or a multiple of 16 (whole tiles)."""
    return (frame["m"] <= 16) | (frame["m"] % 16 == 0)


def tasks() -> Iterator[Task]:
    """Yield the lines of the printed table in order."""
    products = table("matmul")
    for dtype, library, points in (
        ("bfloat16", "trtllm", 96), ("bfloat16", "trtllm", 24), ("bfloat16", "vllm", 96),
        ("fp8", "trtllm", 96), ("fp8", "vllm", 96),
    ):  # fmt: skip
        frame = products[(products["dtype"] == dtype) & products["library"].str.startswith(library)]
        frame = frame[frame["m"] <= 16384]
        sizes = frame["n"].between(512, 16384) & frame["k"].between(512, 16384)
        inside = frame[sizes & aligned(frame)]
        yield Task(f"matmul {dtype} {library}", "matmul", splitter("matmul", inside, points))
        if (dtype, library) == ("fp8", "vllm"):
            odd = frame[sizes & ~aligned(frame)]
            yield Task("  m not a multiple of 16", "matmul", split_with_unaligned_rows(inside, odd))
        if (dtype, library, points) == ("bfloat16", "trtllm", 96):
            large = (frame["n"] > 16384) | (frame["k"] > 16384)
            giant = frame[large & aligned(frame) & (frame["n"] >= 512) & (frame["k"] >= 512)]
            small = frame["n"].between(64, 511) | frame["k"].between(64, 511)
            tiny = frame[small & aligned(frame) & (frame[["n", "k"]].min(axis=1) >= 64)]
            tiny = tiny[tiny[["n", "k"]].max(axis=1) <= 16384]
            yield Task("  n or k above 16384", "matmul", split_out_of_range(inside, giant))
            yield Task("  n or k from 64 to 511", "matmul", split_out_of_range(inside, tiny))
    for operation, length, points in (
        ("attention_decode", "kv_len", 24), ("attention_prefill", "seq_len", 96),
    ):  # fmt: skip
        frame = table(operation)
        frame = frame[(frame["head_dim"] == 128) & (frame["window"] == 0) & (frame[length] >= 128)]
        frame = frame[frame["kv_dtype"] == "bfloat16"]
        yield Task(operation, operation, splitter(operation, frame, points))
    yield Task("collective, every second size", "collective", halves(table("collectives")))
    yield Task("moe, 7 token counts", "moe", splitter("moe", table("moe"), 7))
    for operation in ("mla_decode", "mla_prefill"):
        yield Task(operation, operation, splitter(operation, table(operation), 4 * 96))


def splitter(operation: str, frame: pd.DataFrame, points: int) -> Callable[[int], Chosen]:
    """Return a split: choose points to fit, predict all other rows."""

    def split(seed: int) -> Chosen:
        chosen = choose_points(operation, frame, budget=points, seed=seed)
        return frame.loc[chosen], frame.drop(chosen)

    return split


def split_out_of_range(inside: pd.DataFrame, beyond: pd.DataFrame) -> Callable[[int], Chosen]:
    """Return a split: choose 96 points in range to fit, predict the rows out of range."""

    def split(seed: int) -> Chosen:
        return inside.loc[choose_points("matmul", inside, budget=96, seed=seed)], beyond

    return split


def split_with_unaligned_rows(inside: pd.DataFrame, odd: pd.DataFrame) -> Callable[[int], Chosen]:
    """Return a split: fit 96 aligned and 24 unaligned points, predict the other unaligned rows."""

    def split(seed: int) -> Chosen:
        some = odd.loc[choose_points("matmul", odd, budget=24, seed=seed)]
        even = inside.loc[choose_points("matmul", inside, budget=96, seed=seed)]
        return pd.concat([even, some]), odd.drop(some.index)

    return split


def halves(frame: pd.DataFrame) -> Callable[[int], Chosen]:
    """Return a split: fit every second size of each curve; the seed selects odd or even sizes."""

    def split(seed: int) -> Chosen:
        turn = frame.sort_values("bytes").groupby(["op", "world_size"]).cumcount()
        seen = (turn % 2 == seed % 2).reindex(frame.index)
        return frame[seen], frame[~seen]

    return split


def error(told_us: np.ndarray, rows: pd.DataFrame) -> tuple[float, float]:
    """Return median and 90 % quantile of the absolute error [%]."""
    off = np.abs(told_us / rows["time_us"].to_numpy() - 1.0) * 100.0
    return float(np.median(off)), float(np.quantile(off, 0.9))


def naive(operation: str, seen: pd.DataFrame, rest: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return the errors of the naive models; empty for operations that have no roofline."""
    if operation not in ("matmul", "attention_decode", "attention_prefill"):
        return {}
    roof, log_columns = _roofs(operation, seen)
    other, other_columns = _roofs(operation, rest)
    times = seen["time_us"].to_numpy() * 1e-6
    share = roof.max(axis=0) / times
    errors = {"constant": error(other.max(axis=0) / float(np.median(share)) * 1e6, rest)}

    def three(theta: np.ndarray, roofs: np.ndarray) -> np.ndarray:
        start, compute, memory = np.exp(theta)
        return start + np.maximum(roofs[0] / compute, roofs[1] / memory)

    fitted = least_squares(
        lambda theta: np.log(times / three(theta, roof)),
        np.log([4e-6, 0.75, 0.8]),
        loss="soft_l1",
        f_scale=0.06,
    )
    errors["three constants"] = error(three(fitted.x, other) * 1e6, rest)
    distance = ((other_columns[:, None, :] - log_columns[None, :, :]) ** 2).sum(axis=2)
    nearest = share[np.argmin(distance, axis=1)]
    errors["nearest"] = error(other.max(axis=0) / nearest * 1e6, rest)
    return errors


def _roofs(operation: str, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the times at the datasheet's compute and memory peaks [s], and log2 of the columns."""
    spec, datasheet = OPERATIONS[operation], find_device(DEVICE).spec
    columns = {c: rows[c].to_numpy(dtype=float) for c in spec.columns}
    config_key = {"dtype": str(rows["dtype"].iloc[0])}
    peak, bandwidth = datasheet.peak(config_key["dtype"]), datasheet.memory_bandwidth_bytes_per_s
    assert peak is not None and bandwidth is not None
    compute = spec.flops(columns, config_key) / peak.value
    memory = spec.bytes(columns, config_key) / bandwidth.value
    return np.stack([compute, memory]), np.log2(np.stack(list(columns.values()), axis=1))


def main() -> None:
    """Print the table of errors, then the speed of prediction."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    columns = ("law", "bias", "inside", "constant", "three constants", "nearest")
    print(f"{'':30s}" + "".join(f"{c:>16s}" for c in columns))
    for task in tasks():
        rows: list[tuple[float, ...]] = []
        others: dict[str, list[tuple[float, float]]] = {}
        for seed in seeds if task.operation != "collective" else range(2):
            seen, rest = task.split(seed)
            prediction = fit_law(task.operation, seen, device=DEVICE).predict(rest)
            ratio = prediction["time_us"] / rest["time_us"]
            held = (prediction["low_us"] <= rest["time_us"]) & (
                rest["time_us"] <= prediction["high_us"]
            )
            off = error(prediction["time_us"].to_numpy(), rest)
            rows.append((*off, float(ratio.median() - 1.0) * 100.0, float(held.mean()) * 100.0))
            for name, naive_error in naive(task.operation, seen, rest).items():
                others.setdefault(name, []).append(naive_error)
        median, q90, bias, inside = np.mean(rows, axis=0)
        cells = [f"{median:.2f} / {q90:.1f}", f"{bias:+.1f}", f"{inside:.0f} %"]
        for name in columns[3:]:
            mean = np.mean(others[name], axis=0) if name in others else None
            cells.append(f"{mean[0]:.1f} / {mean[1]:.0f}" if mean is not None else "")
        print(f"{task.name:30s}" + "".join(f"{c:>16s}" for c in cells), flush=True)
    speed()


def speed() -> None:
    """Measure and print predictions per second, with intervals, in one process."""
    frame = table("matmul")
    frame = frame[(frame["dtype"] == "bfloat16") & aligned(frame)].drop(columns="library")
    law = fit_law("matmul", frame.sample(96, random_state=0), device=DEVICE).laws[0]
    generator = np.random.default_rng(0)
    powers = {"m": (4, 14), "n": (9, 14), "k": (9, 14)}
    shapes = {c: np.rint(2.0 ** generator.uniform(*p, 10**6) / 16) * 16 for c, p in powers.items()}
    begin = time.perf_counter()
    law_time(law, shapes)
    taken = time.perf_counter() - begin
    print(f"\n{1e6 / taken:,.0f} matmul predictions per second, with intervals")


if __name__ == "__main__":
    main()
