"""Simulate realistic fleets with known faults, to test detection rules on them.

The spreads are those of public fleets. Matmul throughput varies by 0.35 % from node to node, 0.65 %
from GPU to GPU, 0.3 % with the slot and 0.15 % from run to run (one GPU in ten by 0.5 %); memory
bandwidth varies by 0.12 % (node), 0.25 % (GPU) and 0.1 % (run). The seed determines every value.

    fleet = simulate_fleet(16, seed=1, faults=(Fault(node=3, gpu=5, loss=0.06),))
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from groundspeed.profiles.operations import Array

GPUS = 8
TENSOR = ("matmul_bf16", "matmul_fp8")
MEMORY = ("hbm_copy",)


@dataclass(frozen=True)
class Fault:
    """A fault: one GPU that is slower in some metrics."""

    node: int
    gpu: int
    loss: float
    metrics: tuple[str, ...] = TENSOR


@dataclass(frozen=True)
class SimulatedFleet:
    """Measurements of one simulated run, and the true values without its noise."""

    table: pd.DataFrame
    """Long table with the columns node, gpu, metric, value and unit."""
    truth: pd.DataFrame
    """The same table without the noise of the run."""


def simulate_fleet(
    nodes: int, *, seed: int, faults: tuple[Fault, ...] = (), run: int = 0, extra_metrics: int = 0
) -> SimulatedFleet:
    """Simulate one run of a fleet of nodes with eight GPUs each.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    seed : int
        Seed of the machines' true values.
    faults : tuple of Fault
        GPUs to slow down. Default: none.
    run : int
        Number of the run; each number gives other noise on the same machines. Default: 0.
    extra_metrics : int
        Number of further metrics that vary like memory bandwidth, to test large tables. Default: 0.
    """
    machines = np.random.default_rng([seed, 0])
    noise = np.random.default_rng([seed, 1, run])
    shape = (nodes, GPUS)
    slot = 0.003 * np.where(np.arange(GPUS) % 2 == 0, 1.0, -1.0)
    restless = np.where(machines.random(shape) < 0.1, 0.005, 0.0015)
    shared = 0.0035 * machines.standard_normal((nodes, 1)) + 0.0065 * machines.standard_normal(
        shape
    )
    frames: list[tuple[str, str, Array, Array]] = []
    for metric, peak in zip(TENSOR, (750.0, 1300.0), strict=True):
        own = 0.001 * machines.standard_normal(shape)
        true = peak * np.exp(shared + own + slot)
        frames.append((metric, "TFLOPS", true, restless * noise.standard_normal(shape)))
    for metric in (*MEMORY, *(f"stream_{i}" for i in range(extra_metrics))):
        true = 4000.0 * np.exp(
            0.0012 * machines.standard_normal((nodes, 1)) + 0.0025 * machines.standard_normal(shape)
        )
        frames.append((metric, "GB/s", true, 0.001 * noise.standard_normal(shape)))
    for fault in faults:
        for metric, _, true, _ in frames:
            if metric in fault.metrics:
                true[fault.node, fault.gpu] *= 1.0 - fault.loss
    names = np.repeat([f"n{i:05d}" for i in range(nodes)], GPUS)
    gpus = np.tile(np.arange(GPUS), nodes)
    tables = [
        pd.DataFrame({"node": names, "gpu": gpus, "metric": m, "value": v.ravel(), "unit": u})
        for m, u, true, error in frames
        for v in (true * np.exp(error),)
    ]
    truths = [
        pd.DataFrame({"node": names, "gpu": gpus, "metric": m, "value": t.ravel(), "unit": u})
        for m, u, t, _ in frames
    ]
    return SimulatedFleet(
        pd.concat(tables, ignore_index=True), pd.concat(truths, ignore_index=True)
    )
