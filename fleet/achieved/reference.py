"""What a class should reach: the rates of a reference, and the published ranges of its SKU.

A reference is matched by quantity, so that every usual name of a metric is understood, and what
could not be compared is said.

    rates, notes = reference_rates_for(table, reference_rates(profile), "h100-sxm")
"""

import re
from collections.abc import Mapping

import numpy as np

from groundspeed.fleet.achieved.ranges import range_of
from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metric_names import quantity_of
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.drift import shorten
from groundspeed.fleet.screen.findings import Finding
from groundspeed.fleet.screen.signals import as_number
from groundspeed.fleet.table import FleetTable
from groundspeed.fleet.units import scale_of
from groundspeed.profiles.datasheet import find_device

BOTH_WAYS = 0.08
"""[1] Largest distance from one half at which a copy rate is one that counts bytes once."""


def reference_rates_for(
    table: FleetTable, reached: Mapping[str, float], name: str
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the rates of a reference in the units of a table, and notes on what is not compared.

    Parameters
    ----------
    table : FleetTable
    reached : mapping of str to float
        Rates of the reference in SI units, by metric.
    name : str
        Name of the reference, for the notes.
    """
    by_quantity: dict[str, float] = {}
    for metric, value in reached.items():
        quantity = quantity_of(metric)
        if quantity is not None:
            by_quantity[quantity] = value
    rates: dict[str, float] = {}
    absent, without_unit = [], []
    for metric in _judged(table):
        quantity = quantity_of(metric, table.units.get(metric, ""))
        known = {**by_quantity, **reached}
        name_there = metric if metric in reached else quantity
        scale = scale_of(table.units.get(metric, ""))
        if name_there not in known:
            absent.append(metric)
        elif scale is None:
            without_unit.append(metric)
        else:
            rates[metric] = known[name_there] / scale[1]
    notes = []
    if rates:
        notes.append(f"compared with {name}: {shorten(sorted(rates), 8)}")
    if absent:
        notes.append(f"not compared with {name}, which has no such quantity: {shorten(absent, 8)}")
    if without_unit:
        notes.append(f"not compared with {name}, because the unit is missing or unknown: "
                     f"{shorten(without_unit, 8)}")  # fmt: skip
    return rates, tuple(notes)


def _judged(table: FleetTable) -> list[str]:
    names = [str(m) for m in table.rows["metric"].cat.categories]
    return [m for m in names if facts_of(m).kind not in UNJUDGED]


SMALL_MESSAGE = re.compile(r"\d+_?(b|kb?|kib|mb?|mib)(_|$)|(^|_)\d+(_|$)", re.IGNORECASE)
"""Matches the size of a message in the name of a collective; only large ones reach the range."""


def slow_skus(table: FleetTable, compared: Mapping[str, float]) -> list[Finding]:
    """Return a warning for each class whose median is below what its SKU reaches elsewhere.

    Parameters
    ----------
    table : FleetTable
    compared : mapping
        Metrics that are compared with a reference already.
    """
    findings = []
    for cohort, sku in sorted(table.skus.items()):
        low: list[tuple[float, str, float, float, str]] = []
        rows = table.rows[(table.rows["cohort"] == cohort) & table.rows["value"].notna()]
        for metric in _judged(table):
            unit = table.units.get(metric, "")
            scale, quantity = scale_of(unit), quantity_of(metric, unit)
            if metric in compared or scale is None or quantity is None:
                continue
            if quantity.startswith("collective") and SMALL_MESSAGE.search(metric):
                continue
            known = range_of(sku, quantity)
            values = rows.loc[rows["metric"] == metric, "value"]
            if known is None or values.empty:
                continue
            median = float(np.median(values)) * scale[1]
            share = median / known.typical
            once = quantity == "memory copy" and abs(share - 0.5) <= BOTH_WAYS
            if median < known.least and not once:
                low.append((share, metric, median / scale[1], known.typical / scale[1],
                            known.source))  # fmt: skip
        if low:
            cap = _low_cap(table, cohort, sku)
            findings.append(_finding(cohort, sku, sorted(low), table.units, cap))
    return findings


VERY_SLOW = 0.6
"""[1] Share of what published devices reach below which no benchmark explains a class's rate."""


def _low_cap(table: FleetTable, cohort: str, sku: str) -> str:
    """Return a sentence if most of a class has a lower power cap than its datasheet."""
    caps = table.settings[
        (table.settings["cohort"] == cohort) & (table.settings["setting"] == "power_cap")
    ]["value"].map(lambda v: as_number(str(v)))
    sheet = find_device(sku).spec.power_cap_w
    if caps.empty or sheet is None or caps.isna().all():
        return ""
    usual = float(caps.median())
    if usual >= 0.95 * sheet.value:
        return ""
    return f"; its power cap is {usual:.0f} W, the datasheet has {sheet.value:.0f} W"


def _finding(
    cohort: str,
    sku: str,
    low: list[tuple[float, str, float, float, str]],
    units: Mapping[str, str],
    cap: str,
) -> Finding:
    share, metric, value, typical, source = low[0]
    unit = units.get(metric, "")
    text = (
        f"the whole class is slow: {metric} {value:.4g} {unit} in the median, "
        f"{sku} reaches {typical:.4g} elsewhere ({source}){cap}"
    )
    return Finding(
        node=cohort, gpu=None, metric=metric, metrics=tuple(m for _, m, *_ in low),
        verdict="FAIL" if share < VERY_SLOW else "WARN",
        value=value, expected=typical, loss_fraction=1.0 - share, z=None, level="class",
        cause="below_floor", evidence=text,
    )  # fmt: skip
