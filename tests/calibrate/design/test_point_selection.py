"""Farthest-point selection covers the range of shapes; config keys share the budget equally."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundspeed.calibrate import choose_points
from groundspeed.calibrate.design.point_selection import farthest_points
from groundspeed.profiles import InputError


def frame(n: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "dtype": rng.choice(["bfloat16", "fp8"], n),
            "m": 2.0 ** rng.integers(0, 14, n),
            "n": 2.0 ** rng.integers(6, 14, n),
            "k": 2.0 ** rng.integers(6, 14, n),
        },
        index=[f"row {i}" for i in range(n)],
    )


def hole(points: np.ndarray, chosen: np.ndarray) -> float:
    """Return the largest distance from any point to its nearest chosen point."""
    return float(np.linalg.norm(points[:, None] - points[chosen][None], axis=2).min(1).max())


def test_chosen_points_cover_better_than_random_points() -> None:
    points = np.random.default_rng(1).uniform(0, 14, (800, 3))
    ours = hole(points, farthest_points(points, 48, seed=0))
    random = [
        hole(points, np.random.default_rng(s).choice(800, 48, replace=False)) for s in range(20)
    ]
    assert ours < 0.8 * min(random)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5))
def test_chosen_points_are_distinct_and_within_the_budget(n: int, budget: int, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(size=(n, 2))
    chosen = farthest_points(points, budget, seed=seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(n, budget)


def test_data_types_share_the_budget_equally() -> None:
    candidates = frame()
    chosen = candidates.loc[choose_points("matmul", candidates, 31, seed=3)]
    assert len(chosen) == 31
    assert chosen["dtype"].value_counts().min() == 15


def test_same_seed_chooses_the_same_points() -> None:
    first = choose_points("matmul", frame(), 24, seed=1)
    assert first.equals(choose_points("matmul", frame(), 24, seed=1))


@pytest.mark.parametrize(
    ("operation", "budget", "message"),
    [
        ("matmull", 8, "did you mean 'matmul'"),
        ("stream", 8, "have no column"),
        ("matmul", 0, "at least 1"),
    ],
)
def test_unknown_operation_missing_columns_and_zero_budget_are_refused(
    operation: str, budget: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        choose_points(operation, frame(), budget)
