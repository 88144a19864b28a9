"""Score each measurement: its loss against its class, and how unusual that loss is.

    r = +-log(y / median of the class)            negative is worse
    z = (r - slot effect) / s,   s^2 = (N s_MAD^2 + n0 s_ref^2) / (N + n0)

Both estimates are robust: the median does not move until half of a class is slow, and the scale s
comes from the median absolute deviation (MAD). With few units, s leans on the spread of public
fleets (n0 = 32), so that four GPUs can be judged like four thousand. GPU 0 gets cooler air than GPU
7: this slot effect is removed from z, but never from the loss, because users notice the loss. If
readings come in steps (of 0.1, say), their error is taken to be at least half a step.

    scores = score(read_fleet([Path("fleet.csv")]))
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
"""Weight of the spread of public fleets, in units."""

LEAST_SPREAD = 0.003

FEWEST_STEPS = 3
"""Fewest different readings that show that an instrument has steps."""

COARSEST = 0.05
"""[1] Largest step of an instrument, relative to the median: rates are printed with two digits."""
FEWEST_UNITS = 4
"""Smallest class whose median is used; a smaller one is judged only by an absolute floor."""

SLOT_NODES = 8
MAD_TO_SD = 1.4826
TENTH = 1.2816
"""Distance of the 10th percentile of a normal distribution from its median, in sigmas."""

WARN_Z, FAIL_Z = -3.0, -4.0

FLOOR = 0.9
"""[1] Lowest acceptable fraction of the reference's rate; no healthy fleet loses a tenth."""

FINE, WARN, FAIL, NO_RESULT, NO_CLASS = range(5)
"""Tiers of a measurement; NO_RESULT: the test failed; NO_CLASS: its class has too few units."""


@dataclass(frozen=True)
class Scores:
    """Scores of the measurements of a table, in the order of its rows."""

    expected: Array
    """Median of the class (or the reference's rate); NaN where it is not known."""
    loss: Array
    """[1] Fraction of the expected rate that is missing; NaN where it is not known."""
    z: Array
    """[1] Distance from the median in standard deviations; negative is worse."""
    tier: Array
    """FINE, WARN, FAIL, NO_RESULT or NO_CLASS."""
    below: NDArray[np.bool_]
    """True where the value is below the floor that the reference sets."""


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
        Names of metrics for which lower is better. Default: none.
    reference : mapping of str to float, optional
        Value that a healthy device of this class reaches elsewhere, by metric. Less than
        :data:`FLOOR` of it is a failure even if the rest of the class is as slow, because a whole
        fleet may be slow. Default: no reference.
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
    """Return the fraction of the expected rate that is missing; positive where worse."""
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
    """Return median and log spread of a class, and each unit's log distance from its slot's median.

    Returns
    -------
    tuple, or None
        None if there is no result. The spread is None if there are too few units to estimate it.
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
    """Return the median of each unit's slot; zero if there are too few nodes to estimate it."""
    effects = np.zeros(r.shape)
    if np.unique(nodes).size < SLOT_NODES or (slots == NODE_LEVEL).all():
        return effects
    frame = pd.Series(r).groupby(slots).transform("median")
    effects[:] = frame.to_numpy()
    return effects


def _resolution(y: Array) -> float:
    """Return the step between readings if they come in steps, else 0.

    Two values are no steps: a link at half of its rate among full ones is an outlier, not the next
    reading of a coarse instrument. Nor is a step coarser than any instrument in use.
    """
    distinct = np.unique(y)
    if distinct.size < FEWEST_STEPS or distinct.size > max(20, y.size // 4):
        return 0.0
    gaps = np.diff(distinct)
    step = float(gaps.min())
    if step > COARSEST * float(np.median(y)):
        return 0.0
    return step


def tiers(loss: Array, z: Array, facts: MetricFacts) -> Array:
    """Return FINE, WARN or FAIL; a loss counts if it is both large enough and unusual."""
    tier = np.zeros(loss.shape)
    with np.errstate(invalid="ignore"):
        tier[(loss >= facts.warn_loss) & (z <= WARN_Z)] = WARN
        tier[(loss >= facts.fail_loss) & (z <= FAIL_Z)] = FAIL
    return tier
