"""Copies between host and device (PCIe or similar), with pinned and with pageable host memory.

The copy engine of the GPU can access pinned memory directly. Pageable memory is first copied by the
CPU into a pinned buffer, so its rate is that of a data loader that does not pin its memory. Copies
are measured in each direction and in both directions at once.

    calls = HostLink(direction="h2d", memory="pinned").prepare({"bytes": 2.0**28}, pool)
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.operands import OperandPool

DIRECTIONS = ("h2d", "d2h", "both")
"""Host to device, device to host, or both at the same time."""

MEMORY = ("pinned", "pageable")
"""Kinds of host memory."""


PATTERN_BYTES = 1_048_573
"""[bytes] Length of the random pattern that buffers repeat. It is a prime, so no two parts of a
buffer that a copy could confuse are equal."""


def fill(buffer: torch.Tensor, *, seed: int) -> None:
    """Fill a buffer with a repeated random pattern, at the speed of a copy."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randint(0, 256, (PATTERN_BYTES,), dtype=torch.uint8, generator=generator)
    pattern = pattern.to(buffer.device)
    for start in range(0, buffer.numel(), PATTERN_BYTES):
        part = buffer[start : start + PATTERN_BYTES]
        part.copy_(pattern[: part.numel()])


def near_cores(device: torch.device) -> set[int]:
    """Return the cores of the NUMA node to which a GPU is connected; empty if that is not known."""
    properties = torch.cuda.get_device_properties(device)
    try:
        domain, bus, slot = (
            int(getattr(properties, f"pci_{name}_id")) for name in ("domain", "bus", "device")
        )
        address = f"{domain:04x}:{bus:02x}:{slot:02x}.0"
        listing = Path(f"/sys/bus/pci/devices/{address}/local_cpulist").read_text(encoding="ascii")
    except (AttributeError, OSError):
        return set()
    return cores_of(listing) & os.sched_getaffinity(0)


def cores_of(listing: str) -> set[int]:
    """Parse a list of cores as Linux writes it.

    >>> sorted(cores_of("0-2,8"))
    [0, 1, 2, 8]
    """
    cores: set[int] = set()
    for part in listing.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            cores |= set(range(int(first), int(last or first) + 1))
    return cores


@contextmanager
def on_near_cores(device: torch.device) -> Iterator[None]:
    """Run on the cores near a GPU: memory of the other socket would be measured otherwise."""
    before = os.sched_getaffinity(0)
    near = near_cores(device)
    if near:
        os.sched_setaffinity(0, near)
    try:
        yield
    finally:
        if near:
            os.sched_setaffinity(0, before)


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
        if self.memory == "pageable":
            return [self._pageable(up_host, down_host, up, down)]
        if self.direction == "h2d":
            return [lambda: up.copy_(up_host, non_blocking=True)]
        if self.direction == "d2h":
            return [lambda: down_host.copy_(down, non_blocking=True)]
        second = torch.cuda.Stream(pool.device)

        def both() -> None:
            current = torch.cuda.current_stream(pool.device)
            second.wait_stream(current)
            with torch.cuda.stream(second):
                down_host.copy_(down, non_blocking=True)
            up.copy_(up_host, non_blocking=True)
            current.wait_stream(second)

        return [both]

    def _pageable(
        self,
        up_host: torch.Tensor,
        down_host: torch.Tensor,
        up: torch.Tensor,
        down: torch.Tensor,
    ) -> Call:
        """Return a copy in which the host takes part, so it runs on the cores near the device."""

        def copy() -> None:
            with on_near_cores(up.device):
                if self.direction in ("h2d", "both"):
                    up.copy_(up_host)
                if self.direction in ("d2h", "both"):
                    down_host.copy_(down)
                torch.cuda.synchronize(up.device)

        return copy

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
        with on_near_cores(pool.device):  # the first write decides in which memory a page lies
            up_host = torch.empty(items, dtype=torch.uint8, pin_memory=pinned)
            down_host = torch.empty(items, dtype=torch.uint8, pin_memory=pinned)
            fill(up_host, seed=1)
            down_host.zero_()
        down = torch.empty(items, dtype=torch.uint8, device=pool.device)
        fill(down, seed=2)
        return up_host, down_host, torch.empty_like(down), down
