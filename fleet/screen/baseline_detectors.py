"""Rules that others use, on the same table: what they find and what they miss."""

from collections.abc import Callable

import numpy as np
import pandas as pd

Detector = Callable[[pd.DataFrame], pd.Series]
"""From one metric's rows (node, gpu, value; higher is better) to which are flagged."""


def fixed(loss: float) -> Detector:
    """Below the median by a fixed share."""

    def rule(rows: pd.DataFrame) -> pd.Series:
        return rows["value"] < rows["value"].median() * (1.0 - loss)

    return rule


def three_sigma(rows: pd.DataFrame) -> pd.Series:
    """Below the mean by three standard deviations: many slow ones hide themselves."""
    return rows["value"] < rows["value"].mean() - 3.0 * rows["value"].std()


def best_of_node(rows: pd.DataFrame) -> pd.Series:
    """Below 90 % of the best GPU of the same node (gpu-fryer): a slow node has no best."""
    best = rows.groupby("node", observed=True)["value"].transform("max")
    return rows["value"] < 0.9 * best


def median_or_tenth(rows: pd.DataFrame) -> pd.Series:
    """Off the median by more than the larger of its deviation and a tenth (Megatron-LM)."""
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
