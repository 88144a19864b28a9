"""Launch overhead: the time to start an operation that does almost no work.

There are five variants; a CPU has only ``eager``:

- ``eager``: host time of one call. On a CPU this is the complete operation; on a GPU it is the time
  to enqueue it, which a model without CUDA graphs spends on every small operation.
- ``queued``: device time from one tiny kernel to the next while the queue is full.
- ``graph``: the same inside a replayed CUDA graph.
- ``synchronize``: host time of synchronizing with an idle device.
- ``round-trip``: host time of launching one tiny kernel and waiting for it. This is the shortest
  time between two decisions of a host that must read each result.

    calls = Launch(op="round-trip").prepare({}, pool)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.capture import capture
from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError, deviation
from groundspeed.kernels.operands import OperandPool

GRAPH_CALLS = 256
"""Number of tiny kernels in one graph: enough to make the launch of the graph negligible."""


@dataclass(frozen=True)
class Launch:
    """Launch of a kernel that adds one to a single element."""

    op: str = "eager"
    operation: str = "launch"
    backend: str = "torch"

    @property
    def runs_per_call(self) -> int:
        """Number of kernels in one call."""
        return GRAPH_CALLS if self.op == "graph" else 1

    @property
    def config_key(self) -> dict[str, str]:
        """Variant of the launch, e.g. ``eager``."""
        return {"op": self.op}

    def cost(self, case: Case) -> Cost:
        """Return zero FLOPs and bytes, because the operation does almost no work."""
        return Cost(0.0, 0.0, 0.0)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable; for ``graph`` it replays ``GRAPH_CALLS`` kernels."""
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
            x.add_(1.0)
            torch.cuda.synchronize(pool.device)

            def record() -> None:
                for _ in range(GRAPH_CALLS):
                    x.add_(1.0)

            graph = capture(record)

            def replay() -> torch.Tensor:
                graph.replay()
                return x  # the graph stores only the address of x: keep x alive

            return [replay]
        raise UnsupportedCaseError(f"launch '{self.op}' is not available on {pool.device.type}")

    def check(self, case: Case, pool: OperandPool) -> float:
        """Check that adding one three times gives three."""
        x = torch.zeros(1, device=pool.device)
        for _ in range(3):
            x.add_(1.0)
        return deviation(x, torch.full((1,), 3.0, device=pool.device), 1.0, x.dtype)
