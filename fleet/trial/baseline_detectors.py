"""Detection rules of other tools, to compare on one table what they find and what they miss."""

from collections.abc import Callable

import numpy as np
import pandas as pd

Detector = Callable[[pd.DataFrame], pd.Series]
"""Function from the rows of one metric (node, gpu, value; higher is better) to a mask of flags."""


def fixed(loss: float) -> Detector:
    """Return a rule that flags values more than a fixed fraction below the median."""

    def rule(rows: pd.DataFrame) -> pd.Series:
        return rows["value"] < rows["value"].median() * (1.0 - loss)

    return rule


def three_sigma(rows: pd.DataFrame) -> pd.Series:
    """Flag values three standard deviations below the mean; many slow GPUs hide each other."""
    return rows["value"] < rows["value"].mean() - 3.0 * rows["value"].std()


def best_of_node(rows: pd.DataFrame) -> pd.Series:
    """Flag values below 90 % of the node's best GPU (gpu-fryer); misses a node slow as a whole."""
    best = rows.groupby("node", observed=True)["value"].transform("max")
    return rows["value"] < 0.9 * best


def median_or_tenth(rows: pd.DataFrame) -> pd.Series:
    """Flag values off the median by more than the larger of MAD and a tenth of it (Megatron-LM)."""
    median = rows["value"].median()
    mad = float(np.median(np.abs(rows["value"] - median)))
    return (rows["value"] - median).abs() > max(mad, 0.1 * median)


DETECTORS: dict[str, Detector] = {
    "fixed 5 %": fixed(0.05),
    "fixed 10 %": fixed(0.10),
    "mean - 3 sigma": three_sigma,
    "gpu-fryer": best_of_node,
    "Megatron": median_or_tenth,
}
