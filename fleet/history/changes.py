r"""Compare each GPU and node with its own past: how often it was flagged, and when it changed.

A GPU that lost 2 % since spring is still within the spread of its class and will never be an
outlier there. It stands out against its own past, because a GPU repeats itself far better (0.15 %)
than it resembles other GPUs (0.8 %). The change that all units of a class share in a run (the
median of their changes) is subtracted from each unit and followed as a series of the class. This
needs enough nodes in the run: the check that a single node makes of itself is compared with its
past without this correction. Another driver makes another class, which starts a new series.

    history = read_history([("run1", "2026-03-01T06:00:00Z", table1), ...])

The change point of a series of n runs is the split with the largest

    t = |mean(after) - mean(before)| / (s sqrt(1/n_before + 1/n_after))

where s is the run-to-run spread, estimated from the differences of neighbouring runs (a step
affects only one difference). The few runs of one unit give a poor estimate, so s is shrunk toward
the spread of all units. A unit with a larger spread of its own (one GPU in ten repeats itself three
times worse) is judged by its own.
"""

import math
from collections.abc import Collection

import numpy as np
import pandas as pd

from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.score import FAIL, MAD_TO_SD, WARN, score
from groundspeed.fleet.table import NODE_LEVEL, FleetTable
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import Array
from groundspeed.profiles.record import Record

CHANGED_T = 5.0
"""Threshold on |t|: on noise alone, one test in two million exceeds it."""

SHARE_OF_FLOOR = 0.5
"""[1] Fraction of ``warn_loss`` from which a change counts: history finds what screening misses."""

LEAST_SPREAD = 0.0005
"""[1] Lower limit of the run-to-run spread; no device repeats itself better than this."""

PRIOR_RUNS = 4.0
"""Weight of the spread of all units, in runs, when it is combined with a unit's own spread."""

FEWEST_RUNS = 3
FEWEST_NODES = 3
"""Fewest nodes in one run from which the change common to all nodes is estimated."""


class Change(Record):
    """Lasting change of one metric of one GPU, node or class."""

    node: str
    gpu: int | None
    metric: str
    level: str
    """``gpu``, ``node`` or ``class``."""
    since_utc: str
    before: float
    after: float
    loss_fraction: float
    """[1] Loss after the change; positive if the metric became worse."""
    t: float
    runs: int


class Strikes(Record):
    """How often one GPU or node was flagged."""

    node: str
    gpu: int | None
    strikes: int
    """Number of runs in which the unit was WARN or FAIL."""
    runs: int
    last_utc: str
    metrics: tuple[str, ...]


class History(Record):
    """Strikes and changes found in a series of runs."""

    runs: int
    first_utc: str
    last_utc: str
    strikes: tuple[Strikes, ...]
    changes: tuple[Change, ...]


def read_history(
    runs: Collection[tuple[str, str, FleetTable]], *, lower_is_better: Collection[str] = ()
) -> History:
    """Find the strikes and the changes of every unit over several runs.

    Parameters
    ----------
    runs : collection of (name, date, FleetTable)
        Runs to compare, in any order.
    lower_is_better : collection of str
        Names of metrics for which lower is better. Default: none.

    Raises
    ------
    InputError
        If there are no runs.
    """
    ordered = sorted(runs, key=lambda r: (r[1], r[0]))
    if not ordered:
        raise InputError(
            "there is no run to compare", remedy="make one with: groundspeed fleet run"
        )
    frames, flags = [], []
    for position, (_, date, table) in enumerate(ordered):
        scores = score(table, lower_is_better=lower_is_better)
        rows = table.rows
        flagged = (scores.tier == WARN) | (scores.tier == FAIL)
        part = rows.loc[flagged, ["node", "gpu", "metric"]].astype({"node": str, "metric": str})
        flags.append(part.assign(run=position, date=date))
        good = rows[rows["value"].notna()].astype({"node": str, "metric": str, "cohort": str})
        frames.append(good.assign(run=position, date=date))
    long = pd.concat(frames, ignore_index=True)
    units = {m: u for _, _, table in ordered for m, u in table.units.items()}
    return History(
        runs=len(ordered),
        first_utc=ordered[0][1],
        last_utc=ordered[-1][1],
        strikes=_strikes(pd.concat(flags, ignore_index=True), long),
        changes=_changes(long, units, lower_is_better),
    )


def _strikes(flags: pd.DataFrame, long: pd.DataFrame) -> tuple[Strikes, ...]:
    if flags.empty:
        return ()
    seen = long.groupby(["node", "gpu"])["run"].nunique()
    strikes = []
    for _, mine in flags.groupby(["node", "gpu"]):
        node, gpu = _unit(mine)
        strikes.append(
            Strikes(
                node=node,
                gpu=None if gpu == NODE_LEVEL else gpu,
                strikes=int(mine["run"].nunique()),
                runs=int(seen.get((node, gpu), 0)),
                last_utc=str(mine["date"].max()),
                metrics=tuple(mine["metric"].value_counts().sort_index().index.astype(str)),
            )
        )
    return tuple(sorted(strikes, key=lambda s: (-s.strikes, s.node, s.gpu or -1)))


