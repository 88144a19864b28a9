"""Update the verdict on each suspect from re-runs, before it is blamed.

In one run in a thousand a healthy GPU looks slow, but hardly ever twice. So only the suspects are
measured again, twice, together with the best unit as a control. A unit that is slow in every re-run
is confirmed; one that is not is FLAKY. If the control is slow too, the re-run itself was disturbed.

    final = confirm(first, [screening1, screening2], [measured1, measured2], control(table, first))
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import pandas as pd

from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.findings import Finding, Screening
from groundspeed.fleet.screen.screen_table import summed_up
from groundspeed.fleet.table import NODE_LEVEL, FleetTable

Unit = tuple[str, int | str | None]

Result = tuple[str, int | str | None, str]
"""Node, GPU and metric of a result."""


def suspects(screening: Screening) -> tuple[Unit, ...]:
    """Return the GPUs and nodes (not racks or classes) to measure again, in order of finding."""
    units = [(f.node, f.gpu) for f in screening.findings if _is_suspect(f)]
    return tuple(dict.fromkeys(units))


def control(table: FleetTable, screening: Screening) -> Unit | None:
    """Return the best GPU of the fleet without a finding, by the mean rank of its metrics."""
    bad = {(f.node, f.gpu) for f in screening.findings}
    rows = table.rows[(table.rows["gpu"] != NODE_LEVEL) & table.rows["value"].notna()]
    if rows.empty:
        return None
    ranked = []
    for metric, part in rows.groupby("metric", observed=True):
        facts = facts_of(str(metric), unit=table.units.get(str(metric), ""))
        if facts.kind not in UNJUDGED:
            rank = part["value"].rank(pct=True, ascending=facts.higher_is_better)
            ranked.append(part[["node", "gpu"]].assign(rank=rank))
    together = pd.concat(ranked).groupby(["node", "gpu"], observed=True)["rank"].mean()
    for index in together.sort_values(ascending=False, kind="stable").index:
        node, gpu = str(index[0]), table.gpu_of(int(index[1]))
        if (node, gpu) not in bad and (node, None) not in bad:
            return node, gpu
    return None


def measured_units(again: FleetTable) -> frozenset[Result]:
    """Return (node, GPU, metric) for every result of a re-run; failed tests are left out."""
    good = again.rows[again.rows["value"].notna()]
    return frozenset(
        (str(node), again.gpu_of(int(gpu)), str(metric))
        for node, gpu, metric in zip(good["node"], good["gpu"], good["metric"], strict=True)
    )


def confirm(
    first: Screening,
    again: Sequence[Screening],
    measured: Sequence[Collection[Result]],
    beside: Unit | None = None,
) -> Screening:
    """Return the first screening with new verdicts: a finding that did not recur is FLAKY.

    Parameters
    ----------
    first : Screening
        Screening of the first run.
    again : sequence of Screening
        One screening of the whole fleet for each re-run, with the new measurements of the suspects.
    measured : sequence of collections of (node, gpu, metric)
        Results that each re-run contains. A finding that a re-run has no result for becomes
        INCONCLUSIVE: neither confirmed nor cleared.
    beside : tuple of (node, gpu), optional
        The control. A re-run in which it is slow too was disturbed, and makes all findings
        INCONCLUSIVE. Default: no control.

    Returns
    -------
    Screening
    """
    fallen = [
        {(f.node, f.gpu, m) for f in screening.findings if _is_suspect(f) for m in f.metrics}
        for screening in again
    ]
    disturbed = [any(unit[:2] == beside for unit in units) for units in fallen]
    findings = [
        _after(f, fallen, measured, disturbed) if _is_suspect(f) else f for f in first.findings
    ]
    return summed_up(first.model_copy(update={"findings": tuple(findings)}))


def _is_suspect(f: Finding) -> bool:
    """Return whether a finding rests on measurements, which can be repeated, of a GPU or a node.

    Settings, counters of errors and zeros are read, and are the same when they are read again.
    """
    measured = f.loss_fraction is not None and facts_of(f.metric).kind not in UNJUDGED
    return measured and f.verdict in ("WARN", "FAIL") and f.level in ("gpu", "node")


def _after(
    f: Finding,
    fallen: Sequence[Collection[Result]],
    measured: Sequence[Collection[Result]],
    disturbed: Sequence[bool],
) -> Finding:
    """Return a finding with the verdict after its re-runs."""
    runs = len(fallen)
    missing = sum(not _was_measured(f, done) for done in measured)
    if missing or any(disturbed):
        reason = f"{missing} of {runs} re-runs have no result for it" if missing else (
            f"the control was slow too in {sum(disturbed)} of {runs} re-runs"
        )  # fmt: skip
        note = f"{f.evidence}; {reason}"
        return f.model_copy(update={"verdict": "INCONCLUSIVE", "evidence": note})
    fell = sum(_fell(f, units) for units in fallen)
    if fell == runs:
        return f
    note = f"{f.evidence}; slow again in {fell} of {runs} re-runs"
    return f.model_copy(update={"verdict": "FLAKY", "evidence": note})


def _fell(f: Finding, units: Collection[Result]) -> bool:
    """Return whether the unit was slow again; a node also if a GPU was, a GPU if its node was."""
    return any(
        node == f.node and metric in f.metrics and (f.gpu is None or gpu in (f.gpu, None))
        for node, gpu, metric in units
    )


def _was_measured(f: Finding, done: Collection[Result]) -> bool:
    """Return whether a re-run has a result for the unit in one of the metrics of the finding."""
    if f.gpu is not None:
        return any((f.node, f.gpu, m) in done for m in f.metrics)
    return any(node == f.node and metric in f.metrics for node, _, metric in done)


def replace_rows(table: FleetTable, again: FleetTable) -> FleetTable:
    """Return the first table with the measurements of a re-run in place of the old ones."""
    keys = ["node", "gpu", "metric"]
    new = again.rows
    old = table.rows.astype({"node": str, "metric": str})
    fresh = new.astype({"node": str, "metric": str})
    index = pd.MultiIndex.from_frame(fresh[keys])
    kept = old[~pd.MultiIndex.from_frame(old[keys]).isin(index)]
    fresh = fresh.drop(columns=["cohort", "rack"]).merge(
        old[["node", "gpu", "cohort", "rack"]].drop_duplicates(["node", "gpu"]),
        on=["node", "gpu"], how="inner",
    )  # fmt: skip
    rows = pd.concat([kept, fresh], ignore_index=True)
    rows = rows.astype({"node": "category", "metric": "category", "cohort": "category"})
    rows["rack"] = rows["rack"].astype("category")
    return replace(table, rows=rows, excluded=(*table.excluded, *again.excluded))
