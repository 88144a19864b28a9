"""Judge the health of one node: compare its own check with the usual values of its class.

A loss counts if it is both large enough and unusual, by the same tiers as in a screening. A result
that cannot be judged (a busy GPU, no baseline, a failed test) is UNKNOWN, and no node is ever
drained for that.

    health = judge_node(rows, "n1", baseline=read_baseline(text, "baseline.json"))
"""

import datetime
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from groundspeed.fleet.counters import counter_of, judge_counter
from groundspeed.fleet.health.baseline import Baseline
from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import MetricFacts, facts_of
from groundspeed.fleet.screen.score import FAIL, FLOOR, WARN, tiers
from groundspeed.fleet.table import NODE_LEVEL, FleetTable, clean_fleet
from groundspeed.profiles.record import Record, RenamedRecord

State = Literal["OK", "WARN", "FAIL", "UNKNOWN"]

EXIT_CODES: dict[State, int] = {"OK": 0, "WARN": 1, "FAIL": 2, "UNKNOWN": 3}
"""Exit codes of Nagios plugins, which most monitoring systems accept."""


class Judged(Record):
    """One measured value of the node, with its verdict."""

    gpu: int | None
    metric: str
    unit: str
    value: float | None
    expected: float | None = None
    loss_fraction: float | None = None
    z: float | None = None
    warn_at: float | None = None
    """Value from which the state is WARN."""
    fail_at: float | None = None
    """Value from which the state is FAIL."""
    state: State | None
    """Verdict; None for values that are not judged (temperature, power, clocks)."""
    note: str = ""


class Health(RenamedRecord):
    """Result of the health check of one node."""

    old_names: ClassVar[Mapping[str, str]] = {"reason": "why"}

    node: str
    date_utc: str
    state: State
    against: str
    rows: tuple[Judged, ...]
    reason: str = ""
    """Reason why the state is UNKNOWN, if no row explains it."""

    @property
    def summary(self) -> str:
        """One line that says what is wrong, or how many results were judged."""
        bad = [r for r in self.rows if r.state == self.state and self.state != "OK"]
        if self.reason:
            return self.reason
        if not bad:
            fine = sum(r.state == "OK" for r in self.rows)
            rest = sum(r.state == "UNKNOWN" for r in self.rows)
            gpus = len({r.gpu for r in self.rows if r.gpu is not None})
            more = f", {rest} with nothing to compare with" if rest else ""
            return f"{gpus} devices, {fine} normal results{more} ({self.against})"
        worst = max(bad, key=lambda r: (r.loss_fraction or 0.0, r.metric))
        unit = f"gpu {worst.gpu} " if worst.gpu is not None else ""
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        if worst.loss_fraction is None:
            return f"{unit}{worst.metric}: {worst.note or 'no result'}{more}"
        return f"{unit}{worst.metric} {worst.loss_fraction:.1%} slow{more}"


def unknown_health(node: str, reason: str, against: str = "") -> Health:
    """Return the health of a node that cannot be judged."""
    return Health(
        node=node, date_utc=_now(), state="UNKNOWN", against=against, rows=(), reason=reason
    )


