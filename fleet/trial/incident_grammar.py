"""Make incidents with a known answer from a grammar of faults: kind x metric x size x fleet form.

Every incident is a fleet as ``fleet run`` would measure it, with sensors, settings and counters,
and one fault. Its answer says which units are to blame and why; everybody else is healthy. Natural
spreads are those of public fleets (:mod:`.simulated_fleet`).

    for incident in incidents(60, seed=1):
        screening = screen(clean_fleet(incident.table, incident.name))
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

Row = dict[str, object]
Scope = Literal["gpu", "node", "slot", "half"]

RATES: dict[str, tuple[float, str, float]] = {
    "matmul_bfloat16": (720.0, "TFLOPS", 0.0075),
    "matmul_float32_vector": (50.0, "TFLOPS", 0.002),
    "hbm_read": (2900.0, "GB/s", 0.003),
    "pcie_h2d": (52.0, "GB/s", 0.002),
    "pcie_d2h": (51.0, "GB/s", 0.004),
    "p2p_nvlink": (340.0, "GB/s", 0.001),
    "launch": (2.4, "us", 0.02),
}
"""Median, unit and natural spread of each metric of a GPU."""

SENSORS: dict[str, tuple[float, float]] = {
    "clock_mhz": (1755.0, 4.0), "power_w": (690.0, 4.0), "temperature_c": (62.0, 2.0),
}  # fmt: skip
SETTINGS = {"power_limit_w": 700, "pcie_link_width": 16, "pcie_link_gen": 5, "nvlink_count": 18,
            "ecc_mode": 1, "driver": 570}  # fmt: skip
COUNTERS = ("ecc_uncorrected_volatile", "row_remap_pending", "row_remap_failure", "xid")


@dataclass(frozen=True)
class Form:
    """How many nodes and GPUs a fleet has, and whether it knows its racks and SKU."""

    nodes: int
    gpus: int = 8
    racks: int = 0
    sku: str = ""


FORMS = (Form(4), Form(8, sku="NVIDIA H100 80GB HBM3"), Form(3, 4), Form(16, racks=4), Form(40))


@dataclass(frozen=True)
class Incident:
    """A fleet with one fault, and the right answer."""

    name: str
    table: pd.DataFrame
    blamed: frozenset[tuple[str, int | None]]
    """Units to blame: (node, GPU) or (node, None)."""
    causes: frozenset[str]
    """Causes that are right."""
    exits: frozenset[int]
    """Exit codes that are right."""


class Fleet:
    """Measurements of a healthy fleet, to put one fault into."""

    def __init__(self, form: Form, seed: int) -> None:
        self.form = form
        self.rng = np.random.default_rng(seed)
        self.values: dict[tuple[int, int, str], float] = {}
        for node in range(form.nodes):
            for gpu in range(form.gpus):
                for metric, (usual, _, spread) in RATES.items():
                    noise = float(np.clip(self.rng.standard_normal(), -2.0, 2.0))
                    self.values[node, gpu, metric] = usual * float(np.exp(spread * noise))
                for metric, (usual, width) in SENSORS.items():
                    noise = float(np.clip(self.rng.standard_normal(), -2.0, 2.0))
                    self.values[node, gpu, metric] = usual + width * noise
                for metric, setting in SETTINGS.items():
                    self.values[node, gpu, metric] = float(setting)
                for metric in COUNTERS:
                    self.values[node, gpu, metric] = 0.0

    def slow(self, node: int, gpu: int, left: float, *metrics: str) -> None:
        """Leave a share of the rate of some metrics of a GPU; a time becomes longer."""
        for metric in metrics:
            factor = 1.0 / left if metric == "launch" else left
            self.values[node, gpu, metric] *= factor

    def put(self, unit: tuple[int, int], readings: dict[str, float]) -> None:
        """Set some readings of a GPU."""
        for metric, value in readings.items():
            self.values[*unit, metric] = value

    def name(self, node: int) -> str:
        """Return the name of a node."""
        return f"n{node:03}"

    def table(self) -> pd.DataFrame:
        """Return the fleet as a long table."""
        units = {m: u for m, (_, u, _) in RATES.items()}
        rows: list[Row] = []
        for (node, gpu, metric), value in self.values.items():
            row: Row = {"node": self.name(node), "gpu": gpu, "metric": metric,
                        "value": round(value, 4), "unit": units.get(metric, "")}  # fmt: skip
            if self.form.racks:
                row["rack"] = f"r{node * self.form.racks // self.form.nodes}"
            if self.form.sku:
                row["sku"] = self.form.sku
            rows.append(row)
        return pd.DataFrame.from_records(rows)


BY_SIZE = -1.0
"""Share left that depends on the size of the fault."""

MATMUL = {"matmul_bfloat16": BY_SIZE}
DEVICE = {"matmul_bfloat16": BY_SIZE, "matmul_float32_vector": BY_SIZE}


@dataclass(frozen=True)
class Fault:
    """One kind of fault: what it leaves of each metric, what its sensors and settings show."""

    name: str
    causes: tuple[str, ...]
    left: dict[str, float] = field(default_factory=dict)
    """Share of the rate that is left, by metric."""
    readings: dict[str, float] = field(default_factory=dict)
    scope: Scope = "gpu"
    exits: tuple[int, ...] = (2,)


FAULTS = (
    Fault("slow matrix units", ("compute",), MATMUL),
    Fault("slow memory", ("memory",), {"hbm_read": BY_SIZE}),
    Fault("half of the lanes", ("pcie_width",), {"pcie_h2d": 0.5, "pcie_d2h": 0.5},
          {"pcie_link_width": 8}),
    Fault("half of the lanes, unseen", ("pcie_width",), {"pcie_h2d": 0.5, "pcie_d2h": 0.5}),
    Fault("lower generation", ("pcie_gen", "pcie_width"), {"pcie_h2d": 0.5, "pcie_d2h": 0.5},
          {"pcie_link_gen": 4}),
    Fault("far socket", ("host_binding",), {"pcie_h2d": 0.36, "pcie_d2h": 0.22}),
    Fault("two thirds of the links", ("nvlinks", "nvlink"), {"p2p_nvlink": 2 / 3},
          {"nvlink_count": 12}),
    Fault("slow links", ("nvlink",), {"p2p_nvlink": BY_SIZE}),
    Fault("slow host", ("host",), {"launch": 0.3}),
    Fault("heat", ("thermal",), DEVICE,
          {"clock_mhz": 1200, "temperature_c": 90, "power_w": 450}),
    Fault("clock lock", ("clocks",), DEVICE,
          {"clock_mhz": 1100, "temperature_c": 45, "power_w": 300}),
    Fault("power cap", ("power_cap",), MATMUL,
          {"power_limit_w": 400, "power_w": 398, "clock_mhz": 1200, "temperature_c": 52}),
    Fault("power cap without a loss", ("power_cap",), {}, {"power_limit_w": 500}, exits=(1, 2)),
    Fault("another driver", ("driver",), {}, {"driver": 550}, "node", (1, 2)),
    Fault("ECC off", ("ecc",), {}, {"ecc_mode": 0}, exits=(1, 2)),
    Fault("lost data", ("hardware_errors",), {}, {"ecc_uncorrected_volatile": 2}),
    Fault("remapping waits", ("hardware_errors",), {}, {"row_remap_pending": 1}, exits=(1, 2)),
    Fault("remapping failed", ("hardware_errors",), {}, {"row_remap_failure": 1}),
    Fault("fallen off the bus", ("hardware_errors",), {}, {"xid": 79}),
    Fault("zeros", ("broken",), {"matmul_bfloat16": 0.0}, scope="node", exits=(2, 3)),
    Fault("slow node", ("compute",), MATMUL, scope="node"),
    Fault("slow vector units of a node", ("clocks_or_software",), {"matmul_float32_vector": 0.44},
          scope="node"),
    Fault("slow slot", ("compute",), MATMUL, scope="slot"),
    Fault("slow half", ("two_groups",), MATMUL, scope="half", exits=(2, 3)),
)  # fmt: skip
"""All kinds of faults."""

SIZES = (0.08, 0.15, 0.3, 0.5)
"""[1] Losses of the faults that have a size."""

LEAST_HALF = 0.15
"""[1] Smallest loss of half of a fleet that can be told from its spread."""


def incidents(count: int, *, seed: int) -> Iterator[Incident]:
    """Yield incidents: every kind of fault in turn, with every form of fleet and every size."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        fault = FAULTS[number % len(FAULTS)]
        form = FORMS[int(rng.integers(len(FORMS)))]
        size = SIZES[int(rng.integers(len(SIZES)))]
        yield _incident(fault, form, size, int(rng.integers(2**31)))


