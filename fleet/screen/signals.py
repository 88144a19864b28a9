"""What is known of a unit beside its losses: sensors, settings, and metrics in which it is fine.

The cause of a loss is in these signals. They are looked up for the few nodes with a finding only.

    signals = Signals.of(table, scores, {"n1"}); signals.reading("n1", 5, "temp")
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from groundspeed.fleet.kinds import Kind
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.score import FINE, Scores
from groundspeed.fleet.settings import SETTINGS
from groundspeed.fleet.table import NODE_LEVEL, FleetTable

Unit = tuple[str, int]
"""Node and GPU; ``NODE_LEVEL`` for the node."""

LEAST_COMPARED = 3
"""Fewest units of a class from which a setting has a usual value."""

CLOCK = r"(sm|gpu|gfx|graphics|core|p|s)_?(clock|clk)|^clocks?(_mhz)?$|^clocks?_current|^clock"
HEAT = r"^(?!mem|hbm|mtemp|vram).*((^|_)g?temp(erature)?(_c|_gpu)?$|^temp|hotspot|junction)"
POWER = r"^power(_w|_draw|_usage|_watts?)?$|power_draw|power_usage|socket_power|^pwr$"
THERMAL_FLAG = r"(thermal|temp)\w*(slowdown|throttl|violation)|(slowdown|throttl|violation)\w*therm"


@dataclass(frozen=True)
class Deviation:
    """A setting of a unit that differs from the usual one of its class."""

    setting: str
    value: str
    usual: str
    share: float
    """[1] Share of its class that has the usual value."""

    @property
    def lower(self) -> bool | None:
        """Whether the value is lower than usual; None if they are no numbers."""
        mine, others = as_number(self.value), as_number(self.usual)
        return None if mine is None or others is None else mine < others


def as_number(text: str) -> float | None:
    """Return the number that a setting begins with; None without one.

    >>> as_number("500 W"), as_number("x16"), as_number("Enabled")
    (500.0, 16.0, None)
    """
    match = re.fullmatch(r"(?:x|gen ?)?(-?\d+(?:\.\d+)?)\s*[A-Za-z/]*", text.strip(), re.IGNORECASE)
    return float(match.group(1)) if match else None


@dataclass(frozen=True)
class Signals:
    """Readings, deviating settings and fine metrics of units, and the medians of their class."""

    readings: Mapping[Unit, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """Reading and median of the class, by unit and sensor."""
    deviations: Mapping[Unit, tuple[Deviation, ...]] = field(default_factory=dict)
    settings: Mapping[Unit, Mapping[str, str]] = field(default_factory=dict)
    fine: Mapping[Unit, frozenset[Kind]] = field(default_factory=dict)
    """Kinds of metrics in which the unit was judged and is not slow."""

    @staticmethod
    def of(
        table: FleetTable,
        scores: Scores,
        deviations: Mapping[Unit, tuple[Deviation, ...]],
        nodes: Collection[str],
    ) -> "Signals":
        """Look up the signals of the units of some nodes."""
        rows = table.rows
        mask = rows["node"].isin(list(nodes)).to_numpy()
        near = rows[mask]
        return Signals(
            _readings(rows, near),
            deviations,
            _settings(table, nodes),
            _fine(near, scores.tier[mask], scores.z[mask]),
        )

    def reading(self, unit: Unit, pattern: str) -> tuple[float, float] | None:
        """Return a sensor's reading and the median of the class; None without such a sensor."""
        for name, pair in sorted(self.readings.get(unit, {}).items()):
            if re.search(pattern, name.lower()):
                return pair
        return None

    def deviation(self, unit: Unit, *settings: str) -> Deviation | None:
        """Return how a setting of a unit (or of its whole node) deviates; None if it does not."""
        for where in (unit, (unit[0], NODE_LEVEL)):
            for deviation in self.deviations.get(where, ()):
                if deviation.setting in settings:
                    return deviation
        return None


