"""Records of the result of a screening: one finding for each slow or unjudged unit and cause."""

from typing import Literal

from pydantic import Field

from groundspeed.profiles.record import Record

Verdict = Literal["WARN", "FAIL", "INCONCLUSIVE", "FLAKY"]
Level = Literal["gpu", "node", "rack", "class"]

CAUSES = {
    "pcie_width": "the link to the host runs with fewer lanes or a lower generation: reseat it",
    "pcie_gen": "the link to the host runs at a lower generation: check slot, riser and BIOS",
    "host_link": "the host link is slow, but not by a number of lanes: check the host",
    "host_binding": "both directions are slow by different factors while the device is fine: the "
    "process ran on the far socket; bind it to the CPU of its GPU",
    "thermal": "hot, and slower for it: check the cooling",
    "clocks": "its clock is held low although it is not hot: unlock the clocks",
    "power_cap": "its power cap is lower than that of others: set it back",
    "clock_limit": "its clock limit differs from that of others: reset the clocks",
    "memory_clock_limit": "its memory clock limit differs from that of others: reset the clocks",
    "nvlinks": "fewer links to other GPUs are active than on others",
    "ecc": "its ECC mode differs from that of others",
    "driver": "its driver differs from that of others",
    "vbios": "its firmware differs from that of others",
    "runtime": "its CUDA, ROCm or NCCL version differs from that of others",
    "persistence": "its persistence mode differs from that of others",
    "governor": "a setting of its host differs from that of others",
    "silicon": "at its power cap and slower than others: a slower chip",
    "clocks_or_software": "vector units slow, tensor cores fine: clocks, driver or benchmark build",
    "memory": "only memory is slow: check clocks, remapped rows and other processes",
    "nvlink": "links between the GPUs of the node are slow",
    "network": "links between nodes are slow",
    "host": "launches are slow: check the host's clock, governor and other processes",
    "compute": "matrix units are slow; no reading shows the reason",
    "hardware_errors": "the device counted errors of its hardware",
    "failed_test": "a test of the vendor's diagnostic failed",
    "broken": "every GPU of the node gives zero: the test or the node is broken",
    "two_groups": "the class is two groups: two kinds of GPU, or a cause that one group shares",
    "missing": "no result: the test did not run, failed, or its node was unavailable",
    "fewer_results": "fewer results than most nodes have",
    "no_class": "too few units of its class were measured to know the usual value",
    "few_units": "in some metrics too few units were measured to know the usual value",
    "below_floor": "below what the reference, or published devices of this SKU, reach",
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
    gpu: int | str | None
    """Index of the GPU, or its name if the table has names; None above the level of a GPU."""
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

    @property
    def unit(self) -> str:
        """How the unit is called in print: ``n1 gpu 5``, ``n1 GPU-0000``, ``class H100``."""
        name = self.node
        if self.gpu is not None:
            name += f" gpu {self.gpu}" if isinstance(self.gpu, int) else f" {self.gpu}"
        return name if self.level in ("gpu", "node") else f"{self.level} {name}"


class Incident(Record):
    """Findings with one cause: one fault, however many units show it."""

    verdict: Verdict
    cause: str
    title: str
    """What happened, in one line."""
    units: tuple[str, ...]
    findings: tuple[int, ...]
    """Positions in ``Screening.findings``."""
    loss_fraction: float | None
    """[1] Median loss of its findings."""
    tokens_per_s: float | None = None
    """[1/s] Output tokens/s lost by all replicas that contain one of the units."""


class Screening(Record):
    """All findings of a fleet, and the number of nodes, GPUs and measurements screened."""

    findings: tuple[Finding, ...]
    nodes: int
    gpus: int
    metrics: int
    measurements: int
    excluded: tuple[str, ...]
    fail: int
    """Number of findings that are failures."""
    warn: int
    inconclusive: int
    judged: int = 0
    """Number of measurements that could be compared with their class or a reference."""
    incidents: tuple[Incident, ...] = ()
    notes: tuple[str, ...] = ()
    """What the reader of the verdict should know: which way was taken as better, what was not
    compared with the reference."""
    unjudged: dict[str, int] = Field(default_factory=dict)
    """Number of findings without a verdict, by cause: missing, no_class, two_groups, broken."""

    @property
    def exit_code(self) -> int:
        """0 all are fine, 1 a warning, 2 a failure, 3 somebody or nobody could be judged.

        The codes are those of Nagios. A node without a verdict is not a healthy one, so the code is
        0 only if every node was judged; fewer results than others have is not enough for a 3.
        """
        if self.fail or self.warn:
            return 2 if self.fail else 1
        open_ = [f for f in self.findings if f.verdict == "INCONCLUSIVE"
                 and (f.cause in NEVER_FINE or f.loss_fraction is not None)]  # fmt: skip
        return 3 if open_ or not self.judged else 0


NEVER_FINE = ("missing", "no_class", "broken", "two_groups")
"""Causes for which a fleet without other findings is not called healthy."""
