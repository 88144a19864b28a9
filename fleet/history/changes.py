r"""Compare each GPU and node with its own past: how often it was flagged, and when it changed.

A GPU that lost 2 % since spring is still within the spread of its class and will never be an
outlier there. It stands out against its own past, because a GPU repeats itself far better (0.15 %)
than it resembles other GPUs (0.8 %). The change that all units of a class share in a run (the
median of their changes) is subtracted from each unit and followed as a series of the class. This
needs enough nodes in the run: the check that a single node makes of itself is compared with its
past without this correction. Settings (power cap, driver, lanes) have a history too: a setting that
changed in the run in which a rate fell is its cause.

    history = read_history([("run1", "2026-03-01T06:00:00Z", table1), ...])

The change point of a series of n runs is the split with the largest

    t = |mean(after) - mean(before)| / (s sqrt(1/n_before + 1/n_after))

where s is the run-to-run spread, estimated from the differences of neighbouring runs (a step
affects only one difference). The few runs of one unit give a poor estimate, so s is shrunk toward
the spread of all units. A unit with a larger spread of its own (one GPU in ten repeats itself three
times worse) is judged by its own.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from groundspeed.fleet.history.gone import Gone, gone_units
from groundspeed.fleet.history.setting_changes import SettingChange, setting_changes
from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.groups import MAD_TO_SD
from groundspeed.fleet.screen.score import FAIL, WARN, score
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
    gpu: int | str | None
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
    cause: str = ""
    """The setting that changed in the same run, or else the kind of the metric."""
    gpus: tuple[int | str, ...] = ()
    """GPUs of the node that changed together, if the node is named for them."""


class Strikes(Record):
    """How often one GPU or node was flagged."""

    node: str
    gpu: int | str | None
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
    settings: tuple[SettingChange, ...] = ()
    gone: tuple[Gone, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether a unit became slower or is gone, or a setting changed on some units only."""
        return (
            bool(self.gone)
            or any(c.loss_fraction > 0 for c in self.changes)
            or any(s.level != "class" for s in self.settings)
        )


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
    settings = setting_changes(ordered)
    names = {slot: name for _, _, table in ordered for slot, name in table.names.items()}
    units = {m: u for _, _, table in ordered for m, u in table.units.items()}
    return History(
        runs=len(ordered),
        first_utc=ordered[0][1],
        last_utc=ordered[-1][1],
        strikes=_strikes(pd.concat(flags, ignore_index=True), long, names),
        changes=explained(_roll_up(_changes(long, units, lower_is_better), long, names), settings),
        settings=settings,
        gone=gone_units(ordered),
    )


def _strikes(
    flags: pd.DataFrame, long: pd.DataFrame, names: Mapping[int, str]
) -> tuple[Strikes, ...]:
    if flags.empty:
        return ()
    seen = long.groupby(["node", "gpu"])["run"].nunique()
    strikes = []
    for _, mine in flags.groupby(["node", "gpu"]):
        node, gpu = _unit(mine)
        strikes.append(
            Strikes(
                node=node,
                gpu=None if gpu == NODE_LEVEL else names.get(gpu, gpu),
                strikes=int(mine["run"].nunique()),
                runs=int(seen.get((node, gpu), 0)),
                last_utc=str(mine["date"].max()),
                metrics=tuple(mine["metric"].value_counts().sort_index().index.astype(str)),
            )
        )
    return tuple(sorted(strikes, key=lambda s: (-s.strikes, s.node, str(s.gpu))))


def _changes(
    long: pd.DataFrame, units: dict[str, str], lower_is_better: Collection[str]
) -> tuple[Change, ...]:
    changes: list[Change] = []
    for name, part in long.groupby("metric", sort=True):
        metric = str(name)
        facts = facts_of(metric, lower_is_better, units.get(metric, ""))
        if facts.kind in UNJUDGED:
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
    return tuple(sorted(changes, key=lambda c: (-c.loss_fraction, c.node, str(c.gpu), c.metric)))


def _roll_up(
    changes: Sequence[Change], long: pd.DataFrame, names: Mapping[int, str]
) -> tuple[Change, ...]:
    """If half of a node's GPUs (two or more) changed in one run, name the node instead."""
    sizes = long[long["gpu"] != NODE_LEVEL].groupby("node")["gpu"].nunique()
    together: dict[tuple[str, str, str, bool], list[Change]] = {}
    rest: list[Change] = []
    for c in changes:
        if c.level == "gpu":
            key = (c.node, c.metric, c.since_utc, c.loss_fraction > 0)
            together.setdefault(key, []).append(c)
        else:
            rest.append(c)
    for (node, _, _, _), mine in together.items():
        if len(mine) < 2 or len(mine) < int(sizes[node]) / 2:
            rest += [c.model_copy(update={"gpu": names.get(int(c.gpu or 0), c.gpu)}) for c in mine]
            continue
        middle = sorted(mine, key=lambda c: c.loss_fraction)[len(mine) // 2]
        slots = sorted(int(c.gpu or 0) for c in mine)
        gpus = tuple(names.get(slot, slot) for slot in slots)
        rest.append(middle.model_copy(update={"gpu": None, "level": "node", "gpus": gpus}))
    return tuple(sorted(rest, key=lambda c: (-c.loss_fraction, c.node, str(c.gpu), c.metric)))


def explained(changes: Sequence[Change], settings: Sequence[SettingChange]) -> tuple[Change, ...]:
    """Return the changes with their cause: a setting that changed in the same run, or the kind."""
    named = []
    for c in changes:
        cause: str = facts_of(c.metric).kind
        for s in settings:
            same_unit = (s.node == c.node and s.gpu in (c.gpu, None)) or s.level == "class"
            if same_unit and s.since_utc == c.since_utc and cause in s.explains:
                cause = s.setting
                break
        named.append(c.model_copy(update={"cause": cause}))
    return tuple(named)


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
