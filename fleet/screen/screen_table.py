"""Screen a fleet: score its measurements, group the losses by unit, roll them up, explain them.

A GPU that is slow in three matmul metrics is one finding. If half of a node's GPUs are slow in the
same metric, the node is the finding, not the GPUs; likewise for half of a rack. Metrics that are
slow together show the cause: a slow host link with a slow network means a PCIe link of half width;
slow vector units with normal tensor cores mean a clock or a benchmark build.

    screening = screen(read_fleet([Path("fleet.csv")]))
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.cause import Loss, Telemetry, Unit, explain
from groundspeed.fleet.screen.findings import Finding, Level, Screening
from groundspeed.fleet.screen.rollup import (
    Key,
    Losses,
    class_units,
    roll_up_nodes,
    roll_up_racks,
    slow_classes,
)
from groundspeed.fleet.screen.score import FAIL, FEWEST_UNITS, NO_CLASS, WARN, Scores, score
from groundspeed.fleet.table import NODE_LEVEL, FleetTable


def screen(
    table: FleetTable,
    *,
    lower_is_better: Collection[str] = (),
    reference: Mapping[str, float] | None = None,
) -> Screening:
    """Find the units of a fleet that are slow or cannot be judged.

    Parameters
    ----------
    table : FleetTable
    lower_is_better : collection of str
        Names of metrics for which lower is better.
    reference : mapping of str to float, optional
        Value that a healthy device of this class reaches elsewhere, by metric: see
        :func:`groundspeed.fleet.screen.score.score`. Default: no reference.

    Returns
    -------
    Screening
        Findings in a fixed order: worst first, then by name.
    """
    scores = score(table, lower_is_better=lower_is_better, reference=reference)
    rows = table.rows
    telemetry = _telemetry(table)
    classes = slow_classes(rows, scores)
    gathered = _gather(rows, scores, classes)
    units = {**roll_up_racks(rows, roll_up_nodes(rows, gathered)), **class_units(rows, classes)}
    findings = [
        explain(Unit(name, gpu, level, losses), telemetry, table.notes)
        for (name, gpu, level), unit_losses in units.items()
        for losses in _by_cause(unit_losses)
    ]
    findings = _join_links(findings)
    findings += _missing(table, rows)
    findings += _without_class(table, scores)
    findings += [
        _inconclusive(node, ("all",), "missing", f"no result at all: {reason}")
        for node, reason in sorted(table.absent.items())
    ]
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
        judged=int((np.isfinite(scores.loss) & (scores.tier <= FAIL)).sum()),
    )


ORDER = {"FAIL": 0, "WARN": 1, "FLAKY": 2, "INCONCLUSIVE": 3}


def _gather(
    rows: pd.DataFrame, scores: Scores, classes: Mapping[tuple[str, str], Loss]
) -> dict[Key, Losses]:
    """Return flagged losses by GPU (or node, for node metrics), without those of whole classes."""
    losses: dict[Key, Losses] = {}
    flagged = np.flatnonzero((scores.tier == WARN) | (scores.tier == FAIL))
    part = rows.iloc[flagged]
    for position, node, gpu, metric, value, cohort in zip(
        flagged, part["node"], part["gpu"], part["metric"], part["value"], part["cohort"],
        strict=True,
    ):  # fmt: skip
        if not np.isfinite(scores.z[position]) and (str(cohort), str(metric)) in classes:
            continue
        level: Level = "node" if gpu == NODE_LEVEL else "gpu"
        key = (str(node), None if gpu == NODE_LEVEL else int(gpu), level)
        losses.setdefault(key, {})[str(metric)] = Loss(
            float(scores.loss[position]),
            float(scores.z[position]),
            float(value),
            float(scores.expected[position]),
            float(scores.tier[position]),
        )
    return losses


LINKS = ("host_link", "network")


def _by_cause(losses: dict[str, Loss]) -> list[dict[str, Loss]]:
    """Split a unit's losses into groups with one cause; links, launches and compute share none."""
    groups: dict[str, dict[str, Loss]] = {}
    for metric, loss in losses.items():
        kind = facts_of(metric).kind
        group = "links" if kind in LINKS else kind if kind in ("nvlink", "launch") else "device"
        groups.setdefault(group, {})[metric] = loss
    return [groups[name] for name in sorted(groups)]


