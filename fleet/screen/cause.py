"""Name the cause of a slow unit from its slow metrics and its temperature, power and clocks.

A cause slows several metrics at once, so the combination of slow metrics points to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groundspeed.fleet.metrics import Kind, facts_of
from groundspeed.fleet.screen.findings import Finding, Level, Verdict

HALF_WIDTH = 0.38
"""[1] Loss of a host link that means half its PCIe lanes or fewer, or a lower PCIe generation."""

HOT_C = 8.0
"""[C] Temperature above the median of its class from which a GPU counts as hot."""

LOW_POWER = 0.05
"""[1] Fraction below the median of its class from which power or a power cap counts as low."""


class Loss(NamedTuple):
    """Loss of one metric of a unit."""

    loss: float
    z: float
    value: float
    expected: float
    tier: float
    """Verdict as a number: 1 WARN, 2 FAIL."""


@dataclass(frozen=True)
class Unit:
    """A GPU, node, rack or class, and the metrics in which it is slow."""

    node: str
    gpu: int | None
    level: Level
    losses: dict[str, Loss]


@dataclass(frozen=True)
class Telemetry:
    """Temperature, power and other telemetry of each GPU, and the medians of its class."""

    of_unit: dict[tuple[str, int], dict[str, float]]
    usual: dict[tuple[str, int], dict[str, float]]
    """Median readings of the class that each GPU belongs to."""


def explain(
    unit: Unit, telemetry: Telemetry, notes: Mapping[tuple[str, int, str], str] | None = None
) -> Finding:
    """Return the finding for a unit: its worst metric, the likely cause, and the evidence."""
    worst = max(unit.losses, key=lambda m: (unit.losses[m].tier, unit.losses[m].loss, m))
    loss, z, value, expected, _ = unit.losses[worst]
    failed = any(v.tier >= FAIL for v in unit.losses.values())
    verdict: Verdict = "FAIL" if failed else "WARN"
    cause, evidence = _cause(unit, telemetry)
    if notes and unit.gpu is not None:
        said = (notes.get((unit.node, unit.gpu, m), "") for m in sorted(unit.losses))
        evidence += "".join(f"; {note}" for note in dict.fromkeys(n for n in said if n))
    return Finding(
        node=unit.node,
        gpu=unit.gpu,
        metric=worst,
        metrics=tuple(sorted(unit.losses, key=lambda m: (-unit.losses[m].loss, m))),
        verdict=verdict,
        value=value,
        expected=expected,
        loss_fraction=loss,
        z=z if np.isfinite(z) else None,
        level=unit.level,
        cause=cause,
        evidence=evidence,
    )


FAIL = 2


def _cause(unit: Unit, telemetry: Telemetry) -> tuple[str, str]:
    kinds: dict[Kind, float] = {}
    for metric, loss in unit.losses.items():
        kind = facts_of(metric).kind
        kinds[kind] = max(kinds.get(kind, 0.0), loss.loss)
    down = ", ".join(f"{m} {v.loss:.0%}" for m, v in sorted(unit.losses.items())[:4])
    if all(not np.isfinite(v.z) for v in unit.losses.values()):
        return "below_floor", f"down: {down} against the reference, regardless of its class"
    if kinds.get("host_link", 0.0) >= HALF_WIDTH:
        return "pcie_width", f"down: {down}: the loss of half the PCIe lanes, or more"
    telemetry_cause = _cause_from_telemetry(unit, telemetry)
    if "tensor" in kinds and telemetry_cause is not None:
        return telemetry_cause[0], f"down: {down}; {telemetry_cause[1]}"
    if "vector" in kinds and "tensor" not in kinds:
        return "clocks_or_software", f"down: {down}; tensor cores are not slow"
    single: tuple[tuple[Kind, str], ...] = (
        ("tensor", "compute"), ("memory", "memory"), ("nvlink", "nvlink"), ("network", "network"),
        ("launch", "host"), ("host_link", "host_link"),
    )  # fmt: skip
    for kind, cause in single:
        if kind in kinds:
            return cause, f"down: {down}"
    return "unknown", f"down: {down}"


def _cause_from_telemetry(unit: Unit, telemetry: Telemetry) -> tuple[str, str] | None:
    if unit.gpu is None or (unit.node, unit.gpu) not in telemetry.of_unit:
        return None
    mine = telemetry.of_unit[unit.node, unit.gpu]
    usual = telemetry.usual[unit.node, unit.gpu]

    def value(pattern: str) -> tuple[float, float] | None:
        """Return this GPU's reading and the median of its class; None without such a reading."""
        for name, reading in sorted(mine.items()):
            if pattern in name.lower():
                return reading, usual[name]
        return None

    cap, heat, power = value("power_limit") or value("power_cap"), value("temp"), value("power_w")
    if cap is not None and cap[0] < cap[1] * (1.0 - LOW_POWER):
        return "power_cap", f"its power cap is {cap[0]:.0f} W, that of others {cap[1]:.0f} W"
    if heat is not None and heat[0] > heat[1] + HOT_C:
        cooler = power is None or power[0] < power[1] * (1.0 - LOW_POWER)
        if cooler:
            return "thermal", f"it is at {heat[0]:.0f} C, others at {heat[1]:.0f} C"
    if power is not None and cap is not None and power[0] > 0.97 * cap[0]:
        return "silicon", f"it draws its power cap of {cap[0]:.0f} W"
    return None
