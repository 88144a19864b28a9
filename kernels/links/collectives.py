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

from groundspeed.kernels.kernel import Call, UnsupportedCaseError, chunks

# These functions were renamed in torch 2.13; there the older names still work, with a warning.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)

ADDED_UP = ("all_reduce", "reduce_scatter")
"""Collectives that sum the values of the ranks."""

MOST_EXACT = 240
"""Ranks are taken modulo this: bfloat16 represents every integer up to 256 exactly."""

SMALL_PRIME = 7
"""Period of the values; a prime, so that shifts by a power of two change them."""


def nothing() -> None:
    """Do nothing: a CPU needs no wait."""


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


def value_of(
    op: str, rank: int, ranks: int, items: int, like: torch.Tensor, *, start: int = 0
) -> torch.Tensor:
    """Return the values that a rank sends: small integers, exact in every data type.

    In collectives that sum, only one rank sends a non-zero value at each position. The sum
    therefore stays small for any number of ranks, and a part that is missing, doubled or misplaced
    is detected. ``start`` is the position of the first of the ``items`` values.
    """
    places = torch.arange(start, start + items, device=like.device)
    small = places % SMALL_PRIME + 1
    if op in ADDED_UP:
        return torch.where(places % ranks == rank, small, 0).to(like.dtype)
    return (small + rank % MOST_EXACT).to(like.dtype)


def write_values(op: str, rank: int, ranks: int, out: torch.Tensor) -> None:
    """Fill a buffer with the values that a rank sends, a part at a time."""
    for part in chunks(out.numel()):
        size = part.stop - part.start
        out[part] = value_of(op, rank, ranks, size, out, start=part.start)


def sum_of_all(items: int, like: torch.Tensor, *, start: int = 0) -> torch.Tensor:
    """Return the sum over all ranks of what they send.

    One rank contributes to each position, so the sum is known without the values of each rank:
    computing those would take memory proportional to the number of ranks.
    """
    places = torch.arange(start, start + items, device=like.device)
    return (places % SMALL_PRIME + 1).to(like.dtype)


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
    write_values(op, group.rank, group.size, sent)
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


def is_right(
    op: str, items: int, group: Group, buffers: Buffers, wait: Callable[[], object] = nothing
) -> bool:
    """Run a collective once and return whether every element has the expected value.

    ``wait`` waits for the device with a time limit; reading a result back would wait for ever for a
    rank that never comes.

    All ranks of the group must call this function. Afterwards the send buffer holds this rank's
    values again.
    """
    sent, received = buffers.sent, buffers.received
    received.fill_(-1)
    write_values(op, group.rank, group.size, sent)
    collective_call(op, buffers, group)()
    wait()
    got = sent if op in ("all_reduce", "broadcast") else received
    right = all(
        torch.equal(got[part], expected_in(op, items, group, got, part))
        for part in chunks(got.numel())
    )
    write_values(op, group.rank, group.size, sent)
    return right


def expected_in(op: str, items: int, group: Group, got: torch.Tensor, part: slice) -> torch.Tensor:
    """Return what one part of a rank's result must hold."""
    start, size = part.start, part.stop - part.start
    share = items // group.size
    if op == "all_reduce":
        return sum_of_all(size, got, start=start)
    if op == "reduce_scatter":
        return sum_of_all(size, got, start=group.rank * share + start)
    if op == "broadcast":
        return value_of(op, 0, group.size, size, got, start=start)
    if op == "sendrecv":
        return value_of(op, (group.rank - 1) % group.size, group.size, size, got, start=start)
    # Every position holds what the rank that owns this share has sent: the share as a whole
    # (all-gather), or the part of its buffer that is for this rank (all-to-all).
    places = torch.arange(start, start + size, device=got.device)
    owner = torch.div(places, share, rounding_mode="floor")
    within = places % share + (group.rank * share if op == "alltoall" else 0)
    return (within % SMALL_PRIME + 1 + owner % MOST_EXACT).to(got.dtype)
