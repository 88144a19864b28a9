"""What a screening says: one record for each unit and cause that is not fine."""

from typing import Literal

from groundspeed.profiles.record import Record

Verdict = Literal["WARN", "FAIL", "INCONCLUSIVE", "FLAKY"]
Level = Literal["gpu", "node", "rack", "class"]

CAUSES = {
    "pcie_width": "the link to the host runs at half its width or less: reseat or replace",
    "host_link": "the link to the host is slow, but not by half: its generation, or the host",
    "thermal": "hot, and drawing less power than others: check the cooling",
    "power_cap": "its power cap is lower than others'",
    "silicon": "at its power cap and slower than others: a slower chip",
    "clocks_or_software": "vector units slow, tensor cores fine: clocks, driver or benchmark build",
    "memory": "memory alone is slow: clocks, remapped rows, or another process",
    "nvlink": "links between the GPUs of the node are slow",
    "network": "links between nodes are slow",
    "host": "launches are slow: the host's clock, a governor, or another process",
    "compute": "matrix units slow; telemetry does not show the reason",
    "missing": "no result: the test did not run, failed, or its node was away",
    "no_class": "too few of its kind were measured to say what is usual",
    "below_floor": "below what the reference says any healthy device reaches",
    "unknown": "nothing that was measured shows the reason",
}
"""Every value of ``cause``."""


class Cost(Record):
    """What a finding does to a deployment."""

    ttft_fraction: float
    tpot_fraction: float
    tokens_per_s: float
    """Lost by the replica that the unit is part of."""


class Finding(Record):
    """One unit that is not fine, for one reason."""

    node: str
    gpu: int | None
    metric: str
    """The worst of them."""
    metrics: tuple[str, ...]
    verdict: Verdict
    value: float | None
    expected: float | None
    loss_fraction: float | None
    z: float | None
    level: Level
    cause: str
    evidence: str
    cost: Cost | None = None


class Screening(Record):
    """All findings of a fleet, and what they were found in."""

    findings: tuple[Finding, ...]
    nodes: int
    gpus: int
    metrics: int
    measurements: int
    excluded: tuple[str, ...]
    fail: int
    warn: int
    inconclusive: int
    judged: int = 0
    """Measurements that could be compared with something."""
