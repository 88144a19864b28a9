"""Judge the counters of hardware errors: ECC, remapped rows, XIDs, and replays of links.

A counter is judged by itself and not against its class: one uncorrectable error is a fault even if
every GPU has one. The limits are those that vendors and operators publish; each names its source.

    judge_counter("ecc_uncorrected_volatile", 1.0).tier
"""

import re
from dataclasses import dataclass
from typing import Literal

Judged = Literal["FINE", "WARN", "FAIL"]

NVIDIA_MEMORY = (
    "NVIDIA, GPU Memory Error Management: an uncorrectable error makes a row remapping pending, a "
    "reset applies it, and a failed remapping is a reason to return the GPU"
)
NVIDIA_RETIREMENT = (
    "NVIDIA, Dynamic Page Retirement: at most 64 pages can be retired; a pending one needs a reset"
)
GCM = "facebookresearch/gcm, check-nvidia-smi and check-dcgmi: the default limits of its checks"
DCGM = "NVIDIA DCGM, Diagnostics: a failed test of the hardware is a reason to take the GPU out"
XID = (
    "NVIDIA, XID Errors: 48, 64, 74, 79, 92, 94, 95, 119, 120 and 140 are faults of the hardware "
    "or its firmware, 13, 31, 43 and 45 those of a program"
)
HARDWARE_XIDS = frozenset((48, 64, 74, 79, 92, 94, 95, 119, 120, 140))
PROGRAM_XIDS = frozenset((13, 31, 43, 45))


@dataclass(frozen=True)
class Counter:
    """One kind of counter, and the values from which it counts."""

    name: str
    pattern: str
    warn_at: float
    fail_at: float
    sentence: str
    source: str


COUNTERS: tuple[Counter, ...] = (
    Counter("dcgm_deployment", r"^dcgm_deployment_\w*failed$", 1, float("inf"),
            "a test of the driver, its libraries or settings failed", DCGM),
    Counter("dcgm_test", r"^dcgm_\w*failed$", 1, 1, "a test of the hardware failed", DCGM),
    Counter("row_remap_failure", r"row_?remap\w*fail|remap\w*failure", 1, 1,
            "a row of memory could not be remapped: the GPU must be replaced", NVIDIA_MEMORY),
    Counter("row_remap_pending", r"row_?remap\w*pend|remap\w*pending", 1, float("inf"),
            "a remapping of memory rows waits for a reset of the GPU", NVIDIA_MEMORY),
    Counter("rows_remapped", r"remap\w*_?unc\w*|unc\w*_remap\w*|row_?remap\w*unc", 1, float("inf"),
            "rows of memory were remapped after uncorrectable errors", NVIDIA_MEMORY),
    Counter("rows_remapped_corrected", r"remap", float("inf"), float("inf"),
            "rows of memory were remapped", NVIDIA_MEMORY),
    Counter("retired_pages_pending", r"(retired|page)\w*pending", 1, float("inf"),
            "retired pages wait for a reset of the GPU", NVIDIA_RETIREMENT),
    Counter("retired_pages", r"retired_?pages?|page_?retire", float("inf"), 64,
            "all pages that can be retired are", NVIDIA_RETIREMENT),
    Counter("ecc_xid_errors", r"ecc_xid_errors|hardware_errors", 1, 1,
            "the driver reported errors of the hardware during the check", NVIDIA_MEMORY),
    Counter("ecc_uncorrected", r"(ecc\w*unc(orr\w*)?|unc(orr\w*)?_?ecc|dbe|double_?bit)", 1, 1,
            "uncorrectable errors of memory: data were lost", NVIDIA_MEMORY),
    Counter("ecc_corrected", r"(ecc\w*corr|corr\w*_?ecc|sbe|single_?bit)", 5e7, float("inf"),
            "very many corrected errors of memory", GCM),
    Counter("xid", r"xid", 1, 1, "the driver reported an error", XID),
    Counter("nvlink_errors", r"(nvlink|xgmi)\w*(replay|recovery|crc|error)", 1, float("inf"),
            "errors on the links between GPUs", GCM),
    Counter("pcie_replay", r"pcie?\w*(replay|nak|error)", float("inf"), float("inf"),
            "replays on the link to the host", GCM),
    Counter("errors", r"(^|_)(gemm_|compute_)?(errors?|miscompares?|wrong)(_count)?$", 1, 1,
            "the device computed wrong results", "gpu-burn: one wrong result is a faulty GPU"),
)  # fmt: skip
"""Counters by name; the first pattern that is found in a name is used."""

REPLAYS_OVER_CLASS = 10.0
"""Factor over the most of its class from which replays on the PCIe link count; they have no limit
that anybody published, and a few are normal."""

LEAST_REPLAYS = 100.0
"""Number of replays below which none counts."""


def counter_of(name: str) -> Counter | None:
    """Return the counter that a metric is; None if it is none.

    >>> counter_of("row_remap_pending").name, counter_of("ecc_mode")
    ('row_remap_pending', None)
    """
    plain = name.strip().lower().replace(" ", "_").replace(".", "_").replace("-", "_")
    return next((c for c in COUNTERS if re.search(c.pattern, plain)), None)


@dataclass(frozen=True)
class CounterVerdict:
    """Verdict on one counter."""

    tier: Judged
    sentence: str = ""


def judge_counter(counter: Counter, value: float, usual: float = 0.0) -> CounterVerdict:
    """Return the verdict on the value of a counter.

    Parameters
    ----------
    counter : Counter
    value : float
        Number of events; for an XID its code, or a number of them.
    usual : float
        Median of the class, used for replays on the PCIe link.
    """
    if counter.name == "xid":
        return _xid(int(value))
    if counter.name == "pcie_replay":
        many = value >= LEAST_REPLAYS and value > REPLAYS_OVER_CLASS * max(usual, 1.0)
        return CounterVerdict(
            "WARN" if many else "FINE", f"{value:,.0f} {counter.sentence}, others {usual:,.0f}"
        )
    tier: Judged = (
        "FAIL" if value >= counter.fail_at else "WARN" if value >= counter.warn_at else "FINE"
    )
    return CounterVerdict(tier, f"{counter.sentence} ({value:,.0f})")


def _xid(code: int) -> CounterVerdict:
    if code == 0 or code in PROGRAM_XIDS:
        return CounterVerdict("FINE", f"XID {code}" if code else "")
    if code in HARDWARE_XIDS:
        return CounterVerdict("FAIL", f"XID {code}: a fault of the hardware or its firmware")
    return CounterVerdict("WARN", f"XID {code} (a code, or a number of errors): see the log")