def judge_node(
    rows: pd.DataFrame,
    node: str,
    *,
    baseline: Baseline | None = None,
    reference: Mapping[str, float] | None = None,
    against: str = "",
) -> Health:
    """Judge the measured rows of one node.

    Parameters
    ----------
    rows : DataFrame
        Columns as :data:`groundspeed.fleet.history.store.COLUMNS`.
    node : str
        Name of the node.
    baseline : Baseline, optional
        Baseline of a measured fleet. Default: none.
    reference : mapping of str to float, optional
        Rates of a profile, by metric; a value below nine tenths of its rate is a failure. Used for
        metrics that the baseline does not cover. Default: none.
    against : str
        Description of the baseline or reference, shown to users.

    Returns
    -------
    Health
        State FAIL if any value failed; else UNKNOWN if no value could be judged or a test failed;
        else WARN if any value is a warning; else OK.
    """
    table = clean_fleet(rows, node)
    rows_judged: list[Judged] = []
    for gpu, metric, value, cohort in zip(
        table.rows["gpu"], table.rows["metric"], table.rows["value"], table.rows["cohort"],
        strict=True,
    ):  # fmt: skip
        note = table.notes.get((node, int(gpu), str(metric)), "")
        judged = Judged(
            gpu=None if gpu == NODE_LEVEL else int(gpu),
            metric=str(metric),
            unit=table.units.get(str(metric), ""),
            value=float(value) if np.isfinite(value) else None,
            state="UNKNOWN",
            note=note,
        )
        facts = facts_of(judged.metric, unit=judged.unit)
        counter = counter_of(judged.metric) if facts.kind == "counter" else None
        if counter is not None and judged.value is not None:
            verdict = judge_counter(counter, judged.value)
            state_now: State | None = None if verdict.tier == "FINE" else verdict.tier
            note = judged.note or (verdict.sentence if state_now else "")
            judged = judged.model_copy(update={"state": state_now, "note": note})
        elif facts.kind in UNJUDGED:
            judged = judged.model_copy(update={"state": None})
        elif judged.value is not None:
            judged = _judged(judged, facts, str(cohort), baseline, reference)
        rows_judged.append(judged)
    if (missing := _devices_missing(rows_judged, baseline)) is not None:
        rows_judged.append(missing)
    states = [r.state for r in rows_judged if r.state is not None]
    known = [s for s in states if s != "UNKNOWN"]
    failed = any(r.value is None and r.state is not None for r in rows_judged)
    state: State
    if "FAIL" in states:
        state = "FAIL"
    elif not known or failed:
        state = "UNKNOWN"
    else:
        state = "WARN" if "WARN" in states else "OK"
    reason = "" if known or failed else _nothing_to_compare(table, baseline, against)
    return Health(
        node=node,
        date_utc=_now(),
        state=state,
        against=against,
        rows=tuple(rows_judged),
        reason=reason,
    )


def _nothing_to_compare(table: FleetTable, baseline: Baseline | None, against: str) -> str:
    """Say why nothing was judged: no baseline, or one without the class of this node."""
    if baseline is None:
        return f"nothing to compare with: {against or 'no baseline'}"
    here = ", ".join(str(c) for c in table.rows["cohort"].unique())
    there = ", ".join(dict.fromkeys(u.cohort for u in baseline.usual)) or "none"
    return f"{against} has no class like this node's ({here}); its classes are: {there}"


def _devices_missing(rows: list[Judged], baseline: Baseline | None) -> Judged | None:
    """Return a FAIL row if the node has fewer GPUs than others: one has fallen off the bus."""
    usual = baseline.gpus_per_node if baseline is not None else None
    here = len({r.gpu for r in rows if r.gpu is not None})
    if usual is None or here >= usual:
        return None
    return Judged(
        gpu=None, metric="gpus", unit="", value=float(here), expected=float(usual),
        loss_fraction=1.0 - here / usual, state="FAIL", note=f"{here} of {usual} GPUs",
    )  # fmt: skip


def _judged(
    row: Judged,
    facts: MetricFacts,
    cohort: str,
    baseline: Baseline | None,
    reference: Mapping[str, float] | None,
) -> Judged:
    value = row.value
    usual = baseline.of(cohort, row.metric) if baseline is not None else None
    if value is None:
        return row
    if usual is not None and usual.spread is not None:
        ratio = value / usual.median if facts.higher_is_better else usual.median / value
        loss, z = 1.0 - ratio, float(np.log(ratio)) / usual.spread
        tier = float(tiers(np.array([loss]), np.array([z]), facts)[0])
        limits = [
            _limit(usual.median, max(least, 1.0 - float(np.exp(at * usual.spread))), facts)
            for least, at in ((facts.warn_loss, -3.0), (facts.fail_loss, -4.0))
        ]
        state: State = "FAIL" if tier == FAIL else "WARN" if tier == WARN else "OK"
        return row.model_copy(
            update={
                "expected": usual.median, "loss_fraction": loss, "z": z, "state": state,
                "warn_at": limits[0], "fail_at": limits[1],
            }
        )  # fmt: skip
    reached = (reference or {}).get(row.metric)
    if reached is None:
        return row
    loss = 1.0 - (value / reached if facts.higher_is_better else reached / value)
    update = {"expected": reached, "loss_fraction": loss, "fail_at": _limit(reached, 0.1, facts)}
    return row.model_copy(update={**update, "state": "FAIL" if loss > 1.0 - FLOOR else "OK"})


def _limit(expected: float, loss: float, facts: MetricFacts) -> float:
    return expected * (1.0 - loss) if facts.higher_is_better else expected / (1.0 - loss)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
