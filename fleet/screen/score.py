"""How unusual each measurement is among its kind.

    r = +-log(y / median of the class)            negative is worse
    z = (r - slot effect) / s,   s^2 = (N s_MAD^2 + n0 s_ref^2) / (N + n0)

Robust twice: the median does not move until half of a class is slow, the scale is from the median
deviation. With few units the scale leans on that of public fleets (n0 = 32), so that four GPUs can
be judged like four thousand. GPU 0 sits where the air is cooler than GPU 7: that slot effect is
taken out of z, but never out of the loss, which is what a user feels. Readings in steps of 0.1 have
no smaller error than half a step.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundspeed.fleet.metrics import MetricFacts, facts_of
from groundspeed.fleet.table import NODE_LEVEL, FleetTable
from groundspeed.profiles.operations import Array

PRIOR_UNITS = 32.0
"""Units that the spread of public fleets counts as."""

LEAST_SPREAD = 0.003
FEWEST_UNITS = 4
"""Below, there is no class to be unusual in: only an absolute floor judges."""

SLOT_NODES = 8
MAD_TO_SD = 1.4826
TENTH = 1.2816
"""Standard deviations below the middle at which a tenth of a normal distribution lies."""

WARN_Z, FAIL_Z = -3.0, -4.0

FLOOR = 0.9
"""Lowest acceptable share of the reference's rate: no healthy fleet loses a tenth."""

FINE, WARN, FAIL, NO_RESULT, NO_CLASS = range(5)
"""Tiers: NO_RESULT is a test that failed, NO_CLASS a unit with too few of its kind."""


@dataclass(frozen=True)
class Scores:
    """One row a measurement, beside the table's."""

    expected: Array
    loss: Array
    """[1] Fraction of the expected rate that is missing; NaN where it is not known."""
    z: Array
    tier: Array
    """FINE, WARN, FAIL, NO_RESULT or NO_CLASS."""
    below: NDArray[np.bool_]
    """Below the floor that the reference sets."""


def score(
    table: FleetTable,
    *,
    lower_is_better: Collection[str] = (),
    reference: Mapping[str, float] | None = None,
) -> Scores:
    """Score every measurement.

    Parameters
    ----------
    table : FleetTable
    lower_is_better : collection of str
    reference : mapping of str to float, optional
        What a device of this kind reaches elsewhere. Less than :data:`FLOOR` of it is a failure,
        whatever the rest of the class does: a fleet may be slow as a whole.
    """
    rows = table.rows
    count = len(rows)
    expected, loss, z = (np.full(count, np.nan) for _ in range(3))
    tier = np.zeros(count)
    below = np.zeros(count, dtype=np.bool_)
    values = rows["value"].to_numpy()
    slots = rows["gpu"].to_numpy(dtype=np.float64)
    nodes = np.array(rows["node"].cat.codes, dtype=np.float64)
    groups = rows.groupby(["cohort", "metric"], observed=True, sort=True).indices
    for key, where in groups.items():
        metric = str(key[1]) if isinstance(key, tuple) else str(key)
        facts = facts_of(metric, lower_is_better, table.units.get(metric, ""))
        if facts.kind == "telemetry":
            continue
        index = np.asarray(where)
        part = _score_group(values[index], slots[index], nodes[index], facts)
        expected[index], loss[index], z[index] = part
        verdict_tiers = tiers(part[1], part[2], facts)
        finite = np.isfinite(values[index])
        reached = (reference or {}).get(metric)
        if reached is not None:
            missing = _loss(values[index], reached, facts)
            with np.errstate(invalid="ignore"):
                short = missing > 1.0 - FLOOR
            alone = short & (verdict_tiers == FINE)
            expected[index[alone]] = reached
            loss[index[alone]] = missing[alone]
            z[index[alone]] = np.nan
            verdict_tiers[short] = FAIL
            below[index] = short
        elif finite.sum() < FEWEST_UNITS:
            verdict_tiers[:] = NO_CLASS
        verdict_tiers[~finite] = NO_RESULT
        tier[index] = verdict_tiers
    return Scores(expected, loss, z, tier, below)


def _loss(y: Array, expected: float, facts: MetricFacts) -> Array:
    """Fraction that is missing; positive where worse."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1.0 - (y / expected if facts.higher_is_better else expected / y)


def _score_group(
    y: Array, slots: Array, nodes: Array, facts: MetricFacts
) -> tuple[Array, Array, Array]:
    center = usual(y, slots, nodes, facts)
    nothing = np.full(y.shape, np.nan)
    if center is None:
        return nothing, nothing, nothing
    median, spread, centred = center
    expected, loss = np.full(y.shape, median), _loss(y, median, facts)
    return expected, loss, nothing if spread is None else centred / spread


def usual(
    y: Array, slots: Array, nodes: Array, facts: MetricFacts
) -> tuple[float, float | None, Array] | None:
    """Median of a class, spread of its logarithm, and how far each unit is from its slot's middle.

    Returns
    -------
    tuple, or None
        None where there is no result; a spread of None where there are too few to know it.
    """
    good = np.isfinite(y)
    if good.sum() == 0:
        return None
    median = float(np.median(y[good]))
    sign = 1.0 if facts.higher_is_better else -1.0
    r = np.full(y.shape, np.nan)
    r[good] = sign * np.log(y[good] / median)
    if good.sum() < FEWEST_UNITS:
        return median, None, r
    centred = r - _slot_effects(r, slots, nodes)
    deviation = centred[good] - np.median(centred[good])
    mad = MAD_TO_SD * float(np.median(np.abs(deviation)))
    if facts.skewed:
        tail = float(np.median(deviation) - np.quantile(deviation, 0.1)) / TENTH
        mad = max(mad, tail)
    n = float(good.sum())
    spread = np.sqrt((n * mad**2 + PRIOR_UNITS * facts.spread**2) / (n + PRIOR_UNITS))
    return median, max(float(spread), LEAST_SPREAD, _resolution(y[good]) / median / 2.0), centred


def _slot_effects(r: Array, slots: Array, nodes: Array) -> Array:
    """Median of each slot, where there are enough nodes to know it."""
    effects = np.zeros(r.shape)
    if np.unique(nodes).size < SLOT_NODES or (slots == NODE_LEVEL).all():
        return effects
    frame = pd.Series(r).groupby(slots).transform("median")
    effects[:] = frame.to_numpy()
    return effects


def _resolution(y: Array) -> float:
    """The step in which readings come, if they come in steps."""
    distinct = np.unique(y)
    if distinct.size < 2 or distinct.size > max(20, y.size // 4):
        return 0.0
    return float(np.min(np.diff(distinct)))


def tiers(loss: Array, z: Array, facts: MetricFacts) -> Array:
    """FINE, WARN or FAIL: a loss counts if it matters and is unusual."""
    tier = np.zeros(loss.shape)
    with np.errstate(invalid="ignore"):
        tier[(loss >= facts.warn_loss) & (z <= WARN_Z)] = WARN
        tier[(loss >= facts.fail_loss) & (z <= FAIL_Z)] = FAIL
    return tier
