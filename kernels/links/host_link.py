"""Copies between host and device (PCIe or similar), with pinned and with pageable host memory.

The copy engine of the GPU can access pinned memory directly. Pageable memory is first copied by the
CPU into a pinned buffer, so its rate is that of a data loader that does not pin its memory. Copies
are measured in each direction and in both directions at once.

    calls = HostLink(direction="h2d", memory="pinned").prepare({"bytes": 2.0**28}, pool)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.operands import OperandPool

DIRECTIONS = ("h2d", "d2h", "both")
"""Host to device, device to host, or both at the same time."""

MEMORY = ("pinned", "pageable")
"""Kinds of host memory."""


@dataclass(frozen=True)
class HostLink:
    """Copy of ``bytes`` bytes between host and device, per direction."""

    direction: str
    memory: str = "pinned"
    operation: str = "host_link"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Direction of the copy and kind of host memory."""
        return {"direction": self.direction, "memory": self.memory}

    def cost(self, case: Case) -> Cost:
        """Return the bytes over the link; ``both`` counts the bytes of both directions."""
        ways = 2.0 if self.direction == "both" else 1.0
        return Cost(0.0, ways * case["bytes"], 0.0)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable; ``both`` copies on two CUDA streams at once and waits for both."""
        up_host, down_host, up, down = self._buffers(case, pool)
        wait = self.memory == "pageable"
        if self.direction == "h2d":
            return [lambda: up.copy_(up_host, non_blocking=not wait)]
        if self.direction == "d2h":
            return [lambda: down_host.copy_(down, non_blocking=not wait)]
        second = torch.cuda.Stream(pool.device)

        def both() -> None:
            current = torch.cuda.current_stream(pool.device)
            second.wait_stream(current)
            with torch.cuda.stream(second):
                down_host.copy_(down, non_blocking=True)
            up.copy_(up_host, non_blocking=True)
            current.wait_stream(second)

        return [both]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare the copied data with the original: 0 if equal, infinite otherwise."""
        up_host, down_host, up, down = self._buffers(case, pool)
        up.copy_(up_host)
        down_host.copy_(down)
        torch.cuda.synchronize(pool.device)
        same = torch.equal(up.cpu(), up_host) and torch.equal(down.cpu(), down_host)
        return 0.0 if same else float("inf")

    def _buffers(
        self, case: Case, pool: OperandPool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the host source, host target, device target and device source."""
        if pool.device.type != "cuda":
            raise UnsupportedCaseError("a CPU has no host-to-device link to measure")
        if self.direction not in DIRECTIONS or self.memory not in MEMORY:
            raise UnsupportedCaseError(
                f"unknown host link '{self.direction} {self.memory}', "
                f"known: {', '.join(DIRECTIONS)} and {', '.join(MEMORY)}"
            )
        items = int(case["bytes"])
        pinned = self.memory == "pinned"
        up_host = torch.empty(items, dtype=torch.uint8, pin_memory=pinned)
        down_host = torch.empty(items, dtype=torch.uint8, pin_memory=pinned)
        up_host.copy_((torch.arange(items) * 131 % 251).to(torch.uint8))
        down = (torch.arange(items, device=pool.device) * 137 % 241).to(torch.uint8)
        return up_host, down_host, torch.empty_like(down), down