def _incident(fault: Fault, form: Form, size: float, seed: int) -> Incident:
    fleet = Fleet(form, seed)
    node, gpu = int(fleet.rng.integers(form.nodes)), int(fleet.rng.integers(form.gpus))
    loss = max(size, LEAST_HALF) if fault.scope == "half" else size
    hit: list[tuple[int, int]] = {
        "gpu": [(node, gpu)],
        "node": [(node, g) for g in range(form.gpus)],
        "slot": [(n, gpu) for n in range((2 * form.nodes + 2) // 3)],
        "half": [(n, g) for n in range(form.nodes // 2 + form.nodes % 2) for g in range(form.gpus)],
    }[fault.scope]
    for where in hit:
        for metric, share in fault.left.items():
            fleet.slow(*where, 1.0 - loss if share == BY_SIZE else share, metric)
        fleet.put(where, fault.readings)
    blamed: frozenset[tuple[str, int | None]] = frozenset(
        (fleet.name(n), None if fault.scope == "node" else g) for n, g in hit
    )
    return Incident(
        name=f"{fault.name} ({loss:.0%}) in {form.nodes} x {form.gpus}",
        table=fleet.table(),
        blamed=frozenset() if fault.scope == "half" else blamed,
        causes=frozenset(fault.causes),
        exits=frozenset(fault.exits),
    )
