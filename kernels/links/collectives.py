"""Collectives of torch.distributed, with test data that detect wrong results.

The collectives measure the links between devices. Sizes follow nccl-tests (see
``groundspeed.profiles.busbw``): for all-gather and reduce-scatter, ``bytes`` is the total size over
all ranks.

Every rank fills its buffers with values that depend on its rank and on the position in the buffer,
so data from the wrong rank and parts that never arrived are detected.

    buffers = make_buffers("all_reduce", items, group, torch.bfloat16, device)
    collective_call("all_reduce", buffers, group)()  # on every rank of the group

Shapes: all buffers are flat, with ``items`` elements of the data type.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from groundspeed.kernels.kernel import Call, UnsupportedCaseError

# These functions were renamed in torch 2.13; there the older names still work, with a warning.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)

ADDED_UP = ("all_reduce", "reduce_scatter")
"""Collectives that sum the values of the ranks."""

MOST_EXACT = 240
"""Ranks are taken modulo this: bfloat16 represents every integer up to 256 exactly."""

SMALL_PRIME = 7
"""Period of the values; a prime, so that shifts by a power of two change them."""


@dataclass(frozen=True)
class Group:
    """A group of ranks that communicate, as seen by one of them."""

    group: dist.ProcessGroup
    rank: int
    """Rank of this process in the group."""
    size: int
    """Number of ranks in the group."""
    members: tuple[int, ...]
    """Global ranks of the members, in the order of the group."""


@dataclass(frozen=True)
class Buffers:
    """Send and receive buffer of one rank."""

    sent: torch.Tensor
    received: torch.Tensor


def items_for(op: str, size_bytes: float, group_size: int, itemsize: int) -> int:
    """Return the total number of elements, rounded down to a multiple of the number of ranks.

    Raises
    ------
    UnsupportedCaseError
        If the size is less than one element per rank.
    """
    items = int(size_bytes) // itemsize // group_size * group_size
    if items < group_size:
        raise UnsupportedCaseError(
            f"{op} of {size_bytes:g} bytes is less than one element for each of {group_size} ranks"
        )
    return items


def value_of(op: str, rank: int, ranks: int, items: int, like: torch.Tensor) -> torch.Tensor:
    """Return the values that a rank sends: small integers, exact in every data type.

    In collectives that sum, only one rank sends a non-zero value at each position. The sum
    therefore stays small for any number of ranks, and a part that is missing, doubled or misplaced
    is detected.
    """
    places = torch.arange(items, device=like.device)
    small = places % SMALL_PRIME + 1
    if op in ADDED_UP:
        return torch.where(places % ranks == rank, small, 0).to(like.dtype)
    return (small + rank % MOST_EXACT).to(like.dtype)


def make_buffers(
    op: str, items: int, group: Group, dtype: torch.dtype, device: torch.device
) -> Buffers:
    """Allocate the buffers of a collective and fill the send buffer with this rank's values.

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
        raise UnsupportedCaseError(f"unknown collective '{op}', known: {', '.join(sizes)}")
    into, out = sizes[op]
    sent = torch.empty(into, dtype=dtype, device=device)
    received = torch.zeros(out, dtype=dtype, device=device)
    sent.copy_(value_of(op, group.rank, group.size, into, sent))
    return Buffers(sent, received)


def collective_call(op: str, buffers: Buffers, group: Group) -> Call:
    """Return the collective as a callable; all ranks of the group must call it."""
    sent, received, wire = buffers.sent, buffers.received, group.group

    def all_reduce() -> None:
        dist.all_reduce(sent, group=wire)  # in place: values grow with repetition, but are not read

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
    """Run a collective once and return whether every element has the expected value.

    All ranks of the group must call this function. Afterwards the send buffer holds this rank's
    values again.
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
