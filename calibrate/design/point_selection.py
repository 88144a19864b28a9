"""Which shapes to measure: the ones farthest from all that are already chosen.

Time varies by factors, not by amounts, so distance is measured in the logarithm of each column.
Greedy farthest-point selection covers the corners first and then halves the largest hole; on
published GEMM timings it needs about half the points of a grid of sites for the same error.

>>> import numpy as np
>>> grid = np.log2(np.array([[1.0], [2.0], [4.0], [256.0]]))
>>> sorted(farthest_points(grid, 2, seed=0).tolist())
[0, 3]
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.operations import OPERATIONS

if TYPE_CHECKING:
    import pandas as pd


def farthest_points(
    coordinates: NDArray[np.float64], budget: int, *, seed: int
) -> NDArray[np.intp]:
    """Choose rows that cover the space of all rows.

    Parameters
    ----------
    coordinates : (N, D) ndarray
        Usually logarithms.
    budget : int
        How many rows to choose; all of them if there are no more.
    seed : int
        Breaks ties.

    Returns
    -------
    (min(N, budget),) ndarray of int
        Row numbers, in the order chosen: any prefix is a good choice too.
    """
    n = len(coordinates)
    if n <= budget:
        return np.arange(n)
    jitter = np.random.default_rng(seed).uniform(0.0, 1e-6, size=n)
    # Start at the row farthest from the middle: a corner, whatever the seed.
    start = int(np.argmax(((coordinates - coordinates.mean(axis=0)) ** 2).sum(axis=1) + jitter))
    chosen = [start]
    nearest = ((coordinates - coordinates[start]) ** 2).sum(axis=1)
    while len(chosen) < budget:
        following = int(np.argmax(nearest + jitter))
        chosen.append(following)
        nearest = np.minimum(nearest, ((coordinates - coordinates[following]) ** 2).sum(axis=1))
    return np.array(chosen)


DISTANCE: dict[str, tuple[float, ...]] = {
    "matmul": (0.5, 1.1, 1.0),
    "attention_prefill": (1.0, 0.7, 0.5, 0.5, 1.0),
    "attention_decode": (1.0, 0.7, 0.5, 0.5, 1.0),
}
"""What an octave of each column counts. Residuals of products are related over twice as many
octaves of rows as of width and depth, those of attention over more octaves of heads than of
sequences, so points may be that much farther apart in them (lengths fitted on H200 timings)."""


def even_points(coordinates: NDArray[np.float64], budget: int) -> NDArray[np.intp]:
    """Choose rows at even distances along one column, both ends among them.

    >>> even_points(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 9.0]), 3)
    array([0, 4, 5])
    """
    places, first = np.unique(coordinates, return_index=True)
    if places.size <= budget:
        return first
    wanted = np.linspace(places[0], places[-1], budget) if budget > 1 else places[-1:]
    free = np.ones(places.size, dtype=bool)
    chosen = []
    for target in [*wanted[:1], *wanted[-1:], *wanted[1:-1]][:budget]:
        distance = np.where(free, np.abs(places - target), np.inf)
        nearest = int(np.argmin(distance))
        free[nearest] = False
        chosen.append(nearest)
    return np.sort(first[np.array(chosen)])


def choose_points(
    operation: str, candidates: "pd.DataFrame", budget: int, seed: int = 0
) -> "pd.Index":
    """Choose which of many possible cases to measure.

    Parameters
    ----------
    operation : str
        ``matmul``, ``attention_prefill``, ``attention_decode``, ``stream``, ``elementwise``.
    candidates : DataFrame
        One case a row, with the operation's columns; other columns are carried along.
    budget : int
        Total number of rows; regimes (data type, mode) share it evenly. For ``moe``, rows of each
        configuration.
    seed : int, default 0

    Returns
    -------
    Index
        Labels of the chosen rows.

    Raises
    ------
    InputError
        If the operation is unknown, a column is missing, or the budget is not positive.
    """
    spec = OPERATIONS.get(operation)
    if spec is None:
        raise InputError(
            f"unknown operation '{operation}'", remedy=did_you_mean(operation, OPERATIONS)
        )
    from groundspeed.calibrate.fit.dataframe import add_derived_columns, config_key_columns

    candidates = add_derived_columns(operation, candidates)
    missing = [c for c in spec.columns if c not in candidates.columns]
    if missing:
        raise InputError(f"{operation} candidates lack the column {', '.join(missing)}")
    if budget < 1:
        raise InputError(f"a budget of {budget} points chooses nothing", remedy="give at least 1")
    if candidates.empty:
        return candidates.index
    present = config_key_columns(operation, candidates)
    groups = [g for _, g in candidates.groupby(present, sort=True)] if present else [candidates]
    shares = np.full(len(groups), budget // len(groups))
    shares[: budget % len(groups)] += 1
    if operation == "moe":  # one curve a configuration: the budget is that of each
        shares = np.full(len(groups), budget)
    labels: list[object] = []
    for group, share in zip(groups, shares.tolist(), strict=True):
        log = np.log2(group[list(spec.columns)].to_numpy(dtype=np.float64))
        log = log * np.array(DISTANCE.get(operation, (1.0,) * len(spec.columns)))
        one = len(spec.columns) == 1
        rows = even_points(log[:, 0], share) if one else farthest_points(log, share, seed=seed)
        labels += group.index[rows].tolist()
    return candidates.loc[labels].index
