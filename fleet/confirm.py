"""Judge a suspect again before it is blamed.

One run in a thousand makes a healthy GPU look slow, and the same GPU hardly does so twice. So only
the suspects are measured again, twice, with the best unit of their class beside them as a control:
what falls every time is confirmed, what does not is FLAKY, and a control that falls too says that
the re-run itself was disturbed.
"""

from collections.abc import Sequence

import pandas as pd

from groundspeed.fleet.findings import Finding, Screening
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.table import NODE_LEVEL, FleetTable

Unit = tuple[str, int | None]


def suspects(told: Screening) -> tuple[Unit, ...]:
    """Units to measure again, in the order of their findings."""
    found = [(f.node, f.gpu) for f in told.findings if f.verdict in ("FAIL", "WARN")]
    return tuple(dict.fromkeys(found))


def control(table: FleetTable, told: Screening) -> Unit | None:
    """The best unit of the fleet that is no suspect, by the mean rank of its metrics."""
    bad = {(f.node, f.gpu) for f in told.findings}
    rows = table.rows[(table.rows["gpu"] != NODE_LEVEL) & table.rows["value"].notna()]
    if rows.empty:
        return None
    ranked = []
    for metric, part in rows.groupby("metric", observed=True):
        facts = facts_of(str(metric))
        if facts.kind != "telemetry":
            rank = part["value"].rank(pct=True, ascending=facts.higher_is_better)
            ranked.append(part[["node", "gpu"]].assign(rank=rank))
    together = pd.concat(ranked).groupby(["node", "gpu"], observed=True)["rank"].mean()
    for index in together.sort_values(ascending=False, kind="stable").index:
        node, gpu = str(index[0]), int(index[1])
        if (node, gpu) not in bad and (node, None) not in bad:
            return node, gpu
    return None


def confirm(first: Screening, again: Sequence[Screening]) -> Screening:
    """The first screening with what did not fall in every other one called FLAKY.

    Parameters
    ----------
    first : Screening
    again : sequence of Screening
        Of the whole class, with new measurements of the suspects.

    Returns
    -------
    Screening
    """
    seen = [
        {
            (f.node, f.gpu, m)
            for f in told.findings
            if f.verdict != "INCONCLUSIVE"
            for m in f.metrics
        }
        for told in again
    ]
    findings = []
    for f in first.findings:
        if f.verdict == "INCONCLUSIVE" or all(
            any((f.node, f.gpu, m) in run for m in f.metrics) for run in seen
        ):
            findings.append(f)
            continue
        fell = sum(any((f.node, f.gpu, m) in run for m in f.metrics) for run in seen)
        findings.append(_flaky(f, fell, len(seen)))
    verdicts = [f.verdict for f in findings]
    return first.model_copy(
        update={
            "findings": tuple(findings),
            "fail": verdicts.count("FAIL"),
            "warn": verdicts.count("WARN"),
        }
    )


def _flaky(f: Finding, fell: int, runs: int) -> Finding:
    note = f"{f.evidence}; fell again in {fell} of {runs} re-runs"
    return f.model_copy(update={"verdict": "FLAKY", "evidence": note})


def replace_rows(table: FleetTable, again: FleetTable) -> FleetTable:
    """The first table with the measurements of a re-run in place of the old ones."""
    keys = ["node", "gpu", "metric"]
    new = again.rows
    old = table.rows.astype({"node": str, "metric": str})
    fresh = new.astype({"node": str, "metric": str})
    index = pd.MultiIndex.from_frame(fresh[keys])
    kept = old[~pd.MultiIndex.from_frame(old[keys]).isin(index)]
    fresh = fresh.drop(columns=["klass", "rack"]).merge(
        old[["node", "gpu", "klass", "rack"]].drop_duplicates(["node", "gpu"]),
        on=["node", "gpu"], how="inner",
    )  # fmt: skip
    rows = pd.concat([kept, fresh], ignore_index=True)
    rows = rows.astype({"node": "category", "metric": "category", "klass": "category"})
    rows["rack"] = rows["rack"].astype("category")
    return FleetTable(rows, table.units, (*table.excluded, *again.excluded))
