"""Collectives of torch.distributed, each with the data that prove it moved what it should.

One file for one physical limit: the link between devices. Sizes follow nccl-tests (see
``groundspeed.profiles.busbw``): ``bytes`` of all-gather and reduce-scatter is the whole.

Every rank fills its buffers with values that depend on its rank and on the place in the buffer, so
a result that came from the wrong rank, or a part that never arrived, is seen.

Shapes: all buffers are flat, of ``items`` elements of the data type.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from groundspeed.kernels.kernel import Call, UnsupportedCaseError

# Renamed in torch 2.13; the older names still work there, with a warning.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)

ADDED_UP = ("all_reduce", "reduce_scatter")

MOST_EXACT = 240
"""bfloat16 holds every whole number up to 256."""

SMALL_PRIME = 7
"""Values repeat with a period that no power of two divides."""


@dataclass(frozen=True)
class Group:
    """Ranks that communicate, seen from one of them."""

    group: dist.ProcessGroup
    rank: int
    """Rank of this process in the group."""
    size: int
    members: tuple[int, ...]
    """Global ranks, in the group's order."""


@dataclass(frozen=True)
class Buffers:
    """What one rank sends and receives."""

    sent: torch.Tensor
    received: torch.Tensor


def items_for(op: str, size_bytes: float, group_size: int, itemsize: int) -> int:
    """Elements of the whole, divisible among the ranks.

    Raises
    ------
    UnsupportedCaseError
        If the size is less than one element a rank.
    """
    items = int(size_bytes) // itemsize // group_size * group_size
    if items < group_size:
        raise UnsupportedCaseError(
            f"{op} of {size_bytes:g} bytes has no element for each of {group_size} ranks"
        )
    return items


def value_of(op: str, rank: int, ranks: int, items: int, like: torch.Tensor) -> torch.Tensor:
    """The values that a rank sends: small whole numbers, exact in every type.

    What is added up comes, at each place, from one rank alone: the sum is as small as its parts
    however many ranks there are, and a part that is missing, doubled or misplaced is seen.
    """
    places = torch.arange(items, device=like.device)
    small = places % SMALL_PRIME + 1
    if op in ADDED_UP:
        return torch.where(places % ranks == rank, small, 0).to(like.dtype)
    return (small + rank % MOST_EXACT).to(like.dtype)


def make_buffers(
    op: str, items: int, group: Group, dtype: torch.dtype, device: torch.device
) -> Buffers:
    """Buffers of a collective, filled with this rank's values.

    Raises
    ------
    UnsupportedCaseError
        If the operation is unknown.
    """
    share = items // group.size
    sizes = {
        "all_reduce": (items, items),
        "all_gather": (share, items),
        "reduce_scatter": (items, share),
        "alltoall": (items, items),
        "broadcast": (items, items),
        "sendrecv": (items, items),
    }
    if op not in sizes:
        raise UnsupportedCaseError(f"unknown collective '{op}'")
    into, out = sizes[op]
    sent = torch.empty(into, dtype=dtype, device=device)
    received = torch.zeros(out, dtype=dtype, device=device)
    sent.copy_(value_of(op, group.rank, group.size, into, sent))
    return Buffers(sent, received)


def collective_call(op: str, buffers: Buffers, group: Group) -> Call:
    """The collective as a callable; all ranks of the group must call it."""
    sent, received, wire = buffers.sent, buffers.received, group.group

    def all_reduce() -> None:
        dist.all_reduce(sent, group=wire)  # in place: repeated, values grow, none is read again

    def sendrecv() -> None:
        to = group.members[(group.rank + 1) % group.size]
        source = group.members[(group.rank - 1) % group.size]
        both = [
            dist.P2POp(dist.isend, sent, to, wire),
            dist.P2POp(dist.irecv, received, source, wire),
        ]
        for work in dist.batch_isend_irecv(both):
            work.wait()

    calls: dict[str, Callable[[], object]] = {
        "all_reduce": all_reduce,
        "all_gather": lambda: _all_gather(received, sent, group=wire),
        "reduce_scatter": lambda: _reduce_scatter(received, sent, group=wire),
        "alltoall": lambda: dist.all_to_all_single(received, sent, group=wire),
        "broadcast": lambda: dist.broadcast(sent, group.members[0], group=wire),
        "sendrecv": sendrecv,
    }
    return calls[op]


def is_right(op: str, items: int, group: Group, buffers: Buffers) -> bool:
    """Run once and compare every element with what each rank must have sent.

    Collective: all ranks of the group call it. The buffers hold this rank's values again after.
    """
    sent, received = buffers.sent, buffers.received
    received.fill_(-1)

    def of(rank: int, count: int) -> torch.Tensor:
        return value_of(op, rank, group.size, count, sent)

    sent.copy_(of(group.rank, sent.numel()))
    collective_call(op, buffers, group)()
    share = items // group.size
    ranks = range(group.size)
    if op == "all_reduce":
        got, expected = sent, torch.stack([of(r, items) for r in ranks]).sum(0)
    elif op == "broadcast":
        got, expected = sent, of(0, items)
    elif op == "all_gather":
        got, expected = received, torch.cat([of(r, share) for r in ranks])
    elif op == "sendrecv":
        got, expected = received, of((group.rank - 1) % group.size, items)
    else:
        mine = slice(group.rank * share, (group.rank + 1) * share)
        parts = [of(r, items)[mine] for r in ranks]
        got = received
        expected = torch.stack(parts).sum(0) if op == "reduce_scatter" else torch.cat(parts)
    right = bool(torch.equal(got, torch.as_tensor(expected).to(got.dtype)))
    sent.copy_(of(group.rank, sent.numel()))
    return right