def _telemetry(table: FleetTable) -> Telemetry:
    """Return the telemetry of each GPU (temperature, power, ...) and the medians of its class."""
    rows = table.rows
    names = [str(m) for m in rows["metric"].cat.categories if facts_of(str(m)).kind == "telemetry"]
    of_unit: dict[tuple[str, int], dict[str, float]] = {}
    usual: dict[tuple[str, int], dict[str, float]] = {}
    for name in names:
        part = rows[(rows["metric"] == name) & rows["value"].notna()]
        middle = part.groupby("cohort", observed=True)["value"].transform("median")
        for node, gpu, value, median in zip(
            part["node"], part["gpu"], part["value"], middle, strict=True
        ):
            key = str(node), int(gpu)
            of_unit.setdefault(key, {})[name] = float(value)
            usual.setdefault(key, {})[name] = float(median)
    return Telemetry(of_unit, usual)


def _join_links(findings: list[Finding]) -> list[Finding]:
    """Join a node's network finding to its host-link finding: the host link causes both losses."""
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
                    "evidence": f"{f.evidence}; {other.metric} of its node lost {loss:.0%} too",
                }
            )
        joined.append(f)
    return joined


def _missing(table: FleetTable, rows: pd.DataFrame) -> list[Finding]:
    """Return one INCONCLUSIVE finding for each node with missing or failed tests."""
    judged = [m for m in rows["metric"].cat.categories if facts_of(str(m)).kind != "telemetry"]
    part = rows[rows["metric"].isin(judged)]
    counts = part.assign(ok=part["value"].notna()).groupby(["node", "metric"], observed=True)["ok"]
    have = counts.sum().unstack(fill_value=0)
    results = have.to_numpy()
    names = [str(m) for m in have.columns]
    usual = np.array([np.bincount(column).argmax() for column in results.T])
    failed = (counts.size() - counts.sum()).unstack(fill_value=0).to_numpy()
    short_of = np.maximum(np.maximum(usual[None, :] - results, 0), failed)
    findings = []
    for row in np.flatnonzero(short_of.any(axis=1)):
        node = str(have.index[int(row)])
        lacking = [names[i] for i in np.flatnonzero(short_of[row])]
        short = int(short_of[row].sum())
        shown = ", ".join(lacking[:4]) + (" ..." if len(lacking) > 4 else "")
        said = dict.fromkeys(
            note for (name, _, metric), note in sorted(table.notes.items())
            if name == node and metric in (*lacking, "check")
        )  # fmt: skip
        reason = "".join(f"; {note}" for note in list(said)[:2])
        evidence = f"{short} results missing or failed: {shown}{reason}"
        findings.append(_inconclusive(node, lacking, "missing", evidence))
    return findings


def _inconclusive(node: str, metrics: Sequence[str], cause: str, evidence: str) -> Finding:
    return Finding(
        node=node, gpu=None, metric=metrics[0], metrics=tuple(metrics), verdict="INCONCLUSIVE",
        value=None, expected=None, loss_fraction=None, z=None, level="node", cause=cause,
        evidence=evidence,
    )  # fmt: skip


def _without_class(table: FleetTable, scores: Scores) -> list[Finding]:
    """Return one finding for each node whose class is too small (other power cap or driver)."""
    part = table.rows[scores.tier == NO_CLASS]
    if part.empty:
        return []
    findings = []
    for node, mine in part.groupby("node", observed=True):
        metrics = tuple(sorted(str(m) for m in mine["metric"].unique()))
        kinds = ", ".join(sorted(str(k) for k in mine["cohort"].unique()))
        evidence = (
            f"fewer than {FEWEST_UNITS} results of its class ({kinds}): "
            "they can only be compared with a reference"
        )
        findings.append(_inconclusive(str(node), metrics, "no_class", evidence))
    return findings
