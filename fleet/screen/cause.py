"""Name the cause of a slow unit from the metrics in which it is slow, and from its signals.

A cause slows several metrics at once, so the combination points to it: fewer lanes slow both
directions of the host link by the same factor, a process on the far socket slows them by different
ones; heat and a locked clock both lower the clock, but only one of them makes the GPU hot. What no
reading shows is not claimed.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from groundspeed.fleet.kinds import Kind
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.findings import Finding, Level, Verdict
from groundspeed.fleet.screen.signals import (
    CLOCK,
    HEAT,
    POWER,
    THERMAL_FLAG,
    Deviation,
    Signals,
    as_number,
)
from groundspeed.fleet.settings import SETTINGS
from groundspeed.fleet.table import NODE_LEVEL

HOT_C = 8.0
"""[C] Temperature above the median of its class from which a GPU counts as hot."""

TOO_HOT_C = 85.0
"""[C] Temperature from which GPUs lower their clock: the slowdown is at 83 (V100) to 90 (H100)."""

LOW_POWER = 0.05
"""[1] Fraction below the median of its class from which power counts as low."""

AT_CAP = 0.97
"""[1] Fraction of the power cap from which a GPU draws all that it may."""

LOW_CLOCK = 0.06
"""[1] Fraction below the median of its class from which a clock counts as low."""

LANES_LEFT = (0.5, 0.25, 0.125, 0.0625)
"""[1] Shares of a link's bandwidth that are left with fewer lanes or a lower generation."""

LANES_WITHIN = 0.13
"""[1] Largest relative distance from such a share; protocol overhead does not scale with lanes."""

UNEQUAL = 1.2
"""Factor between what is left of the two directions from which lanes do not explain them."""


class Loss(NamedTuple):
    """Loss of one metric of a unit."""

    loss: float
    z: float
    value: float
    expected: float
    tier: float
    """Verdict as a number: 1 WARN, 2 FAIL."""


class Unit(NamedTuple):
    """A GPU, node, rack or class, and the metrics in which it is slow."""

    node: str
    gpu: int | None
    level: Level
    losses: dict[str, Loss]


FAIL = 2


