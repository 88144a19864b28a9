"""Measure every pair of devices: one way, both ways, and all pairs of a round at the same time.

A collective is as fast as its slowest link but does not show which link that is. The matrix of
pairs does. Pairs are measured in rounds of disjoint pairs, so that "all at once" loads every device
equally.

    pairs = measure_p2p(run)
"""

import math
import statistics
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

from groundspeed.calibrate.links.collective_timing import LinkRun
from groundspeed.calibrate.links.link_cases import link_point
from groundspeed.kernels.kernel import Call
from groundspeed.profiles.schema import Point

MATRIX_RANKS = 16
"""Largest number of ranks for which each pair is measured alone. With more ranks, only all pairs of
a round are measured at once."""

SAMPLES = 5
OPENING = 2
"""Number of first transfers of a pair that are discarded, because they open the connection."""

PROBES = 3
"""Transfers of which the median decides how many follow each other in a sample."""

SAMPLE_S = 5e-3
"""[s] Shortest sample on GPUs, long enough that the skew between two ranks does not matter."""

MOST_TRANSFERS = 200
"""Most transfers in one sample."""


def measure_p2p(run: LinkRun) -> list[tuple[str, Point]]:
    """Time every pair of ranks: one way, both ways, and all pairs of a round at once.

    Returns
    -------
    list of (str, Point)
        Direction (``one-way``, ``both-ways``, ``all-at-once``) and measurement of each pair; the
        case of a point contains the ranks. Empty on all ranks but rank 0.
    """
    points: list[tuple[str, Point]] = []
    size = run.settings.pair_bytes
    buffers = [torch.ones(size // run.dtype.itemsize, dtype=run.dtype, device=run.device)]
    buffers.append(torch.empty_like(buffers[0]))
    for direction in ("one-way", "both-ways", "all-at-once"):
        if direction != "all-at-once" and run.world > MATRIX_RANKS:
            continue
        for turn in rounds(run.world):
            together = [turn] if direction == "all-at-once" else [[pair] for pair in turn]
            for pairs in together:
                points += _time_pairs(run, direction, pairs, buffers)
    return points if run.rank == 0 else []


def rounds(ranks: int) -> list[list[tuple[int, int]]]:
    """Every pair of ranks once, in rounds of disjoint pairs (the circle method).

    >>> rounds(4)
    [[(0, 3), (1, 2)], [(0, 2), (3, 1)], [(0, 1), (2, 3)]]
    """
    seats = list(range(ranks)) + ([-1] if ranks % 2 else [])
    schedule = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        pairs = zip(seats[:half], reversed(seats[half:]), strict=True)
        schedule.append([(a, b) for a, b in pairs if -1 not in (a, b)])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return schedule


def _time_pairs(
    run: LinkRun, direction: str, pairs: list[tuple[int, int]], buffers: list[torch.Tensor]
) -> list[tuple[str, Point]]:
    mine = next((p for p in pairs if run.rank in p), None)
    names = ", ".join(f"{a}-{b}" for a, b in pairs)
    run.rendezvous.heartbeat(
        f"a transfer of {run.settings.pair_bytes} bytes between ranks {names} ({direction})"
    )
    transfer = partial(_transfer, mine, run.rank, direction, buffers)
    probes = _samples(run, mine, transfer, OPENING + PROBES, 1)[OPENING:]
    slowest: list[float] = [0.0] * run.world
    dist.all_gather_object(slowest, statistics.median(probes or [0.0]), group=run.control)
    sample_s = SAMPLE_S if run.device.type == "cuda" else run.settings.sample_s
    count = max(1, min(MOST_TRANSFERS, math.ceil(sample_s / max(*slowest, 1e-9))))
    samples = _samples(run, mine, transfer, SAMPLES, count)
    gathered: list[list[float]] = [[] for _ in range(run.world)]
    dist.all_gather_object(gathered, samples, group=run.control)
    ways = 1.0 if direction == "one-way" else 2.0
    moved = ways * run.settings.pair_bytes
    return [
        (
            direction,
            link_point(
                {"from": float(a), "to": float(b), "bytes": float(run.settings.pair_bytes)},
                np.maximum(gathered[a], gathered[b]),
                moved,
                valid=True,
            ),
        )
        for a, b in pairs
    ]


def _transfer(
    mine: tuple[int, int] | None, rank: int, direction: str, buffers: list[torch.Tensor]
) -> None:
    """Send and receive once; ranks outside the pairs do nothing."""
    if mine is None:
        return
    sent, received = buffers
    other = mine[1] if rank == mine[0] else mine[0]
    one_way = direction == "one-way"
    transfers = []
    if not one_way or rank == mine[0]:
        transfers.append(dist.P2POp(dist.isend, sent, other))
    if not one_way or rank == mine[1]:
        transfers.append(dist.P2POp(dist.irecv, received, other))
    for work in dist.batch_isend_irecv(transfers):
        work.wait()


def _samples(
    run: LinkRun, mine: tuple[int, int] | None, transfer: Call, samples: int, count: int
) -> list[float]:
    """[s] Time of one transfer in each sample; empty on ranks outside the pairs."""
    times = [run.timed(transfer, count, None) for _ in range(samples)]
    return times if mine is not None else []
