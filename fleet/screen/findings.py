"""Records of the result of a screening: one finding for each slow or unjudged unit and cause."""

from typing import Literal

from groundspeed.profiles.record import Record

Verdict = Literal["WARN", "FAIL", "INCONCLUSIVE", "FLAKY"]
Level = Literal["gpu", "node", "rack", "class"]

CAUSES = {
    "pcie_width": "the link to the host runs at half its width or less: reseat or replace",
    "host_link": "the host link is slow, but by less than half: check its generation and the host",
    "thermal": "hot, and drawing less power than others: check the cooling",
    "power_cap": "its power cap is lower than that of other units",
    "silicon": "at its power cap and slower than others: a slower chip",
    "clocks_or_software": "only vector units are slow: check clocks, driver and benchmark build",
    "memory": "only memory is slow: check clocks, remapped rows and other processes",
    "nvlink": "links between the GPUs of the node are slow",
    "network": "links between nodes are slow",
    "host": "launches are slow: check the host's clock, governor and other processes",
    "compute": "matrix units are slow; telemetry does not show the reason",
    "missing": "no result: the test did not run, failed, or its node was unavailable",
    "no_class": "too few units of its class were measured to know the usual value",
    "below_floor": "below the rate that any healthy device reaches, according to the reference",
    "unknown": "no measurement shows the reason",
}
"""Description of each value of ``cause``."""


class Cost(Record):
    """Predicted effect of a finding on a deployment."""

    ttft_fraction: float
    """[1] Increase of TTFT, as a fraction."""
    tpot_fraction: float
    """[1] Increase of TPOT, as a fraction."""
    tokens_per_s: float
    """[1/s] Output tokens/s lost by the replica that contains the unit."""


class Finding(Record):
    """One slow or unjudged unit, with one cause."""

    node: str
    gpu: int | None
    metric: str
    """The worst of ``metrics``."""
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
    """All findings of a fleet, and the number of nodes, GPUs and measurements screened."""

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
    """Number of measurements that could be compared with their class or a reference."""
