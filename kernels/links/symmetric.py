"""All-reduce over memory that every GPU of a node can address: what engines use for small messages.

A collective of the library starts rings and proxies, which costs ten microseconds and more; here a
kernel reads the other GPUs' buffers itself. Three ways: *one shot* (everybody reads everything,
least latency), *two shot* (each adds up its share, then all gather, half the traffic) and
*multimem* (the switch adds up). Which one is fastest depends on the size, so all are measured where
torch and the GPUs offer them.

Shapes: flat buffers of ``items`` elements, as in :mod:`groundspeed.kernels.links.collectives`.
"""

from collections.abc import Callable

import torch

from groundspeed.kernels.kernel import Call, UnsupportedCaseError
from groundspeed.kernels.links.collectives import Buffers, Group, value_of

METHODS = ("one_shot", "two_shot", "multimem")

TRIAL_ITEMS = 4096


def make_symmetric(items: int, group: Group, dtype: torch.dtype, device: torch.device) -> Buffers:
    """A buffer that all ranks of a group can address, filled with this rank's values.

    Collective: all ranks of the group call it.

    Raises
    ------
    UnsupportedCaseError
        If this torch has no symmetric memory.
    """
    try:
        import torch.distributed._symmetric_memory as symmetric
    except ImportError as error:
        raise UnsupportedCaseError("this torch has no symmetric memory") from error
    shared = symmetric.empty(items, dtype=dtype, device=device)
    symmetric.rendezvous(shared, group.group)
    shared.copy_(value_of("all_reduce", group.rank, group.size, items, shared))
    return Buffers(shared, shared)


def symmetric_call(method: str, buffers: Buffers, group: Group) -> Call:
    """The all-reduce as a callable; all ranks of the group must call it.

    Raises
    ------
    UnsupportedCaseError
        If the method is unknown.
    """
    name = group.group.group_name
    shared = buffers.sent
    operations = torch.ops.symm_mem
    calls: dict[str, Callable[[], object]] = {
        "one_shot": lambda: operations.one_shot_all_reduce(shared, "sum", name),
        "two_shot": lambda: operations.two_shot_all_reduce_(shared, "sum", name),
        "multimem": lambda: operations.multimem_all_reduce_(shared, "sum", name),
    }
    if method not in calls:
        raise UnsupportedCaseError(f"unknown all-reduce '{method}'")
    return calls[method]


def symmetric_is_right(method: str, items: int, group: Group, buffers: Buffers) -> bool:
    """Run once and compare every element with the sum of what the ranks sent.

    Collective: all ranks of the group call it. The buffer holds this rank's values again after.
    """
    shared = buffers.sent

    def of(rank: int) -> torch.Tensor:
        return value_of("all_reduce", rank, group.size, items, shared)

    shared.copy_(of(group.rank))
    torch.cuda.synchronize(shared.device)
    result = symmetric_call(method, buffers, group)()
    got = result if isinstance(result, torch.Tensor) else shared
    expected = of(0).clone()
    for rank in range(1, group.size):
        expected += of(rank)
    right = bool(torch.equal(got, expected))
    shared.copy_(of(group.rank))
    return right


def offered(group: Group, dtype: torch.dtype, device: torch.device) -> tuple[str, ...]:
    """Methods that work and are right on this rank; tried on a small buffer.

    Collective: all ranks of the group call it, and agree on the result among themselves.
    """
    if device.type != "cuda":
        return ()
    methods = []
    for method in METHODS:
        try:
            buffers = make_symmetric(TRIAL_ITEMS, group, dtype, device)
            if symmetric_is_right(method, TRIAL_ITEMS, group, buffers):
                methods.append(method)
        except (UnsupportedCaseError, RuntimeError, AttributeError):
            continue  # this driver, switch or torch lacks it: the others are tried
    return tuple(methods)
