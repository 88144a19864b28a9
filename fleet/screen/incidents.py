"""Group findings that have one cause into incidents: eighteen nodes with slow vector units are one.

A person who reads forty lines with the same cause has to find out that they are one fault. Findings
of one verdict and cause with similar losses in the same metrics become one line; the findings
themselves stay in the result.
"""

from collections.abc import Sequence

from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.node_names import fold_names
from groundspeed.fleet.screen.drift import median_or_none, shorten
from groundspeed.fleet.screen.findings import Finding, Incident

SIMILAR = 0.10
"""[1] Largest difference of the losses of two findings of one incident."""

SAME_SLOT = 3
"""Fewest GPUs of one index, and of no other, for an incident of a slot."""


def incidents_of(findings: Sequence[Finding]) -> tuple[Incident, ...]:
    """Return the incidents behind some findings, in the order of their first findings."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, f in enumerate(findings):
        key: tuple[object, ...] = (f.verdict, f.cause, f.level, _what(f))
        for number in range(len(findings)):
            full = (*key, number)
            mine = groups.setdefault(full, [])
            if not mine or _similar(f, findings[mine[0]]):
                mine.append(index)
                break
    kept = [members for members in groups.values() if members]
    return tuple(_incident(findings, members) for members in sorted(kept, key=lambda m: m[0]))


def _what(f: Finding) -> object:
    """Return what an incident's findings have in common: the setting, or the kind of metric."""
    if f.loss_fraction is None:
        return f.cause, f.value if f.cause not in (
            "missing",
            "fewer_results",
            "no_class",
            "few_units",
        ) else None
    return facts_of(f.metric).kind


def _similar(one: Finding, other: Finding) -> bool:
    a, b = one.loss_fraction, other.loss_fraction
    return (a is None) == (b is None) and (a is None or b is None or abs(a - b) <= SIMILAR)


def _incident(findings: Sequence[Finding], members: Sequence[int]) -> Incident:
    mine = [findings[i] for i in members]
    first = mine[0]
    loss = median_or_none([f.loss_fraction for f in mine])
    costs = [f.cost.tokens_per_s for f in mine if f.cost is not None]
    return Incident(
        verdict=first.verdict,
        cause=first.cause,
        title=_title(mine, loss),
        units=tuple(f.unit for f in mine),
        findings=tuple(members),
        loss_fraction=loss,
        tokens_per_s=sum(costs) if costs else None,
    )


def _title(mine: Sequence[Finding], loss: float | None) -> str:
    first = mine[0]
    if len(mine) == 1:
        return f"{first.unit}: {first.evidence}"
    gpus = {f.gpu for f in mine}
    nodes = [f.node for f in mine]
    if first.level == "gpu" and len(gpus) == 1 and len(mine) >= SAME_SLOT:
        who = f"gpu {first.gpu} of {len(mine)} nodes ({fold_names(sorted(nodes))})"
    else:
        plural = {"gpu": "GPUs", "node": "nodes", "rack": "racks", "class": "classes"}[first.level]
        units = sorted(f.unit for f in mine)
        named = fold_names(units) if first.level == "node" else shorten(units)
        who = f"{len(mine)} {plural} ({named})"
    if loss is None:
        return f"{who}: {first.evidence}"
    metrics = dict.fromkeys(f.metric for f in mine)
    return f"{who}: {shorten(list(metrics), 2)} {-loss:.0%}"
