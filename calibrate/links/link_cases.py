"""The cases of a link measurement: message sizes, groups of ranks, and the points that they give.

[s // 1024 for s in message_sizes(1024, 2**18)]    # [1, 4, 16, 64, 128, 256]
"""

from dataclasses import dataclass

import torch.distributed as dist

from groundspeed.calibrate.timing.statistics import Samples, summarize
from groundspeed.kernels.links.collectives import Group
from groundspeed.profiles.schema import Point


@dataclass(frozen=True)
class Settings:
    """Message sizes, number of samples and time limits of a run."""

    sizes: tuple[int, ...]
    """[bytes] Message sizes of collectives."""
    pair_bytes: int
    """[bytes] Message size of transfers between two ranks."""
    passes: int
    """Number of passes over all cases, so that a short disturbance does not distort one curve."""
    samples: int
    """Maximum number of samples of each case in each pass."""
    sample_s: float
    """[s] Minimum duration of a sample; a short operation is repeated within it."""
    budget_s: float
    """[s] Time for one case in one pass; a slow case gets fewer samples."""


def pass_key(pass_index: int, key: str) -> str:
    """Return the journal key of the samples of a case in one pass."""
    return f"pass {pass_index + 1}: {key}"


def message_sizes(smallest: int, largest: int) -> tuple[int, ...]:
    """Sizes that grow by a factor of four, or two where protocols change (64 KiB to 16 MiB).

    >>> [s // 1024 for s in message_sizes(1024, 2**18)]
    [1, 4, 16, 64, 128, 256]
    """
    sizes, size = [], smallest
    while size <= largest:
        sizes.append(size)
        size *= 2 if 2**16 <= size < 2**24 else 4
    return tuple(sizes)


GPU_SETTINGS = Settings(message_sizes(2**10, 2**30), 2**26, 2, 12, 2e-3, 0.5)
CPU_SETTINGS = Settings(message_sizes(2**10, 2**22), 2**20, 3, 5, 4e-4, 0.06)


@dataclass(frozen=True)
class LinkCase:
    """One message size of one operation in one group of ranks."""

    key: str
    op: str
    mode: str
    """How the operation runs: ``eager``, ``graph``, or a symmetric-memory method (inside a
    graph)."""
    group: Group | None
    """Group of ranks; None on ranks outside it."""
    host_group: dist.ProcessGroup | None
    """The same ranks, connected through their hosts."""
    world_size: int
    hosts: int
    bytes: int


@dataclass(frozen=True)
class LinkResult:
    """Measured cases and points of a run, with remarks about disturbances."""

    cases: list[LinkCase]
    points: dict[str, Point]
    """Measured points by the key of their case. Filled on rank 0 only."""
    remarks: list[str]
    """Slow ranks, wrong data and cases that could not be measured."""


def link_point(case: dict[str, float], samples: Samples, moved: float, *, valid: bool) -> Point:
    """Summarize the samples of one case, which moves ``moved`` bytes, as a measured point."""
    summary = summarize(samples)
    return Point(
        case=case,
        time_s=summary.median_s,
        q10_s=summary.q10_s,
        q90_s=summary.q90_s,
        low_s=summary.low_s,
        high_s=summary.high_s,
        samples=summary.samples,
        flops=0.0,
        bytes=float(moved),
        stop="fixed-count",
        valid=valid,
    )
