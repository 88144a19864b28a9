"""Findings for counters of hardware errors, and for sensors that show a fault without a rate."""

from collections.abc import Collection

import pandas as pd

from groundspeed.fleet.counters import counter_of, judge_counter
from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.cause import from_sensors_alone
from groundspeed.fleet.screen.findings import Finding, Verdict
from groundspeed.fleet.screen.signals import CLOCK, Signals
from groundspeed.fleet.table import NODE_LEVEL, FleetTable


def counter_findings(table: FleetTable) -> list[Finding]:
    """Return a finding for each unit whose counters of errors are above the published limits."""
    rows = table.rows
    worst: dict[tuple[str, int], list[tuple[int, str, float, str]]] = {}
    for name in rows["metric"].cat.categories:
        if facts_of(str(name)).kind != "counter":
            continue
        counter = counter_of(str(name))
        part = rows[(rows["metric"] == name) & rows["value"].notna()]
        if counter is None or part.empty:
            continue
        middle = part.groupby("cohort", observed=True)["value"].median()
        for node, gpu, value, cohort in zip(
            part["node"], part["gpu"], part["value"], part["cohort"], strict=True
        ):
            verdict = judge_counter(counter, float(value), float(middle[cohort]))
            if verdict.tier != "FINE":
                note = table.notes.get((str(node), int(gpu), str(name)), "")
                sentence = verdict.sentence + (f": {note}" if note else "")
                rank = 1 if verdict.tier == "FAIL" else 0
                worst.setdefault((str(node), int(gpu)), []).append(
                    (rank, str(name), float(value), sentence)
                )
    findings = []
    for (node, gpu), said in sorted(worst.items()):
        said.sort(key=lambda s: (-s[0], s[1]))
        tier: Verdict = "FAIL" if said[0][0] else "WARN"
        findings.append(
            Finding(
                node=node, gpu=table.gpu_of(gpu), metric=said[0][1],
                metrics=tuple(s[1] for s in said), verdict=tier, value=said[0][2], expected=0.0,
                loss_fraction=None, z=None, level="node" if gpu == NODE_LEVEL else "gpu",
                cause="failed_test" if said[0][1].startswith("dcgm_") else "hardware_errors",
                evidence="; ".join(s[3] for s in said),
            )
        )  # fmt: skip
    return findings


def sensor_findings(
    table: FleetTable, signals: Signals, found: Collection[tuple[str, int]]
) -> list[Finding]:
    """Return a finding for each hot GPU with a lowered clock of a table without rates.

    A monitor's log (``nvidia-smi dmon``) has no rates; a GPU that is hot and clocked below the
    others is at work and slow. A cool one with a low clock may be idle, so it is not blamed.
    """
    rows = table.rows
    if has_rates(rows) or rows.empty:
        return []
    findings = []
    units = rows[["node", "gpu"]].drop_duplicates()
    for node, gpu in sorted(zip(units["node"].astype(str), units["gpu"], strict=True)):
        unit = node, int(gpu)
        cause = from_sensors_alone(unit, signals)
        if cause is None or unit in found:
            continue
        clock = signals.reading(unit, CLOCK)
        value, usual = clock if clock is not None else (None, None)
        findings.append(
            Finding(
                node=node, gpu=table.gpu_of(unit[1]), metric="clock", metrics=("clock",),
                verdict="FAIL", value=value, expected=usual,
                loss_fraction=1.0 - value / usual if value is not None and usual else None, z=None,
                level="node" if gpu == NODE_LEVEL else "gpu", cause=cause[0], evidence=cause[1],
            )
        )  # fmt: skip
    return findings


def has_rates(rows: pd.DataFrame) -> bool:
    """Return whether a table has any metric that is a rate or a time."""
    return any(facts_of(str(m)).kind not in UNJUDGED for m in rows["metric"].cat.categories)
