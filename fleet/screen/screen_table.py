"""Screen a fleet: score its measurements, group the losses by unit, roll them up, explain them.

A GPU that is slow in three matmul metrics is one finding. If half of a node's GPUs are slow in the
same metric, the node is the finding, not the GPUs; likewise for half of a rack. Beside the slow
units there are those with another setting than their class, those that counted errors of their
hardware, and those that could not be judged. Findings with one cause are one incident.

    screening = screen(read_fleet([Path("fleet.csv")]))
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from groundspeed.fleet.achieved.reference import slow_skus
from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import UNKNOWN, facts_of, is_time
from groundspeed.fleet.screen.cause import Loss, Unit, explain
from groundspeed.fleet.screen.drift import drift_findings, even_splits
from groundspeed.fleet.screen.findings import Finding, Level, Screening
from groundspeed.fleet.screen.hardware_errors import counter_findings, has_rates, sensor_findings
from groundspeed.fleet.screen.incidents import incidents_of
from groundspeed.fleet.screen.rollup import (
    Key,
    Losses,
    class_units,
    roll_up_nodes,
    roll_up_racks,
    slow_classes,
)
from groundspeed.fleet.screen.score import FAIL, WARN, Scores, score
from groundspeed.fleet.screen.signals import Deviation, Signals, deviations_of
from groundspeed.fleet.screen.unjudged import (
    broken_nodes,
    inconclusive,
    missing_results,
    silent_metrics,
    split_classes,
    without_class,
)
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
    rows = table.rows
    scores = score(table, lower_is_better=lower_is_better, reference=reference)
    deviations = deviations_of(table)
    slow, signals = _slow_units(table, scores, deviations)
    explained = _explained(table, slow)
    silent = silent_metrics(table)
    broken = broken_nodes(table, silent)
    findings = [
        *slow,
        *drift_findings(deviations, table, explained),
        *even_splits(table),
        *counter_findings(table),
        *sensor_findings(table, signals, {(f.node, _slot(table, f)) for f in slow}),
        *broken,
        *split_classes(table, scores),
        *slow_skus(table, reference or {}),
        *missing_results(table, silent, frozenset(f.node for f in broken)),
        *without_class(table, scores),
        *(inconclusive(node, ("all",), "missing", f"no result at all: {reason}")
          for node, reason in sorted(table.absent.items())),
    ]  # fmt: skip
    return summed_up(
        Screening(
            findings=tuple(findings),
            nodes=_nodes(table),
            gpus=_gpus(table),
            metrics=int(rows["metric"].nunique()) + int(table.settings["setting"].nunique()),
            measurements=len(rows) + len(table.settings),
            excluded=table.excluded,
            fail=0,
            warn=0,
            inconclusive=0,
            judged=_judged(table, scores),
            notes=_notes(table, silent, lower_is_better, quiet=not findings),
        )
    )


ORDER = {"FAIL": 0, "WARN": 1, "FLAKY": 2, "INCONCLUSIVE": 3}


def summed_up(screening: Screening) -> Screening:
    """Return a screening with its findings in order, counted, and grouped into incidents."""
    findings = sorted(
        screening.findings,
        key=lambda f: (ORDER[f.verdict], -(f.loss_fraction or 0.0), f.node, str(f.gpu).zfill(8)),
    )
    verdicts = [f.verdict for f in findings]
    unjudged = [f.cause for f in findings if f.verdict == "INCONCLUSIVE"]
    return screening.model_copy(
        update={
            "findings": tuple(findings),
            "fail": verdicts.count("FAIL"),
            "warn": verdicts.count("WARN"),
            "inconclusive": verdicts.count("INCONCLUSIVE"),
            "unjudged": {cause: unjudged.count(cause) for cause in dict.fromkeys(unjudged)},
            "incidents": incidents_of(findings),
        }
    )


def _slow_units(
    table: FleetTable, scores: Scores, deviations: Mapping[tuple[str, int], tuple[Deviation, ...]]
) -> tuple[list[Finding], Signals]:
    """Return a finding for each slow unit and cause, and the signals of these units."""
    rows = table.rows
    classes = slow_classes(rows, scores)
    gathered = _gather(rows, scores, classes)
    units = {**roll_up_racks(rows, roll_up_nodes(rows, gathered)), **class_units(rows, classes)}
    everything = not has_rates(rows)
    nodes = set(rows["node"].cat.categories) if everything else {key[0] for key in units}
    signals = Signals.of(table, scores, {**deviations, **_of_racks(rows, deviations)}, nodes)
    findings = [
        explain(
            Unit(name, gpu, level, losses), signals, table.notes,
            table.gpu_of(gpu) if gpu is not None else None,
        )
        for (name, gpu, level), unit_losses in units.items()
        for losses in _by_cause(unit_losses)
    ]  # fmt: skip
    return _join_links(findings), signals


def _of_racks(
    rows: pd.DataFrame, deviations: Mapping[tuple[str, int], tuple[Deviation, ...]]
) -> dict[tuple[str, int], tuple[Deviation, ...]]:
    """Return the deviations that all nodes of a rack share, by the name of the rack."""
    if not deviations or rows["rack"].nunique() < 2:
        return {}
    shared: dict[tuple[str, int], tuple[Deviation, ...]] = {}
    for rack, mine in rows.drop_duplicates(["node", "rack"]).groupby("rack", observed=True):
        own = [set(deviations.get((str(n), NODE_LEVEL), ())) for n in mine["node"]]
        common = set.intersection(*own) if own else set()
        if common:
            shared[str(rack), NODE_LEVEL] = tuple(sorted(common, key=lambda d: d.setting))
    return shared


def _explained(table: FleetTable, slow: Sequence[Finding]) -> set[tuple[str, int, str]]:
    """Return the deviating settings that are the cause of a finding, by node and GPU."""
    explained = {(f.node, _slot(table, f), f.cause) for f in slow}
    racks = {f.node: f.cause for f in slow if f.level == "rack"}
    if racks:
        pairs = table.rows.drop_duplicates(["node", "rack"])
        for node, rack in zip(pairs["node"], pairs["rack"], strict=True):
            if str(rack) in racks:
                explained.add((str(node), NODE_LEVEL, racks[str(rack)]))
    return explained


def _slot(table: FleetTable, f: Finding) -> int:
    """Return the ``gpu`` of the table for a finding."""
    if isinstance(f.gpu, str):
        return next(slot for slot, name in table.names.items() if name == f.gpu)
    return NODE_LEVEL if f.gpu is None else f.gpu


def _nodes(table: FleetTable) -> int:
    return len(set(table.rows["node"].unique()) | set(table.settings["node"].unique()))


def _gpus(table: FleetTable) -> int:
    rows = table.rows
    seen = rows.loc[rows["gpu"] != NODE_LEVEL, ["node", "gpu"]].drop_duplicates()
    if table.settings.empty:
        return len(seen)
    units = {(str(n), int(g)) for n, g in seen.itertuples(index=False)}
    more = table.settings[["node", "gpu"]].itertuples(index=False)
    return len(units | {(str(n), int(g)) for n, g in more if g != NODE_LEVEL})


def _judged(table: FleetTable, scores: Scores) -> int:
    """Return how many measurements, counters and settings could be compared."""
    judged = int((np.isfinite(scores.loss) & (scores.tier <= FAIL)).sum())
    counters = [
        m for m in table.rows["metric"].cat.categories if facts_of(str(m)).kind == "counter"
    ]
    judged += int(table.rows["metric"].isin(counters).sum())
    compared = table.settings.groupby(["cohort", "setting"])["node"].transform("size")
    return judged + int((compared >= 3).sum())


def _notes(
    table: FleetTable, silent: Collection[str], lower_is_better: Collection[str], *, quiet: bool
) -> tuple[str, ...]:
    """Return what the reader should know about how metrics were read."""
    notes = []
    names = [str(m) for m in table.rows["metric"].cat.categories]
    guessed = [
        m for m in names
        if facts_of(m, lower_is_better, table.units.get(m, "")).kind == UNKNOWN.kind
        and is_time(m, table.units.get(m, "")) is None and m not in lower_is_better
    ]  # fmt: skip
    if guessed:
        notes.append(
            f"unknown metrics: higher was taken as better for {', '.join(guessed[:6])}"
            + (f" and {len(guessed) - 6} more" if len(guessed) > 6 else "")
            + " (else: --lower-is-better NAME)"
        )
    if not has_rates(table.rows) and not table.rows.empty:
        notes.append("no rates in the table, only sensors or counters: no speed was judged")
    sizes = table.rows.drop_duplicates(["node", "cohort"])["cohort"].value_counts()
    if 1 < (sizes > 0).sum() <= MOST_CLASSES:
        listed = ", ".join(f"{c} ({n} node{'s' * (n > 1)})" for c, n in sizes.items() if n)
        notes.append(f"classes, each compared with itself only: {listed}")
    unknown = [m for m in lower_is_better if m not in names]
    if unknown:
        notes.append(f"--lower-is-better {unknown[0]}: the table has no such metric")
    floors = {f.kind: f for m in names if (f := facts_of(m, lower_is_better)).kind not in UNJUDGED}
    if quiet and floors:
        least = ", ".join(f"{f.warn_loss:.1%} ({kind})" for kind, f in floors.items())
        notes.append(f"smaller losses than these are not named: {least}")
    if silent:
        shown = ", ".join(sorted(silent)[:4]) + (" ..." if len(silent) > 4 else "")
        notes.append(f"{len(silent)} metrics are 0 on every node and were not judged: {shown}")
    return tuple(notes)


MOST_CLASSES = 6
"""Most classes that are listed in a note."""


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
        # Where the whole class is below the reference, a unit is judged by its class alone.
        whole = (str(cohort), str(metric)) in classes
        tier = float(scores.own[position] if whole else scores.tier[position])
        if tier not in (WARN, FAIL):
            continue
        level: Level = "node" if gpu == NODE_LEVEL else "gpu"
        key = (str(node), None if gpu == NODE_LEVEL else int(gpu), level)
        losses.setdefault(key, {})[str(metric)] = Loss(
            float(scores.loss[position]),
            float(scores.z[position]),
            float(value),
            float(scores.expected[position]),
            tier,
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


def _join_links(findings: Sequence[Finding]) -> list[Finding]:
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