def _readings(rows: pd.DataFrame, near: pd.DataFrame) -> dict[Unit, dict[str, tuple[float, float]]]:
    readings: dict[Unit, dict[str, tuple[float, float]]] = {}
    names = [m for m in rows["metric"].cat.categories if facts_of(str(m)).kind == "telemetry"]
    for name in names:
        part = rows[(rows["metric"] == name) & rows["value"].notna()]
        middle = part.groupby("cohort", observed=True)["value"].median()
        mine = near[(near["metric"] == name) & near["value"].notna()]
        for node, gpu, value, cohort in zip(
            mine["node"], mine["gpu"], mine["value"], mine["cohort"], strict=True
        ):
            unit = str(node), int(gpu)
            readings.setdefault(unit, {})[str(name)] = (float(value), float(middle[cohort]))
    for node in {unit[0] for unit in readings}:
        own = [values for (name, gpu), values in readings.items() if name == node and gpu >= 0]
        if own and (node, NODE_LEVEL) not in readings:
            shared = set.intersection(*(set(values) for values in own))
            readings[node, NODE_LEVEL] = {
                name: (float(np.median([v[name][0] for v in own])), own[0][name][1])
                for name in shared
            }
    return readings


def _settings(table: FleetTable, nodes: Collection[str]) -> dict[Unit, dict[str, str]]:
    found: dict[Unit, dict[str, str]] = {}
    part = table.settings[table.settings["node"].isin(list(nodes))]
    for node, gpu, setting, value in zip(
        part["node"], part["gpu"], part["setting"], part["value"], strict=True
    ):
        found.setdefault((str(node), int(gpu)), {})[str(setting)] = str(value)
    return found


def _fine(near: pd.DataFrame, tier: np.ndarray, z: np.ndarray) -> dict[Unit, frozenset[Kind]]:
    fine: dict[Unit, set[Kind]] = {}
    good = (tier == FINE) & np.isfinite(z)
    part = near[good]
    kinds = {m: facts_of(str(m)).kind for m in part["metric"].cat.categories}
    part = part.assign(kind=part["metric"].map(kinds)).drop_duplicates(["node", "gpu", "kind"])
    for node, gpu, kind in zip(part["node"], part["gpu"], part["kind"], strict=True):
        for unit in ((str(node), int(gpu)), (str(node), NODE_LEVEL)):
            fine.setdefault(unit, set()).add(kind)
    return {unit: frozenset(kinds) for unit, kinds in fine.items()}


def deviations_of(table: FleetTable) -> dict[Unit, tuple[Deviation, ...]]:
    """Find the units whose settings differ from those of most of their class.

    A node whose GPUs all deviate in the same way is one unit. Where no value has a majority there
    is no usual one, and nobody deviates.
    """
    settings = table.settings
    if settings.empty:
        return {}
    found: dict[Unit, list[Deviation]] = {}
    sizes = settings.assign(level=settings["gpu"] >= 0)
    for (_, setting, level), part in sizes.groupby(["cohort", "setting", "level"], sort=True):
        counts = _counts(part["value"])
        if len(part) < LEAST_COMPARED or len(counts) < 2:
            continue
        usual, count = str(counts.index[0]), int(counts.iloc[0])
        if count <= len(part) / 2:
            continue
        alike = part["value"].map(lambda v, u=usual, s=str(setting): same(str(v), u, s))
        odd = part[~alike.astype(bool)]
        per_node = part.groupby("node")["gpu"].nunique()
        share = count / len(part)
        for (node, value), mine in odd.groupby(["node", "value"], sort=True):
            whole = bool(level) and len(mine) > 1 and len(mine) == int(per_node[str(node)])
            for gpu in (NODE_LEVEL,) if whole or not level else sorted(mine["gpu"]):
                found.setdefault((str(node), int(gpu)), []).append(
                    Deviation(str(setting), str(value), usual, share)
                )
    return {unit: tuple(sorted(d, key=_order)) for unit, d in found.items()}


ORDER = {s.name: i for i, s in enumerate(SETTINGS)}


def _order(deviation: Deviation) -> int:
    return ORDER[deviation.setting]


def _counts(values: pd.Series) -> pd.Series:
    """Return how often each value occurs, most frequent first; equal numbers count together."""
    numbers = values.map(lambda v: as_number(str(v)))
    plain = values.where(numbers.isna(), numbers.map(lambda x: "" if pd.isna(x) else f"{x:g}"))
    names = values.groupby(plain).first()
    counts = plain.value_counts(sort=True)
    return pd.Series(counts.to_numpy(), index=[names[k] for k in counts.index])


VERSIONS = ("driver", "vbios", "runtime")
"""Settings whose values are names, even where they look like numbers."""


def same(one: str, other: str, setting: str = "") -> bool:
    """Return whether two settings are the same: equal text, or numbers within one per cent."""
    if one == other:
        return True
    mine, others = as_number(one), as_number(other)
    if mine is None or others is None or setting in VERSIONS:
        return one.strip().lower() == other.strip().lower()
    return abs(mine - others) <= 0.01 * max(abs(mine), abs(others))
