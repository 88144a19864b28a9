"""Why a unit is slow: from what fell together, and from its temperature, power and clocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groundspeed.fleet.metrics import Kind, facts_of
from groundspeed.fleet.screen.findings import Finding, Level, Verdict

HALF_WIDTH = 0.38
"""Loss from which a host link runs at half its lanes or less, or a generation lower."""

HOT_C = 8.0
"""Above the median of its kind."""

LOW_POWER = 0.05
"""Below the median of its kind, as a fraction."""


class Loss(NamedTuple):
    """How one metric of a unit fell."""

    loss: float
    z: float
    value: float
    expected: float
    tier: float
    """1 WARN, 2 FAIL."""


@dataclass(frozen=True)
class Unit:
    """A GPU, node or rack, and the metrics in which it fell."""

    node: str
    gpu: int | None
    level: Level
    losses: dict[str, Loss]


@dataclass(frozen=True)
class Telemetry:
    """Temperature, power and the like, by GPU, and the median of its class."""

    of_unit: dict[tuple[str, int], dict[str, float]]
    usual: dict[tuple[str, int], dict[str, float]]
    """Usual readings of the class that each unit belongs to."""


def explain(
    unit: Unit, telemetry: Telemetry, notes: Mapping[tuple[str, int, str], str] | None = None
) -> Finding:
    """A finding of a unit: its worst metric, its cause, and what speaks for it."""
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
        return "below_floor", f"down: {down} against the reference, whatever its class does"
    if kinds.get("host_link", 0.0) >= HALF_WIDTH:
        return "pcie_width", f"down: {down}: what half the lanes lose, or more"
    telemetry_cause = _cause_from_telemetry(unit, telemetry)
    if "tensor" in kinds and telemetry_cause is not None:
        return telemetry_cause[0], f"down: {down}; {telemetry_cause[1]}"
    if "vector" in kinds and "tensor" not in kinds:
        return "clocks_or_software", f"down: {down}; tensor cores are not"
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
        """Reading of this GPU, and the usual one of its class."""
        for name, reading in sorted(mine.items()):
            if pattern in name.lower():
                return reading, usual[name]
        return None

    cap, heat, power = value("power_limit") or value("power_cap"), value("temp"), value("power_w")
    if cap is not None and cap[0] < cap[1] * (1.0 - LOW_POWER):
        return "power_cap", f"its cap is {cap[0]:.0f} W, others' {cap[1]:.0f}"
    if heat is not None and heat[0] > heat[1] + HOT_C:
        cooler = power is None or power[0] < power[1] * (1.0 - LOW_POWER)
        if cooler:
            return "thermal", f"{heat[0]:.0f} C, others {heat[1]:.0f}"
    if power is not None and cap is not None and power[0] > 0.97 * cap[0]:
        return "silicon", f"at its cap of {cap[0]:.0f} W"
    return None
