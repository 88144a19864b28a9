"""Findings for what could not be judged: no result, zeros, too few units, a class that is two."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.node_names import fold_names
from groundspeed.fleet.screen.drift import shorten
from groundspeed.fleet.screen.findings import Finding, Verdict
from groundspeed.fleet.screen.score import FEWEST_UNITS, NO_CLASS, Scores, TwoGroups
from groundspeed.fleet.table import NODE_LEVEL, FleetTable

ALONG_NODES = 0.9
"""[1] Share of units that must be with the rest of their node, for two groups to be of nodes."""


def judged_rows(table: FleetTable) -> pd.DataFrame:
    """Return the rows of rates and times."""
    rows = table.rows
    kept = [m for m in rows["metric"].cat.categories if facts_of(str(m)).kind not in UNJUDGED]
    return rows[rows["metric"].isin(kept)]


def silent_metrics(table: FleetTable) -> frozenset[str]:
    """Return metrics that are zero everywhere on several nodes: rounded away, not failed."""
    if not table.zeros:
        return frozenset()
    rows = judged_rows(table)
    zero = pd.Series([z[2] for z in table.zeros]).value_counts()
    silent = set()
    for metric, count in zero.items():
        part = rows[rows["metric"] == metric]
        if count == len(part) and part["node"].nunique() > 1:
            silent.add(str(metric))
    return frozenset(silent)


def broken_nodes(table: FleetTable, silent: frozenset[str]) -> list[Finding]:
    """Return a finding for each node on which every GPU gives zero in a metric.

    A failure where other nodes have a result; alone, the node cannot be told from a broken test.
    """
    wanted = [z for z in table.zeros if z[2] not in silent]
    if not wanted:
        return []
    rows = judged_rows(table)
    findings = []
    for node in sorted({z[0] for z in wanted}):
        metrics = []
        others = some = False
        for metric in sorted({z[2] for z in wanted if z[0] == node}):
            mine = rows[(rows["node"] == node) & (rows["metric"] == metric)]
            zeros = sum(z[0] == node and z[2] == metric for z in wanted)
            if zeros < len(mine):
                continue
            metrics.append(metric)
            rest = rows[(rows["node"] != node) & (rows["metric"] == metric)]
            some |= bool((rest["value"] > 0.0).any())
            others |= bool(rest["value"].notna().sum() >= FEWEST_UNITS)
        # A single GPU that gives zero is one missing result of its node.
        gpus = {z[1] for z in wanted if z[0] == node and z[1] != NODE_LEVEL}
        if not metrics or (len(gpus) == 1 and len(metrics) < 2 and others):
            continue
        verdict: Verdict = "FAIL" if others else "INCONCLUSIVE"
        count = f"all {len(gpus)} GPUs" if len(gpus) > 1 else "it"
        evidence = f"{count} gave 0 in {shorten(metrics)}"
        evidence += (
            "; other nodes have results" if others
            else "; too few other nodes to know what is usual" if some
            else "; there is no other node"
        )  # fmt: skip
        findings.append(
            Finding(
                node=node, gpu=None, metric=metrics[0], metrics=tuple(metrics), verdict=verdict,
                value=0.0, expected=None, loss_fraction=None, z=None, level="node", cause="broken",
                evidence=evidence,
            )
        )  # fmt: skip
    return findings


def missing_results(
    table: FleetTable, silent: frozenset[str], broken: frozenset[str]
) -> list[Finding]:
    """Return one finding for each node with missing or failed tests, and no other reason."""
    part = judged_rows(table)
    part = part[~part["metric"].isin(list(silent))]
    if part.empty:
        return []
    part = part.assign(metric=part["metric"].cat.remove_unused_categories())
    node_names = [str(n) for n in part["node"].cat.categories]
    names = [str(m) for m in part["metric"].cat.categories]
    shape = len(node_names), len(names)
    cell = part["node"].cat.codes.to_numpy().astype(np.int64) * shape[1]
    cell += part["metric"].cat.codes.to_numpy()
    good = part["value"].notna().to_numpy()
    results = np.bincount(cell[good], minlength=shape[0] * shape[1]).reshape(shape)
    failed = np.bincount(cell[~good], minlength=shape[0] * shape[1]).reshape(shape)
    # Nodes with settings or sensors only lack nothing.
    present: NDArray[np.bool_] = np.any(results + failed > 0, axis=1)
    usual = np.array([np.bincount(column).argmax() for column in results[present].T])
    fewer = np.maximum(usual[None, :] - results, 0) * present[:, None]
    short_of = np.maximum(fewer, failed)
    units = part.loc[good & (part["gpu"] != NODE_LEVEL).to_numpy(), ["node", "gpu"]]
    gpus = units.drop_duplicates().groupby("node", observed=True).size()
    most = int(gpus.mode().iloc[-1]) if len(gpus) else 0
    findings = []
    for row in np.flatnonzero(short_of.any(axis=1)):
        node = node_names[int(row)]
        if node in broken:
            continue
        lacking = [names[i] for i in np.flatnonzero(short_of[row])]
        short, ran = int(short_of[row].sum()), int(failed[row].sum())
        said = dict.fromkeys(
            note for (name, _, metric), note in sorted(table.notes.items())
            if name == node and metric in (*lacking, "check")
        )  # fmt: skip
        reason = "".join(f"; {note}" for note in list(said)[:2])
        zero = sorted({table.gpu_of(z[1]) for z in table.zeros if z[0] == node and z[2] in lacking},
                      key=str)  # fmt: skip
        if zero:
            reason += f"; zero from gpu {shorten([str(g) for g in zero])}"
        how = "failed" if ran else "fewer than on most nodes"
        if ran and ran < short:
            how = "missing or failed"
        evidence = f"{short} result{'s' * (short != 1)} {how}: {shorten(lacking)}{reason}"
        lost = int(most - gpus.get(node, 0))
        if lost > 0:
            evidence = f"{most - lost} of {most} GPUs have results; {evidence}"
        cause = "missing" if ran or lost > 0 else "fewer_results"
        findings.append(inconclusive(node, lacking, cause, evidence))
    return findings


def inconclusive(node: str, metrics: Sequence[str], cause: str, evidence: str) -> Finding:
    """Return a finding for a node that cannot be judged."""
    return Finding(
        node=node, gpu=None, metric=metrics[0], metrics=tuple(metrics), verdict="INCONCLUSIVE",
        value=None, expected=None, loss_fraction=None, z=None, level="node", cause=cause,
        evidence=evidence,
    )  # fmt: skip


def without_class(table: FleetTable, scores: Scores) -> list[Finding]:
    """Return one finding for each node in a class with too few units to compare with others."""
    part = table.rows[scores.tier == NO_CLASS]
    if part.empty:
        return []
    findings = []
    judged = set(table.rows["node"][np.isfinite(scores.z)].unique())
    for (node, cohort), mine in part.groupby(["node", "cohort"], observed=True):
        metrics = tuple(sorted(str(m) for m in mine["metric"].unique()))
        cause = "few_units" if node in judged else "no_class"
        named = "" if str(cohort) == "all" else f" of its class ({cohort})"
        evidence = (
            f"too few to compare: fewer than {FEWEST_UNITS} results{named}; "
            "give --reference, or measure more"
        )
        findings.append(inconclusive(str(node), metrics, cause, evidence))
    return findings


def split_classes(table: FleetTable, scores: Scores) -> list[Finding]:
    """Return one finding for each set of units that is a slow half of its class."""
    if not scores.groups:
        return []
    rows = table.rows
    nodes, gpus = rows["node"].astype(str).to_numpy(), rows["gpu"].to_numpy()
    values = rows["value"].to_numpy()
    merged: dict[tuple[str, tuple[str, ...]], list[TwoGroups]] = {}
    for group in scores.groups:
        merged.setdefault((group.cohort, _members(nodes, gpus, group)[0]), []).append(group)
    findings = []
    for (cohort, _), groups in sorted(merged.items()):
        group = groups[0]
        slow, fast = _members(nodes, gpus, group)
        low, high = (float(np.nanmedian(values[i])) for i in (group.slow, group.fast))
        unit = table.units.get(group.metric, "")
        text = (
            f"{group.metric}: the slower {fold_names(slow)} at {low:.4g} {unit}".rstrip()
            + f", {fold_names(fast)} at {high:.4g} {unit}".rstrip()
            + ": two kinds of GPU in one table (give a column sku), or a cause that the slower "
            "ones share; each group is judged by itself, and --reference tells which one is right"
        )
        findings.append(
            Finding(
                node=cohort, gpu=None, metric=group.metric,
                metrics=tuple(sorted(g.metric for g in groups)), verdict="INCONCLUSIVE", value=low,
                expected=high, loss_fraction=abs(1.0 - min(low, high) / max(low, high)), z=None,
                level="class", cause="two_groups", evidence=text,
            )
        )  # fmt: skip
    return findings


def _members(
    nodes: np.ndarray, gpus: np.ndarray, group: TwoGroups
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of both groups: nodes if the groups follow the nodes, else GPUs."""
    share: dict[str, list[int]] = {}
    for index, side in ((group.slow, 0), (group.fast, 1)):
        for node in nodes[index]:
            share.setdefault(node, [0, 0])[side] += 1
    together = sum(max(s) for s in share.values()) / max(1, sum(sum(s) for s in share.values()))
    if together >= ALONG_NODES and len(share) > 1:
        slow = tuple(sorted(n for n, s in share.items() if s[0] > s[1]))
        fast = tuple(sorted(n for n, s in share.items() if s[0] <= s[1]))
        if slow and fast:
            return slow, fast
    named = [
        tuple(sorted(f"{n} gpu {g}" if g >= 0 else str(n)
                     for n, g in zip(nodes[i], gpus[i], strict=True)))
        for i in (group.slow, group.fast)
    ]  # fmt: skip
    return named[0], named[1]
