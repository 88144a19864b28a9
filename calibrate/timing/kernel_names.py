"""Find out with the PyTorch profiler which kernel a library ran for a case.

A library such as cuBLAS contains hundreds of kernels, and its choice for a shape explains most
jumps in a curve. Kernel names are looked up in a separate pass after all timing, because the
profiler slows down the code that it observes.

    name = kernel_name(kernel.prepare(case, pool), pool.device)
"""

import os
from collections.abc import Sequence

import torch

from groundspeed.kernels.kernel import Call

LONGEST_NAME = 200


def kernel_name(calls: Sequence[Call], device: torch.device) -> str | None:
    """Return the name of the kernel that took the most time in one run.

    Parameters
    ----------
    calls : sequence of callables
        Calls of a prepared case. Only the first is used, and it runs twice.
    device : torch.device
        Device on which the case is prepared.

    Returns
    -------
    str or None
        Name of a kernel on a GPU or of a PyTorch operator on a CPU, cut to 200 characters. None if
        the profiler recorded nothing.
    """
    on_gpu = device.type == "cuda"
    # By default Kineto, the profiler's library, prints a line to stderr at each start.
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
