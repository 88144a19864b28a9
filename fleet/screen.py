"""Screen a fleet: score, gather by unit, roll up, explain.

A GPU that is slow in three products is one finding. Half of a node's GPUs slow in the same metric
are not eight bad GPUs: that is the node. Half of a rack is the rack. What fell together says why:
host link and network down together is a PCIe link of half width; vector units down and tensor
cores fine is a clock or a build.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from groundspeed.fleet.cause import Loss, Telemetry, Unit, explain
from groundspeed.fleet.findings import Finding, Level, Screening
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.score import Scores, score
from groundspeed.fleet.table import NODE_LEVEL, FleetTable
from groundspeed.profiles.operations import Array

FAILED = 3.0


@dataclass
class _Gathered:
    """What is wrong with one unit."""

    losses: dict[str, Loss] = field(default_factory=dict)


def screen(
    table: FleetTable,
    *,
    lower_is_better: Collection[str] = (),
    floors: dict[str, float] | None = None,
) -> Screening:
    """Find what is not fine.

    Parameters
    ----------
    table : FleetTable
    lower_is_better : collection of str
        Metrics for which that is said.
    floors : dict of str to float, optional
        Absolute floors, from a reference profile.

    Returns
    -------
    Screening
        Findings in a fixed order: worst first, then by name.
    """
    scores = score(table, lower_is_better=lower_is_better, floors=floors)
    rows = table.rows
    telemetry = _telemetry(table)
    gathered = _gather(rows, scores)
    nodes = _roll_up_nodes(rows, gathered)
    racks = _roll_up_racks(rows, nodes)
    findings = [
        explain(Unit(name, gpu, level, losses), telemetry)
        for (name, gpu, level), found in racks.items()
        for losses in _by_cause(found.losses)
    ]
    findings = _join_links(findings)
    findings += _missing(table, rows)
    findings.sort(key=lambda f: (ORDER[f.verdict], -(f.loss_fraction or 0.0), f.node, f.gpu or -1))
    gpus = rows.loc[rows["gpu"] != NODE_LEVEL, ["node", "gpu"]].drop_duplicates()
    verdicts = [f.verdict for f in findings]
    return Screening(
        findings=tuple(findings),
        nodes=int(rows["node"].nunique()),
        gpus=len(gpus),
        metrics=int(rows["metric"].nunique()),
        measurements=len(rows),
        excluded=table.excluded,
        fail=verdicts.count("FAIL"),
        warn=verdicts.count("WARN"),
        inconclusive=verdicts.count("INCONCLUSIVE"),
    )


ORDER = {"FAIL": 0, "WARN": 1, "FLAKY": 2, "INCONCLUSIVE": 3}

Key = tuple[str, int | None, Level]


def _gather(rows: pd.DataFrame, scores: Scores) -> dict[Key, _Gathered]:
    """Flagged measurements by GPU (or node, for metrics of nodes)."""
    found: dict[Key, _Gathered] = {}
    flagged = np.flatnonzero((scores.tier == 1) | (scores.tier == 2))
    part = rows.iloc[flagged]
    for position, node, gpu, metric, value in zip(
        flagged, part["node"], part["gpu"], part["metric"], part["value"], strict=True
    ):
        level: Level = "node" if gpu == NODE_LEVEL else "gpu"
        key = (str(node), None if gpu == NODE_LEVEL else int(gpu), level)
        found.setdefault(key, _Gathered()).losses[str(metric)] = Loss(
            float(scores.loss[position]),
            float(scores.z[position]),
            float(value),
            float(scores.expected[position]),
            float(scores.tier[position]),
        )
    return found


LINKS = ("host_link", "network")


def _by_cause(losses: dict[str, Loss]) -> list[dict[str, Loss]]:
    """What fell together may have one cause; links, launches and arithmetic do not share one."""
    groups: dict[str, dict[str, Loss]] = {}
    for metric, found in losses.items():
        kind = facts_of(metric).kind
        group = "links" if kind in LINKS else kind if kind in ("nvlink", "launch") else "device"
        groups.setdefault(group, {})[metric] = found
    return [groups[name] for name in sorted(groups)]


def _roll_up_nodes(rows: pd.DataFrame, gathered: dict[Key, _Gathered]) -> dict[Key, _Gathered]:
    """Half of a node's GPUs (two or more) in the same metric are the node."""
    gpus = rows[rows["gpu"] != NODE_LEVEL].groupby("node", observed=True)["gpu"].nunique()
    sizes = {str(node): int(count) for node, count in gpus.items()}
    slow: dict[tuple[str, str], list[Key]] = {}
    for key, unit in gathered.items():
        if key[2] == "gpu":
            for metric in unit.losses:
                slow.setdefault((key[0], metric), []).append(key)
    found = {key: _Gathered(dict(unit.losses)) for key, unit in gathered.items()}
    for (node, metric), keys in sorted(slow.items()):
        if len(keys) < 2 or len(keys) < sizes.get(node, 0) / 2:
            continue
        values = [found[key].losses.pop(metric) for key in keys]
        middle = np.median(np.array(values), axis=0)
        whole = found.setdefault((node, None, "node"), _Gathered())
        # The tier of most of them, not of the worst.
        whole.losses[metric] = _middle(middle, round(float(middle[4])))
    return {key: unit for key, unit in found.items() if unit.losses}


