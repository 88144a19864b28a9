"""All-reduce over symmetric memory (torch), which engines use for small messages.

Every GPU of a node can address symmetric memory. An NCCL collective starts rings and proxies, which
takes ten microseconds or more; here a kernel reads the buffers of the other GPUs directly. There
are three methods:

- *one shot*: every GPU reads all buffers; lowest latency.
- *two shot*: every GPU sums its share, then all gather the shares; half the traffic.
- *multimem*: the NVLink switch sums.

The fastest method depends on the size, so all that torch and the GPUs support are measured.

    buffers = make_symmetric(items, group, torch.bfloat16, device)
    symmetric_call("one_shot", buffers, group)()  # on every rank of the group

Shapes: flat buffers of ``items`` elements, as in :mod:`groundspeed.kernels.links.collectives`.
"""

from collections.abc import Callable

import torch

from groundspeed.kernels.kernel import Call, UnsupportedCaseError, chunks
from groundspeed.kernels.links.collectives import Buffers, Group, sum_of_all, write_values

METHODS = ("one_shot", "two_shot", "multimem")

TRIAL_ITEMS = 4096
"""Number of elements of the all-reduce that tests whether a method works."""


def make_symmetric(items: int, group: Group, dtype: torch.dtype, device: torch.device) -> Buffers:
    """Allocate a buffer that all ranks of a group can address, filled with this rank's values.

    All ranks of the group must call this function.

    Raises
    ------
    UnsupportedCaseError
        If the installed torch has no symmetric memory.
    """
    try:
        import torch.distributed._symmetric_memory as symmetric
    except ImportError as error:
        raise UnsupportedCaseError("the installed torch has no symmetric memory") from error
    shared = symmetric.empty(items, dtype=dtype, device=device)
    symmetric.rendezvous(shared, group.group)
    write_values("all_reduce", group.rank, group.size, shared)
    return Buffers(shared, shared)


def symmetric_call(method: str, buffers: Buffers, group: Group) -> Call:
    """Return the all-reduce as a callable; all ranks of the group must call it.

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
        raise UnsupportedCaseError(f"unknown all-reduce '{method}', known: {', '.join(METHODS)}")
    return calls[method]


def symmetric_is_right(
    method: str, items: int, group: Group, buffers: Buffers, wait: Callable[[], object]
) -> bool:
    """Run an all-reduce once and return whether every element is the sum over the ranks.

    All ranks of the group must call this function. Afterwards the buffer holds this rank's values
    again. ``wait`` waits for the device with a time limit.
    """
    shared = buffers.sent

    write_values("all_reduce", group.rank, group.size, shared)
    wait()
    result = symmetric_call(method, buffers, group)()
    wait()
    got = result if isinstance(result, torch.Tensor) else shared
    right = all(
        torch.equal(got[part], sum_of_all(part.stop - part.start, got, start=part.start))
        for part in chunks(items)
    )
    write_values("all_reduce", group.rank, group.size, shared)
    return right


def offered(
    group: Group, dtype: torch.dtype, device: torch.device, wait: Callable[[], object]
) -> tuple[str, ...]:
    """Return the methods that give the correct result on this rank, tested on a small buffer.

    All ranks of the group must call this function. Ranks may get different results: the caller
    must agree with the other ranks on the methods to use.
    """
    if device.type != "cuda":
        return ()
    methods = []
    for method in METHODS:
        try:
            buffers = make_symmetric(TRIAL_ITEMS, group, dtype, device)
            if symmetric_is_right(method, TRIAL_ITEMS, group, buffers, wait):
                methods.append(method)
        except (UnsupportedCaseError, RuntimeError, AttributeError):
            continue  # the driver, switch or torch does not support this method: try the others
    return tuple(methods)
