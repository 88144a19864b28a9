"""Build the baseline of a health check: usual values of healthy devices, by class and metric.

A node that checks itself cannot see other nodes, so it uses this small table: the median and the
spread of the fleet for each class and metric. If no fleet was measured, the laws of a profile
predict how fast the cases of a check should run; a profile from another machine only sets a floor.

    baseline = baseline_of(read_fleet([Path("fleet.csv")]), "fleet.csv")
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import ValidationError

from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.score import usual
from groundspeed.fleet.table import NODE_LEVEL, FleetTable
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws.law import law_time
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.record import Record, RenamedRecord
from groundspeed.profiles.schema import Profile


class Usual(RenamedRecord):
    """Median and spread of one metric in one class of devices."""

    old_names: ClassVar[Mapping[str, str]] = {"cohort": "klass"}

    cohort: str
    metric: str
    median: float
    spread: float | None
    """[1] Standard deviation of the logarithm; None if too few units were measured."""
    units: int


class Baseline(Record):
    """Usual values of a fleet, by class and metric."""

    source: str
    date_utc: str
    usual: tuple[Usual, ...]
    gpus_per_node: int | None = None
    """Number of GPUs that most nodes have; None if no GPU was measured."""

    def of(self, cohort: str, metric: str) -> Usual | None:
        """Return the usual value of a metric in a class, or None if it is unknown."""
        return next((u for u in self.usual if (u.cohort, u.metric) == (cohort, metric)), None)


def baseline_of(table: FleetTable, source: str) -> Baseline:
    """Return the baseline of a measured fleet.

    Parameters
    ----------
    table : FleetTable
    source : str
        Description of where the measurements come from, shown to users.
    """
    rows = table.rows
    values = rows["value"].to_numpy()
    slots = rows["gpu"].to_numpy(dtype=np.float64)
    nodes = np.array(rows["node"].cat.codes, dtype=np.float64)
    healthy = []
    for key, where in rows.groupby(["cohort", "metric"], observed=True, sort=True).indices.items():
        cohort, metric = (str(k) for k in key) if isinstance(key, tuple) else ("all", str(key))
        facts = facts_of(metric, unit=table.units.get(metric, ""))
        index = np.asarray(where)
        statistics = usual(values[index], slots[index], nodes[index], facts)
        if statistics is None or facts.kind in UNJUDGED:
            continue
        units = int(np.isfinite(values[index]).sum())
        healthy.append(
            Usual(
                cohort=cohort,
                metric=metric,
                median=statistics[0],
                spread=statistics[1],
                units=units,
            )
        )
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    gpus = rows[rows["gpu"] != NODE_LEVEL].groupby("node", observed=True)["gpu"].nunique()
    most = int(gpus.mode().iloc[-1]) if not gpus.empty else None
    return Baseline(source=source, date_utc=now, usual=tuple(healthy), gpus_per_node=most)


def read_baseline(text: str, where: str) -> Baseline:
    """Parse a baseline from JSON.

    Raises
    ------
    InputError
        If the text is not a valid baseline.
    """
    try:
        return Baseline.model_validate_json(text)
    except ValidationError as error:
        raise InputError(
            "is not a baseline", where=where, remedy="make one with: groundspeed fleet baseline"
        ) from error


@dataclass(frozen=True)
class CheckedCase:
    """Case of a check: the operation, config key and case that a profile stores it under."""

    operation: str
    config_key: Mapping[str, str]
    case: Mapping[str, float]


def _product(dtype: str, size: float) -> CheckedCase:
    return CheckedCase("matmul", {"dtype": dtype}, {"m": size, "n": size, "k": size})


def _stream(mode: str) -> CheckedCase:
    return CheckedCase("stream", {"mode": mode}, {"bytes": 2.0**30})


def _link(direction: str) -> CheckedCase:
    return CheckedCase("host_link", {"direction": direction}, {"bytes": 2.0**26})


GPU_CASES: dict[str, CheckedCase] = {
    "matmul_bfloat16": _product("bfloat16", 8192.0),
    "matmul_fp8": _product("fp8", 8192.0),
    "matmul_float32_vector": _product("float32", 4096.0),
    "hbm_triad": _stream("triad"),
    "hbm_read": _stream("read"),
    "pcie_h2d": _link("h2d"),
    "pcie_d2h": _link("d2h"),
}
"""Metrics of a check that a profile can predict, with the case of each."""


def reference_rates(profile: Profile) -> dict[str, float]:
    """Return the rates that a device with this profile should reach, by metric.

    The result contains the rates of the profile under their own names, and the rates of the cases
    of a check as the laws predict them, in FLOP/s or bytes/s.
    """
    rates = {r.quantity.replace(" ", "_"): r.value for r in profile.rates}
    for metric, wanted in GPU_CASES.items():
        rate = _rate(profile, wanted)
        if rate is not None:
            rates[metric] = rate
    return rates


def _rate(profile: Profile, wanted: CheckedCase) -> float | None:
    """Return FLOP/s or bytes/s of a case, predicted by its law; as measured if it has no law."""
    if wanted.operation not in OPERATIONS:
        curve = profile.curve(wanted.operation, **wanted.config_key)
        near = [p for p in curve.points if p.case == dict(wanted.case)] if curve else []
        return near[0].bytes / near[0].time_s if near else None
    law = profile.law(wanted.operation, **wanted.config_key)
    if law is None:
        return None
    columns = {name: np.array([value]) for name, value in wanted.case.items()}
    operation = OPERATIONS[wanted.operation]
    flops = float(operation.flops(columns, law.config_key)[0])
    moved = float(operation.bytes(columns, law.config_key)[0])
    return (flops or moved) / float(law_time(law, columns).time_s[0])