def _changes(
    long: pd.DataFrame, units: dict[str, str], lower_is_better: Collection[str]
) -> tuple[Change, ...]:
    changes: list[Change] = []
    for name, part in long.groupby("metric", sort=True):
        metric = str(name)
        facts = facts_of(metric, lower_is_better, units.get(metric, ""))
        if facts.kind == "telemetry":
            continue
        sign = 1.0 if facts.higher_is_better else -1.0
        log = part["value"].map(np.log) * sign
        own = log.groupby([part["node"], part["gpu"], part["cohort"]]).transform("median")
        runs_of = [part["cohort"], part["run"]]
        whole = part["node"].groupby(runs_of).transform("nunique") >= FEWEST_NODES
        effect = (log - own).groupby(runs_of).transform("median").where(whole, 0.0)
        mine = part.assign(effect=effect, whole=whole, r=log - effect, unit_value=part["value"])
        least = SHARE_OF_FLOOR * facts.warn_loss
        series_of = mine.sort_values(["node", "gpu", "cohort", "run"])
        again = series_of.duplicated(["node", "gpu", "cohort"])
        steps = series_of["r"].where(again) - series_of["r"].shift()
        spread = _run_to_run(steps.dropna().to_numpy())
        level_of = {True: "node", False: "gpu"}
        for _, series in series_of.groupby(["node", "gpu", "cohort"], sort=True):
            node, gpu = _unit(series)
            at_node = gpu == NODE_LEVEL
            split = _split(series, _own_spread(series, spread), least)
            if split is not None:
                changes.append(_change(node, gpu, metric, level_of[at_node], series, split))
        # Follow the median of each class too. A new driver or benchmark version is a new class.
        classes = mine[mine["whole"]].sort_values(["cohort", "run"])
        middle = classes.groupby(["cohort", "run"])["value"].transform("median")
        classes = classes.assign(unit_value=middle, r=classes["effect"])
        classes = classes.drop_duplicates(["cohort", "run"])
        for cohort, series in classes.groupby("cohort", sort=True):
            split = _split(series, max(spread, facts.spread), least)
            if split is not None:
                changes.append(_change(str(cohort), NODE_LEVEL, metric, "class", series, split))
    return tuple(sorted(changes, key=lambda c: (-c.loss_fraction, c.node, c.gpu or -1, c.metric)))


def _unit(rows: pd.DataFrame) -> tuple[str, int]:
    return str(rows["node"].iloc[0]), int(rows["gpu"].iloc[0])


def _change(
    node: str, gpu: int, metric: str, level: str, series: pd.DataFrame, split: tuple[int, float]
) -> Change:
    at, t = split
    values, r = series["unit_value"].to_numpy(), series["r"].to_numpy()
    return Change(
        node=node,
        gpu=None if gpu == NODE_LEVEL else gpu,
        metric=metric,
        level=level,
        since_utc=str(series["date"].iloc[at]),
        before=float(np.median(values[:at])),
        after=float(np.median(values[at:])),
        loss_fraction=1.0 - float(np.exp(np.mean(r[at:]) - np.mean(r[:at]))),
        t=t,
        runs=len(series),
    )


def _run_to_run(steps: Array) -> float:
    """Return the spread of one measurement, from differences of neighbouring runs of one unit."""
    if steps.size == 0:
        return LEAST_SPREAD
    return max(LEAST_SPREAD, MAD_TO_SD * float(np.median(np.abs(steps))) / math.sqrt(2.0))


def _own_spread(series: pd.DataFrame, usual: float) -> float:
    """Return a unit's run-to-run spread, shrunk toward the usual one and never below it."""
    steps = np.diff(series["r"].to_numpy(dtype=np.float64))
    n = float(steps.size)
    own = _run_to_run(steps)
    return max(usual, math.sqrt((n * own**2 + PRIOR_RUNS * usual**2) / (n + PRIOR_RUNS)))


def _split(series: pd.DataFrame, spread: float, least: float) -> tuple[int, float] | None:
    """Return the index of the first run after the change and its t value; None if no change."""
    r: Array = series["r"].to_numpy(dtype=np.float64)
    n = r.size
    if n < FEWEST_RUNS:
        return None
    after = np.arange(1, n)
    sums = np.cumsum(r)
    before_mean = sums[:-1] / after
    after_mean = (sums[-1] - sums[:-1]) / (n - after)
    shift = after_mean - before_mean
    t = np.abs(shift) / (spread * np.sqrt(1.0 / after + 1.0 / (n - after)))
    best = int(np.argmax(t))
    if t[best] < CHANGED_T or abs(1.0 - np.exp(shift[best])) < least:
        return None
    return best + 1, float(t[best])