def explain(
    unit: Unit,
    signals: Signals,
    notes: Mapping[tuple[str, int, str], str] | None = None,
    gpu_name: int | str | None = None,
) -> Finding:
    """Return the finding for a unit: its worst metric, the likely cause, and the evidence."""
    worst = max(unit.losses, key=lambda m: (unit.losses[m].tier, unit.losses[m].loss, m))
    loss, z, value, expected, _ = unit.losses[worst]
    failed = any(v.tier >= FAIL for v in unit.losses.values())
    verdict: Verdict = "FAIL" if failed else "WARN"
    cause, evidence = _cause(unit, signals)
    if notes and unit.gpu is not None:
        said = (notes.get((unit.node, unit.gpu, m), "") for m in sorted(unit.losses))
        evidence += "".join(f"; {note}" for note in dict.fromkeys(n for n in said if n))
    return Finding(
        node=unit.node,
        gpu=unit.gpu if gpu_name is None else gpu_name,
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


SINGLE: tuple[tuple[Kind, str], ...] = (
    ("tensor", "compute"), ("memory", "memory"), ("nvlink", "nvlink"), ("network", "network"),
    ("launch", "host"), ("host_link", "host_link"), ("vector", "compute"),
)  # fmt: skip
"""Cause of a unit that is slow in one kind of metric, if no signal explains it."""


def _cause(unit: Unit, signals: Signals) -> tuple[str, str]:
    kinds: set[Kind] = {facts_of(metric).kind for metric in unit.losses}
    down = ", ".join(f"{m} {-v.loss:.0%}" for m, v in sorted(unit.losses.items())[:4])
    if len(unit.losses) > 4:
        down += f" and {len(unit.losses) - 4} more"
    if all(not np.isfinite(v.z) for v in unit.losses.values()):
        return "below_floor", f"{down} against the reference, of which nine tenths are the floor"
    where = (unit.node, NODE_LEVEL if unit.gpu is None else unit.gpu)
    setting = _from_setting(where, kinds, signals)
    if setting is not None:
        return setting[0], f"{down}; {setting[1]}"
    if "host_link" in kinds:
        name, why = _host_link(unit, where, signals)
        return name, f"{down}{why}"
    if kinds & {"tensor", "vector", "memory", "model"}:
        sensor = _from_sensors(where, signals, memory_only=kinds == {"memory"})
        if sensor is not None:
            return sensor[0], f"{down}; {sensor[1]}"
    if "vector" in kinds and "tensor" not in kinds and "tensor" in signals.fine.get(where, ()):
        return "clocks_or_software", f"{down}; its tensor cores are not slow"
    if "nvlink" in kinds:
        return "nvlink", down
    for kind, cause in SINGLE:
        if kind in kinds:
            return cause, down
    return "unknown", down


def _from_setting(
    where: tuple[str, int], kinds: set[Kind], signals: Signals
) -> tuple[str, str] | None:
    """Return the setting that differs from the class's and explains the slow kinds."""
    for setting in SETTINGS:
        deviation = signals.deviation(where, setting.name)
        if deviation is None or not kinds & setting.explains:
            continue
        if deviation.lower is False and setting.name not in ("driver", "vbios", "runtime"):
            continue  # more power or lanes than others make nobody slow
        return setting.name, describe(deviation)
    return None


def describe(deviation: Deviation) -> str:
    """Return a sentence about a setting that differs from that of most others."""
    setting = next(s for s in SETTINGS if s.name == deviation.setting)
    name = setting.name.replace("_", " ")
    return (
        f"{name} {setting.text(deviation.value)} where {deviation.share:.0%} of its class have "
        f"{setting.text(deviation.usual)}"
    )


def _host_link(unit: Unit, where: tuple[str, int], signals: Signals) -> tuple[str, str]:
    """Tell fewer lanes from a process on the far socket, by the factors of both directions."""
    left = {m: 1.0 - v.loss for m, v in unit.losses.items() if facts_of(m).kind == "host_link"}
    device_fine = bool({"memory", "tensor"} & signals.fine.get(where, frozenset()))
    shares = sorted(left.values())
    equal = shares[-1] <= UNEQUAL * max(shares[0], 1e-9)
    lanes = [share for share in LANES_LEFT
             if all(abs(x / share - 1.0) <= LANES_WITHIN for x in shares)]  # fmt: skip
    width = signals.settings.get(where, {}).get("pcie_width")
    both = len(shares) > 1 or "host_link" not in signals.fine.get(where, frozenset())
    if lanes and equal and both and (width is None or len(shares) > 1):
        upstream = f"; its own link reports {width} lanes: look upstream" if width else ""
        return (
            "pcie_width",
            f": what {lanes[0]:g} of the lanes or a lower generation leaves{upstream}",
        )
    if len(shares) > 1 and not equal:
        fine = "; the device itself is not slow" if device_fine else ""
        return "host_binding", f": both directions by different factors{fine}"
    if shares[0] < 0.55:
        reason = f"; its link has {width} lanes as usual" if width else ": not a number of lanes"
        return "host_link", reason
    return "host_link", ""


def _from_sensors(
    where: tuple[str, int], signals: Signals, *, memory_only: bool = False
) -> tuple[str, str] | None:
    """Return the cause that clock, temperature, power and throttle flags show; None if none."""
    clock, heat = signals.reading(where, CLOCK), signals.reading(where, HEAT)
    power, flag = signals.reading(where, POWER), signals.reading(where, THERMAL_FLAG)
    cap_text = signals.settings.get(where, {}).get("power_cap")
    cap = as_number(cap_text) if cap_text else None
    at_cap = power is not None and cap is not None and power[0] > AT_CAP * cap
    low_clock = clock is not None and clock[0] < clock[1] * (1.0 - LOW_CLOCK)
    low_power = power is not None and power[0] < power[1] * (1.0 - LOW_POWER)
    hot = heat is not None and (heat[0] > heat[1] + HOT_C or heat[0] >= TOO_HOT_C)
    hot = hot or (flag is not None and flag[0] > 0 and flag[0] > flag[1])
    parts = []
    if clock is not None and low_clock:
        parts.append(f"its clock is {clock[0]:.0f} MHz, that of others {clock[1]:.0f}")
    if heat is not None and (hot or low_clock):
        parts.append(f"it is at {heat[0]:.0f} C, others at {heat[1]:.0f}")
    if power is not None and (low_power or low_clock):
        parts.append(f"it draws {power[0]:.0f} W, others {power[1]:.0f}")
    if flag is not None and flag[0] > flag[1]:
        parts.append("it reports throttling for heat")
    evidence = ", ".join(parts)
    if hot and (low_clock or low_power or clock is None) and not memory_only:
        return "thermal", evidence
    # All GPUs draw their cap under load; a slower chip does and has a lower clock for it.
    if at_cap and low_clock and not low_power and not memory_only:
        return "silicon", f"it draws its power cap of {cap:.0f} W at a lower clock; {evidence}"
    if low_clock:
        return "clocks", evidence
    return None


def from_sensors_alone(where: tuple[str, int], signals: Signals) -> tuple[str, str] | None:
    """Return a cause for a unit without slow metrics; an idle GPU (cool, low clock) has none."""
    found = _from_sensors(where, signals)
    clock = signals.reading(where, CLOCK)
    if found is None or clock is None or clock[0] >= clock[1] * (1.0 - LOW_CLOCK):
        return None
    return found if found[0] == "thermal" else None
