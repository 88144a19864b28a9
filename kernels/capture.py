"""Capture launches into a CUDA graph, and leave the stream as it was, also if that fails.

graph = capture(lambda: y.copy_(x))
graph.replay()
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE


def capture(
    record: Callable[[], object], pool: "_POOL_HANDLE | None" = None
) -> torch.cuda.CUDAGraph:
    """Capture the launches of a callable into a graph.

    Parameters
    ----------
    record : callable
        Launches the work to capture; it must not wait for the device.
    pool : optional
        Memory pool of another graph, shared with this one. Default: a pool of its own.

    Raises
    ------
    RuntimeError
        If one of the launches cannot be captured. Torch then leaves its side stream the current
        one, on which nothing can run any more; this function returns to the stream of the caller.
    """
    before = torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool):
            record()
    finally:
        torch.cuda.set_stream(before)
    return graph
