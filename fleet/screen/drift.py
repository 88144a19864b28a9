"""Findings for units whose settings differ from those of their class, with or without a loss.

Where a deviating setting explains a loss, it is the cause of that finding. Where nothing is slow, a
deviation is a warning of its own: a GPU with half of its lanes is broken even if no test used them,
and a fleet with two drivers gives two answers to every later question.
"""

from collections.abc import Collection, Mapping

import numpy as np

from groundspeed.fleet.node_names import fold_names
from groundspeed.fleet.screen.cause import describe
from groundspeed.fleet.screen.findings import Finding, Verdict
from groundspeed.fleet.screen.signals import Deviation, as_number
from groundspeed.fleet.settings import SETTINGS
from groundspeed.fleet.table import NODE_LEVEL, FleetTable

EVEN = 0.25
"""[1] Smallest share of a class for which a second value of a setting is a split, not a drift."""


def drift_findings(
    deviations: Mapping[tuple[str, int], tuple[Deviation, ...]],
    table: FleetTable,
    explained: Collection[tuple[str, int, str]],
) -> list[Finding]:
    """Return a finding for each deviation that is not the cause of another finding.

    Parameters
    ----------
    deviations : mapping
        Deviations by node and GPU.
    table : FleetTable
        For the names of GPUs.
    explained : collection of (node, gpu, setting)
        Deviations that explain a loss already.
    """
    findings = []
    for (node, gpu), mine in sorted(deviations.items()):
        for deviation in mine:
            if (node, gpu, deviation.setting) in explained:
                continue
            setting = next(s for s in SETTINGS if s.name == deviation.setting)
            fault = setting.fault and deviation.lower is True
            verdict: Verdict = "FAIL" if fault else "WARN"
            findings.append(
                Finding(
                    node=node,
                    gpu=table.gpu_of(gpu),
                    metric=deviation.setting,
                    metrics=(deviation.setting,),
                    verdict=verdict,
                    value=as_number(deviation.value),
                    expected=as_number(deviation.usual),
                    loss_fraction=_lost(deviation) if fault else None,
                    z=None,
                    level="node" if gpu == NODE_LEVEL else "gpu",
                    cause=deviation.setting,
                    evidence=describe(deviation),
                )
            )
    return findings


def _lost(deviation: Deviation) -> float | None:
    mine, usual = as_number(deviation.value), as_number(deviation.usual)
    return None if mine is None or not usual else 1.0 - mine / usual


def even_splits(table: FleetTable) -> list[Finding]:
    """Return a finding for each class in which no value of a setting has a majority."""
    settings = table.settings
    findings = []
    for key, part in settings.groupby(["cohort", "setting"], sort=True):
        cohort, setting = str(key[0]), str(key[1])
        shares = part["value"].value_counts(normalize=True)
        if len(part) < 4 or len(shares) < 2 or shares.iloc[0] > 0.5 or shares.iloc[1] < EVEN:
            continue
        first, second = str(shares.index[0]), str(shares.index[1])
        nodes = [sorted(part.loc[part["value"] == v, "node"].unique()) for v in (first, second)]
        name = setting.replace("_", " ")
        findings.append(
            Finding(
                node=cohort, gpu=None, metric=setting, metrics=(setting,), verdict="WARN",
                value=as_number(first), expected=as_number(second), loss_fraction=None, z=None,
                level="class", cause=setting,
                evidence=f"{name} {first} on {fold_names(nodes[0])}, "
                f"{second} on {fold_names(nodes[1])}: no value has a majority",
            )
        )  # fmt: skip
    return findings


def shorten(names: Collection[str], most: int = 6) -> str:
    """Return a few names in the order given, and how many more there are.

    >>> shorten(["hbm_read", "matmul", "pcie"], 2)
    'hbm_read, matmul and 1 more'
    """
    ordered = list(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


def median_or_none(values: Collection[float | None]) -> float | None:
    """Return the median of the values that are known; None if there are none."""
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None
