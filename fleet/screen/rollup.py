"""Roll up units that are slow together into one loss of their node, rack or class.

Eight GPUs of a node that are slow in the same metric are not eight bad GPUs. If half of the units
of a level (two or more) are slow in the same metric, the level above gets one finding instead. A
class is special: its units are compared with its own median, so only a reference can show that the
whole class is slow.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from groundspeed.fleet.screen.cause import Loss
from groundspeed.fleet.screen.findings import Level
from groundspeed.fleet.screen.score import FAIL, Scores
from groundspeed.fleet.table import NODE_LEVEL
from groundspeed.profiles.operations import Array

Key = tuple[str, int | None, Level]
"""Name of the node, rack or class; GPU index (None above the level of a GPU); level."""

Losses = dict[str, Loss]
"""Losses of a unit by metric."""


def roll_up_nodes(rows: pd.DataFrame, gathered: Mapping[Key, Losses]) -> dict[Key, Losses]:
    """If half of a node's GPUs (two or more) are slow in a metric, blame the node instead."""
    gpus = rows[rows["gpu"] != NODE_LEVEL].groupby("node", observed=True)["gpu"].nunique()
    sizes = {str(node): int(count) for node, count in gpus.items()}
    slow: dict[tuple[str, str], list[Key]] = {}
    for key, unit in gathered.items():
        if key[2] == "gpu":
            for metric in unit:
                slow.setdefault((key[0], metric), []).append(key)
    losses = {key: dict(unit) for key, unit in gathered.items()}
    for (node, metric), keys in sorted(slow.items()):
        if len(keys) < 2 or len(keys) < sizes.get(node, 0) / 2:
            continue
        values = [losses[key].pop(metric) for key in keys]
        middle = np.median(np.array(values), axis=0)
        whole = losses.setdefault((node, None, "node"), {})
        # The node gets the median tier of its slow GPUs, not the worst.
        whole[metric] = _middle(middle, round(float(middle[4])))
    return {key: unit for key, unit in losses.items() if unit}


def _middle(middle: Array, tier: float) -> Loss:
    loss, z, value, expected = (float(x) for x in middle[:4])
    return Loss(loss, z, value, expected, float(tier))


def roll_up_racks(rows: pd.DataFrame, units: dict[Key, Losses]) -> dict[Key, Losses]:
    """If half of a rack's nodes (two or more) are slow in a metric, blame the rack instead."""
    if rows["rack"].nunique() < 2:
        return units
    rack_of = {
        str(node): str(rack)
        for node, rack in rows[["node", "rack"]].drop_duplicates("node").itertuples(index=False)
    }
    sizes: dict[str, int] = {}
    for rack in rack_of.values():
        sizes[rack] = sizes.get(rack, 0) + 1
    slow: dict[tuple[str, str], list[Key]] = {}
    for key, unit in units.items():
        if key[2] == "node":
            for metric in unit:
                slow.setdefault((rack_of[key[0]], metric), []).append(key)
    losses = dict(units)
    for (rack, metric), keys in sorted(slow.items()):
        if len(keys) < 2 or len(keys) < sizes[rack] / 2:
            continue
        values = [losses[key].pop(metric) for key in keys]
        middle = np.median(np.array(values), axis=0)
        whole = losses.setdefault((rack, None, "rack"), {})
        whole[metric] = _middle(middle, float(middle[4]))
    return {key: unit for key, unit in losses.items() if unit}


def slow_classes(rows: pd.DataFrame, scores: Scores) -> dict[tuple[str, str], Loss]:
    """Return classes and metrics with half the units (two or more) below the reference's floor."""
    if not scores.below.any():
        return {}
    part = rows[["cohort", "metric", "value"]].assign(
        below=scores.below, loss=scores.loss, expected=scores.expected
    )
    slow = {}
    two = {(g.cohort, g.metric) for g in scores.groups}
    for key, mine in part[part["value"].notna()].groupby(["cohort", "metric"], observed=True):
        short = mine[mine["below"]]
        if isinstance(key, tuple) and (str(key[0]), str(key[1])) in two:
            continue  # one group is below the floor, and its units are named
        if len(short) >= 2 and len(short) >= len(mine) / 2:
            cohort, metric = (str(k) for k in key) if isinstance(key, tuple) else (str(key), "")
            middle = short[["loss", "value", "expected"]].median()
            slow[cohort, metric] = Loss(
                float(middle["loss"]), np.nan, float(middle["value"]), float(middle["expected"]),
                float(FAIL),
            )  # fmt: skip
    return slow


def class_units(rows: pd.DataFrame, classes: Mapping[tuple[str, str], Loss]) -> dict[Key, Losses]:
    """Return the losses of slow classes; a class of a single node is reported as that node."""
    class_losses: dict[Key, Losses] = {}
    for (cohort, metric), loss in sorted(classes.items()):
        nodes = rows.loc[rows["cohort"] == cohort, "node"].unique()
        key: Key = (str(nodes[0]), None, "node") if len(nodes) == 1 else (cohort, None, "class")
        class_losses.setdefault(key, {})[metric] = loss
    return class_losses
