"""Select the shapes to measure: always the one farthest from all shapes already selected.

Durations differ by factors, so distances are taken between the logarithms of the columns. Greedy
farthest-point selection covers the corners first and then fills the largest gap. On published GEMM
timings it needs about half as many points as a regular grid for the same error.

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
        Coordinates of the rows, usually logarithms.
    budget : int
        Number of rows to choose. All rows are chosen if there are not more.
    seed : int
        Random seed that decides between rows at equal distance.

    Returns
    -------
    (min(N, budget),) ndarray of int
        Row numbers in the order of selection. The first k of them are a good selection of k rows.
        If N is at most the budget, all rows in their order.
    """
    n = len(coordinates)
    if n <= budget:
        return np.arange(n)
    jitter = np.random.default_rng(seed).uniform(0.0, 1e-6, size=n)
    # Start at the row farthest from the mean of all rows, which is a corner for every seed.
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
    "experts": (1.2, 0.6, 0.7, 0.5, 0.5, 0.5),
}
"""Weight of a doubling of each column in the distance. GEMM residuals are correlated over twice as
many doublings of the rows as of n and k; attention residuals over more doublings of the heads than
of the sequences. Points may therefore be that much farther apart along these columns. The weights
come from correlation lengths fitted to H200 timings."""


def even_points(coordinates: NDArray[np.float64], budget: int) -> NDArray[np.intp]:
    """Choose rows at even distances along one column, including both ends.

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
        Name of the operation: ``matmul``, ``attention_prefill``, ``attention_decode``, ``stream``,
        ``elementwise``, ...
    candidates : DataFrame
        One case per row, with the columns of the operation. Other columns are allowed.
    budget : int
        Total number of cases, at least 1. Config keys (data type, mode) share it evenly. For
        ``moe`` it is the number of cases of each configuration.
    seed : int, default 0
        Random seed that decides between cases at equal distance.

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
        raise InputError(f"the {operation} candidates have no column {', '.join(missing)}")
    if budget < 1:
        raise InputError(f"budget is {budget}, not a number above 0", remedy="give at least 1")
    if candidates.empty:
        return candidates.index
    present = config_key_columns(operation, candidates)
    groups = [g for _, g in candidates.groupby(present, sort=True)] if present else [candidates]
    shares = np.full(len(groups), budget // len(groups))
    shares[: budget % len(groups)] += 1
    if operation == "moe":  # each configuration is a curve of its own and gets the full budget
        shares = np.full(len(groups), budget)
    labels: list[object] = []
    for group, share in zip(groups, shares.tolist(), strict=True):
        log = np.log2(group[list(spec.columns)].to_numpy(dtype=np.float64))
        log = log * np.array(DISTANCE.get(operation, (1.0,) * len(spec.columns)))
        one = len(spec.columns) == 1
        rows = even_points(log[:, 0], share) if one else farthest_points(log, share, seed=seed)
        labels += group.index[rows].tolist()
    return candidates.loc[labels].index