def _middle(middle: Array, tier: float) -> Loss:
    loss, z, value, expected = (float(x) for x in middle[:4])
    return Loss(loss, z, value, expected, float(tier))


def _roll_up_racks(rows: pd.DataFrame, units: dict[Key, _Gathered]) -> dict[Key, _Gathered]:
    """Half of a rack's nodes (two or more) in the same metric are the rack."""
    if rows["rack"].nunique() < 2:
        return units
    rack_of = {
        str(node): str(rack)
        for node, rack in rows[["node", "rack"]].drop_duplicates("node").itertuples(index=False)
    }
    sizes: dict[str, int] = {}
    for rack in rack_of.values():
        sizes[rack] = sizes.get(rack, 0) + 1
    slow: dict[tuple[str, str], list[Key]] = {}
    for key, unit in units.items():
        if key[2] == "node":
            for metric in unit.losses:
                slow.setdefault((rack_of[key[0]], metric), []).append(key)
    found = dict(units)
    for (rack, metric), keys in sorted(slow.items()):
        if len(keys) < 2 or len(keys) < sizes[rack] / 2:
            continue
        values = [found[key].losses.pop(metric) for key in keys]
        middle = np.median(np.array(values), axis=0)
        whole = found.setdefault((rack, None, "rack"), _Gathered())
        whole.losses[metric] = _middle(middle, float(middle[4]))
    return {key: unit for key, unit in found.items() if unit.losses}


def _telemetry(table: FleetTable) -> Telemetry:
    """Temperature, power and the like of each GPU, and what is usual."""
    rows = table.rows
    names = [str(m) for m in rows["metric"].cat.categories if facts_of(str(m)).kind == "telemetry"]
    of_unit: dict[tuple[str, int], dict[str, float]] = {}
    usual: dict[str, float] = {}
    for name in names:
        part = rows[(rows["metric"] == name) & rows["value"].notna()]
        values = part["value"].to_numpy()
        if values.size:
            usual[name] = float(np.median(values))
        for node, gpu, value in zip(part["node"], part["gpu"], values, strict=True):
            of_unit.setdefault((str(node), int(gpu)), {})[name] = float(value)
    return Telemetry(of_unit, usual)


def _join_links(findings: list[Finding]) -> list[Finding]:
    """A node whose network fell because of the host link of its GPUs has one cause, not two."""
    narrow = {f.node for f in findings if f.cause == "pcie_width"}
    network = {
        f.node: f
        for f in findings
        if f.cause == "network" and f.level == "node" and f.node in narrow
    }
    joined = []
    for f in findings:
        other = network.get(f.node)
        if f is other:
            continue
        if f.cause == "pcie_width" and other is not None:
            loss = other.loss_fraction or 0.0
            f = f.model_copy(
                update={
                    "metrics": (*f.metrics, *other.metrics),
                    "evidence": f"{f.evidence}; {other.metric} of its node fell {loss:.0%} with it",
                }
            )
        joined.append(f)
    return joined


def _missing(table: FleetTable, rows: pd.DataFrame) -> list[Finding]:
    """Tests without a result: inconclusive, never slow. One finding a node."""
    judged = [m for m in rows["metric"].cat.categories if facts_of(str(m)).kind != "telemetry"]
    part = rows[rows["metric"].isin(judged)]
    counts = part.assign(ok=part["value"].notna()).groupby(["node", "metric"], observed=True)["ok"]
    have = counts.sum().unstack(fill_value=0)
    results = have.to_numpy()
    names = [str(m) for m in have.columns]
    usual = np.array([np.bincount(column).argmax() for column in results.T])
    short_of = np.maximum(usual[None, :] - results, 0)
    found = []
    for row in np.flatnonzero(short_of.any(axis=1)):
        node = str(have.index[int(row)])
        lacking = [names[i] for i in np.flatnonzero(short_of[row])]
        short = int(short_of[row].sum())
        shown = ", ".join(lacking[:4]) + (" ..." if len(lacking) > 4 else "")
        found.append(
            Finding(
                node=node,
                gpu=None,
                metric=lacking[0],
                metrics=tuple(lacking),
                verdict="INCONCLUSIVE",
                value=None,
                expected=None,
                loss_fraction=None,
                z=None,
                level="node",
                cause="missing",
                evidence=f"{short} results missing or failed: {shown}",
            )
        )
    return found
