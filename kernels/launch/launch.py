"""What it costs to start an operation that does nothing.

``eager`` is what one call costs the host: on a processor the finished operation, on a GPU putting
it into the queue, as a model without graphs pays it for every small operation. ``queued`` is what
a device needs from one tiny kernel to the next when the queue is full; ``graph`` the same inside
a replayed graph. ``synchronize`` is what asking an idle device whether it is done costs the host,
``round-trip`` launching one tiny kernel and waiting for it: the least time between two decisions
of a host that must look at each result. A processor has only the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError, deviation
from groundspeed.kernels.operands import OperandPool

GRAPH_CALLS = 256
"""Tiny kernels in one graph: enough that its own launch vanishes."""


@dataclass(frozen=True)
class Launch:
    """Add one to one element."""

    op: str = "eager"
    operation: str = "launch"
    backend: str = "torch"

    @property
    def runs_per_call(self) -> int:
        """Kernels in one call."""
        return GRAPH_CALLS if self.op == "graph" else 1

    @property
    def config_key(self) -> dict[str, str]:
        """How it is launched."""
        return {"op": self.op}

    def cost(self, case: Case) -> Cost:
        """None: that is the point."""
        return Cost(0.0, 0.0, 0.0)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One callable; ``graph`` is a replay of ``GRAPH_CALLS`` kernels."""
        x = torch.zeros(1, device=pool.device)
        if self.op in ("eager", "queued"):
            return [lambda: x.add_(1.0)]
        if self.op == "synchronize" and pool.device.type == "cuda":
            return [lambda: torch.cuda.synchronize(pool.device)]
        if self.op == "round-trip" and pool.device.type == "cuda":

            def there_and_back() -> None:
                x.add_(1.0)
                torch.cuda.synchronize(pool.device)

            return [there_and_back]
        if self.op == "graph" and pool.device.type == "cuda":
            graph = torch.cuda.CUDAGraph()
            x.add_(1.0)
            torch.cuda.synchronize(pool.device)
            with torch.cuda.graph(graph):
                for _ in range(GRAPH_CALLS):
                    x.add_(1.0)

            def replay() -> torch.Tensor:
                graph.replay()
                return x  # the graph holds only its address: keep the memory alive

            return [replay]
        raise UnsupportedCaseError(f"launch '{self.op}' does not exist on {pool.device.type}")

    def check(self, case: Case, pool: OperandPool) -> float:
        """Three additions make three."""
        x = torch.zeros(1, device=pool.device)
        for _ in range(3):
            x.add_(1.0)
        return deviation(x, torch.full((1,), 3.0, device=pool.device), 1.0, x.dtype)
