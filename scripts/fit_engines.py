"""Fit the host costs of serving engines to published measurements, and print them as TOML.

    python scripts/fit_engines.py ROWS.csv

The output goes into the files of ``estimator/engines``. For each engine, version and platform, a
few constants are fitted to log(predicted / measured) of TPOT and TTFT, with priors. A constant that
the rows do not determine stays at its prior, which is typical of all engines.
"""

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from groundspeed.estimator.decisions.backtest import Resolver, server_and_workload
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.serving import server as serving
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.estimator.serving.workload import Workload

PRIOR = {
    "step_s": (0.5e-3, 0.5),
    "layer_s": (6e-6, 0.5),
    "sequence_s": (12e-6, 0.9),
    "collective_s": (2e-6, 0.5),
    "request_s": (20e-3, 0.5),
    "prefill_factor": (1.05, 0.08),
    "attention_factor": (1.0, 0.15),
}
"""Log-normal priors of the engine constants: median, and standard deviation of the logarithm. They
are the costs of a serving engine on top of its kernels."""

EARLY_ENGINE_PRIOR = {
    "eager_latent_layer_s": (600e-6, 0.8),
    "experts_factor": (1.5, 0.4),
    "latent_decode_factor": (1.3, 0.5),
    "latent_prefill_factor": (2.0, 0.8),
    "prefill_factor": (1.1, 0.15),
    "sequence_s": (15e-6, 1.0),
    "layer_s": (10e-6, 0.7),
}
"""Priors for engines of early 2025 running a model that was new then: first versions of the
kernels, and no CUDA graphs in prefill."""

TPOT_SPREAD, TTFT_SPREAD = 0.04, 0.10
"""Scale of the TPOT and TTFT error, in log time: the residuals are divided by it."""


@dataclass(frozen=True)
class Group:
    """A group of rows that share one set of engine constants."""

    name: str
    source: str
    engine: str
    gpu: str
    prior: Mapping[str, tuple[float, float]]


GROUPS = (
    Group("vllm cuda 0.12", "nvidia-aic-gap", "vLLM", "", PRIOR),
    Group("vllm cuda fp8", "inferencex-aic", "vLLM", "", PRIOR),
    Group("sglang cuda", "nvidia-aic-gap", "SGLang", "", PRIOR),
    Group("trtllm 0.9", "trtllm-0.9.0-dli", "TensorRT", "", PRIOR),
    Group("vllm rocm", "rocm-vllm-devdocker", "vLLM", "", PRIOR),
    Group("sglang cuda 0.4", "dstack-dsr1-online", "SGLang", "H200", EARLY_ENGINE_PRIOR),
    Group("sglang rocm 0.4", "dstack-dsr1-online", "SGLang", "MI300X", EARLY_ENGINE_PRIOR),
    Group("vllm cuda 0.7", "dstack-dsr1-online", "vLLM", "H200", EARLY_ENGINE_PRIOR),
    Group("vllm rocm 0.7", "dstack-dsr1-online", "vLLM", "MI300X", EARLY_ENGINE_PRIOR),
    Group("trtllm 0.17", "dstack-dsr1-online", "TensorRT", "H200", EARLY_ENGINE_PRIOR),
)

Case = tuple[Server, Workload, dict[str, float]]


def main() -> None:
    """Fit each group and print its constants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="CSV file of published measurements")
    parser.add_argument(
        "--only", default="", help="fit only groups whose name contains this text; default: all"
    )
    parser.add_argument(
        "--most", type=int, default=45, help="rows of a group to fit, about; default: 45"
    )
    arguments = parser.parse_args()
    with arguments.rows.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["tier"] != "C"]
    cache_step_times()
    resolver = Resolver(lambda name: find_hardware(name).best)
    for group in GROUPS:
        if arguments.only in group.name:
            chosen = [
                r for r in rows
                if r["source_id"] == group.source and r["engine"].startswith(group.engine)
                and r["gpu"].startswith(group.gpu)
            ]  # fmt: skip
            fit(group, [case(r, resolver) for r in chosen], arguments.most)


def case(row: Mapping[str, str], resolver: Resolver) -> Case:
    """Convert a CSV row to a server, a workload and its measured metrics [ms]."""
    server, workload = server_and_workload(row, resolver)
    measured = {m: float(row[m]) for m in ("ttft_ms", "tpot_ms", "e2e_latency_ms") if row.get(m)}
    return server, workload, measured


def cache_step_times() -> None:
    """Cache the step-time tables: they do not depend on the constants that are fitted here."""
    made: dict[object, StepTimes] = {}
    plain = StepTimes

    def remembered(
        layers: object, hardware: object, engine: Engine, most: int, longest: float, rows: int
    ) -> StepTimes:
        key = (layers.model.id, layers.deployment, hardware.id, most, longest,  # type: ignore[attr-defined]
               engine.token_budget, engine.kernels)  # fmt: skip
        if key not in made:
            made[key] = plain(layers, hardware, engine, most, longest, rows)  # type: ignore[arg-type]
        made[key].engine = engine
        return made[key]

    serving.StepTimes = remembered  # type: ignore[assignment, misc]


def errors(cases: Sequence[Case], constants: Mapping[str, float]) -> list[float]:
    """Return log(predicted / measured) divided by its spread, with a robust (soft L1) loss."""
    residuals = []
    for server, workload, measured in cases:
        costs = server.engine.costs.model_copy(update=dict(constants))
        engine = server.engine.model_copy(update={"costs": costs})
        prediction = Server(server.model, server.deployment, engine, server.hardware).predict(
            workload
        )
        predicted = {
            "ttft_ms": prediction.ttft_s * 1e3,
            "tpot_ms": prediction.tpot_s * 1e3,
            "e2e_latency_ms": prediction.e2e_s * 1e3,
        }
        for metric, value in measured.items():
            if metric == "e2e_latency_ms" and "tpot_ms" in measured:
                continue
            if metric == "ttft_ms" and prediction.saturated:
                continue
            spread = TTFT_SPREAD if metric == "ttft_ms" else TPOT_SPREAD
            r = math.log(predicted[metric] / value) / spread
            residuals.append(math.copysign(math.sqrt(2.0 * (math.sqrt(1.0 + r * r) - 1.0)), r))
    return residuals


def fit(group: Group, cases: Sequence[Case], most: int) -> None:
    """Fit the constants of one group to at most about ``most`` of its rows, and print them."""
    step = max(1, len(cases) // most)
    few = cases[::step]
    names = list(group.prior)
    centre = np.log([group.prior[n][0] for n in names])
    width = np.array([group.prior[n][1] for n in names])

    def residuals(theta: np.ndarray) -> np.ndarray:
        constants = dict(zip(names, np.exp(theta).tolist(), strict=True))
        return np.concatenate([errors(few, constants), (theta - centre) / width])

    solution = least_squares(residuals, centre, diff_step=0.02, max_nfev=12)
    constants = dict(zip(names, np.exp(solution.x).tolist(), strict=True))
    print(f"[{group.name}]  {len(few)} of {len(cases)} rows")
    for name, value in constants.items():
        print(f"{name} = {value:.3g}")
    print(flush=True)


if __name__ == "__main__":
    main()
