"""Score each measurement: its loss against its class, and how unusual that loss is.

    r = +-log(y / median of the class)            negative is worse
    z = (r - slot effect) / s,   s^2 = (N s_MAD^2 + n0 s_ref^2) / (N + n0)

Both estimates are robust: the median does not move until half of a class is slow, and the scale s
comes from the median absolute deviation (MAD). With few units, s leans on the spread of public
fleets (n0 = 32), so that four GPUs can be judged like four thousand; a class that spreads far more
than those fleets is judged by its own spread alone. GPU 0 gets cooler air than GPU 7: this slot
effect is removed from z, but never from the loss, because users notice the loss. It is a few tenths
of a per cent, so a slot that is slower than that is slow, and not a slot. If readings come in steps
(of 0.1, say), their error is taken to be at least half a step.

    scores = score(read_fleet([Path("fleet.csv")]))
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundspeed.fleet.kinds import UNJUDGED
from groundspeed.fleet.metrics import MetricFacts, facts_of
from groundspeed.fleet.screen.groups import near_and_far, spread_of, two_groups
from groundspeed.fleet.table import NAMED, NODE_LEVEL, FleetTable
from groundspeed.profiles.operations import Array

PRIOR_UNITS = 32.0
"""Weight of the spread of public fleets, in units."""

CONTRADICTED = 3.0
"""Factor of a class's own spread over that of public fleets from which the latter does not apply:
by simulation, the MAD of four healthy units exceeds it in fewer than one class of ten thousand."""

LEAST_SPREAD = 0.003

FEWEST_STEPS = 3
"""Fewest different readings that show that an instrument has steps."""

SAMPLE = 1000
"""Readings among which hardly any comes twice if an instrument has no steps."""

COARSEST = 0.05
"""[1] Largest step of an instrument, relative to the median: rates are printed with two digits."""

FEWEST_UNITS = 4
"""Smallest class whose median is used; a smaller one is judged only by an absolute floor."""

SLOT_NODES = 8

SLOT_LIMIT = 0.02
"""[1] Largest effect of a slot; 1,224 A100 of Azure and 6,992 of Perlmutter have at most 0.4 %."""

TENTH = 1.2816
"""Distance of the 10th percentile of a normal distribution from its median, in sigmas."""

WARN_Z, FAIL_Z = -3.0, -4.0

FLOOR = 0.9
"""[1] Lowest acceptable fraction of the reference's rate; no healthy fleet loses a tenth."""

FINE, WARN, FAIL, NO_RESULT, NO_CLASS = range(5)
"""Tiers of a measurement; NO_RESULT: the test failed; NO_CLASS: its class has too few units."""


@dataclass(frozen=True)
class TwoGroups:
    """A class that is two in one metric: positions of the rows of the slow and the fast group."""

    cohort: str
    metric: str
    slow: NDArray[np.int64]
    fast: NDArray[np.int64]


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
    own: Array
    """FINE, WARN or FAIL by the class alone, without the reference."""
    groups: tuple[TwoGroups, ...] = ()
    """Classes that are two."""


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
    own_tier = np.zeros(count)
    values = rows["value"].to_numpy()
    slots = rows["gpu"].to_numpy(dtype=np.float64)
    nodes = np.array(rows["node"].cat.codes, dtype=np.float64)
    split: list[TwoGroups] = []
    groups = rows.groupby(["cohort", "metric"], observed=True, sort=True).indices if count else {}
    for key, where in groups.items():
        cohort, metric = (str(k) for k in key) if isinstance(key, tuple) else ("all", str(key))
        facts = facts_of(metric, lower_is_better, table.units.get(metric, ""))
        if facts.kind in UNJUDGED:
            continue
        index = np.asarray(where)
        for part, slow in _parts(values[index], slots[index], facts):
            own = index[part]
            medians, losses, zs = _score_group(values[own], slots[own], nodes[own], facts)
            expected[own], loss[own], z[own] = medians, losses, zs
            if slow:
                split.append(TwoGroups(cohort, metric, own, index[~part]))
        verdict_tiers = tiers(loss[index], z[index], facts)
        own_tier[index] = verdict_tiers
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
    return Scores(expected, loss, z, tier, below, own_tier, tuple(split))


def _parts(y: Array, slots: Array, facts: MetricFacts) -> Iterator[tuple[NDArray[np.bool_], bool]]:
    """Yield the parts of a class that are judged apart, and whether each is a slow group."""
    whole = np.ones(y.shape, dtype=np.bool_)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.log(y) if facts.higher_is_better else -np.log(y)
    if facts.kind == "host_link":
        upper = near_and_far(x, slots)
        if upper is not None:
            yield upper, False
            yield ~upper, False
            return
    slow = None if facts.skewed else two_groups(x)
    if slow is not None and facts.kind == "host_link" and _of_slots(slow, slots):
        # The same places are slower in every node: that is how its sockets are wired.
        yield slow, False
        yield ~slow, False
        return
    if slow is None:
        yield whole, False
    else:
        yield slow, True
        yield ~slow, False


def _of_slots(slow: NDArray[np.bool_], slots: Array) -> bool:
    """Return whether a group is made of whole slots, in two nodes or more."""
    places, counts = np.unique(slots, return_counts=True)
    shares = [float(slow[slots == place].mean()) for place in places]
    return bool(counts.min() >= 2) and all(share < 0.1 or share > 0.9 for share in shares)


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
    mad = spread_of(deviation)
    if facts.skewed:
        tail = float(np.median(deviation) - np.quantile(deviation, 0.1)) / TENTH
        mad = max(mad, tail)
    n = float(good.sum())
    prior = 0.0 if mad > CONTRADICTED * facts.spread else PRIOR_UNITS
    spread = np.sqrt((n * mad**2 + prior * facts.spread**2) / (n + prior))
    return median, max(float(spread), LEAST_SPREAD, _resolution(y[good]) / median / 2.0), centred


def _slot_effects(r: Array, slots: Array, nodes: Array) -> Array:
    """Return the median of each unit's slot; zero where it cannot be an effect of the slot.

    That is if there are too few nodes to estimate it, if GPUs have names instead of places, and if
    it is larger than any slot's: then the GPUs in it are slow.
    """
    effects = np.zeros(r.shape)
    few = np.count_nonzero(np.bincount(nodes.astype(np.int64))) < SLOT_NODES
    if few or (slots == NODE_LEVEL).all() or slots.max() >= NAMED:
        return effects
    medians = pd.Series(r).groupby(slots).transform("median")
    effects[:] = medians.to_numpy(dtype=np.float64)
    effects[~(np.abs(effects) <= SLOT_LIMIT)] = 0.0
    return effects


def _resolution(y: Array) -> float:
    """Return the step between readings if they come in steps, else 0.

    Two values are no steps: a link at half of its rate among full ones is an outlier, not the next
    reading of a coarse instrument. Nor is a step coarser than any instrument in use.
    """
    first = y[:SAMPLE]
    if first.size == SAMPLE and np.unique(first).size > SAMPLE // 2:
        return 0.0
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
