"""Which kernel really ran: the name that the library chose, seen by the profiler.

"cuBLAS" is hundreds of kernels, and which of them a shape gets explains most surprises in a
curve. Names are looked up in a pass of their own after everything is timed, because a profiler
slows down what it watches.
"""

import os
from collections.abc import Sequence

import torch

from groundspeed.kernels.kernel import Call

LONGEST_NAME = 200


def kernel_name(calls: Sequence[Call], device: torch.device) -> str | None:
    """Name of what took the most time in one run.

    Parameters
    ----------
    calls : sequence of callables
        Of a prepared case; the first is run twice.
    device : torch.device

    Returns
    -------
    str or None
        A kernel on a GPU, an operator on a processor; None if the profiler saw nothing.
    """
    on_gpu = device.type == "cuda"
    # The profiler's own library announces each start on stderr unless told otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activity = (
        torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    )
    calls[0]()
    with torch.profiler.profile(activities=[activity], acc_events=True) as profiler:
        calls[0]()
        if on_gpu:
            torch.cuda.synchronize(device)
    spent: dict[str, float] = {}
    for event in profiler.events() or ():
        if event.name.startswith(("Memcpy", "Memset")):
            continue
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        spent[event.name] = spent.get(event.name, 0.0) + own
    return max(spent, key=lambda name: spent[name])[:LONGEST_NAME] if spent else None
