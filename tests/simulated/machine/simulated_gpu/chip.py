"""The truth about a simulated machine: what its GPUs can do, how they are set, and what is broken.

A test writes a :class:`Machine` into the environment variable ``SIMULATED_MACHINE``; all processes
of the simulated machine read it there. The speeds are round numbers near those of an H100, chosen
and not measured.

    chip = Chip()
    chip.kernel_s(flops=2.0 * 4096**3, dtype="bfloat16", cold_bytes=3 * 2.0 * 4096**2)
"""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

FLOPS_PER_S = {
    "float64": 30e12,
    "float32": 50e12,
    "tf32": 350e12,
    "bfloat16": 700e12,
    "float16": 700e12,
    "int8": 1300e12,
    "fp8": 1200e12,
    "fp8_slow": 900e12,
}
"""[FLOP/s] Rate of the matrix units at the highest clock. ``fp8_slow``: exact accumulation."""


@dataclass(frozen=True)
class Chip:
    """One kind of GPU."""

    name: str = "NVIDIA H100 80GB HBM3"
    vendor: str = "nvidia"
    architecture: str = "sm_90"
    """``sm_90`` or, for AMD, such as ``gfx942``."""
    compute_units: int = 132
    memory_bytes: int = 85_017_493_504
    l2_bytes: int = 50 * 2**20
    flops_per_s: dict[str, float] = field(default_factory=lambda: dict(FLOPS_PER_S))
    memory_bytes_per_s: float = 3.0e12
    l2_bytes_per_s: float = 7.5e12
    load_latency_s: float = 500e-9
    """[s] One dependent load from memory; a fifth of it from the L2 cache."""
    host_link_bytes_per_s: float = 50e9
    pageable_bytes_per_s: float = 8e9
    peer_bytes_per_s: float = 400e9
    """[bytes/s] Link between two GPUs of a node, one way."""
    peer_latency_s: float = 12e-6
    kernel_start_s: float = 1.5e-6
    """[s] Device time of a kernel that does nothing."""
    graph_gap_s: float = 0.7e-6
    """[s] Device time between two kernels of a graph."""
    event_s: float = 0.3e-6
    launch_host_s: float = 4e-6
    """[s] Host time of one launch; the host of a slow machine needs more."""
    event_host_s: float = 1e-6
    graph_host_s: float = 9e-6
    queue_depth: int = 1024
    """Launches that a stream holds; the host waits when it is full."""
    idle_clock_hz: float = 345e6
    max_clock_hz: float = 1980e6
    ramp_hz_per_s: float = 60e9
    """[Hz/s] Speed at which the clock rises under load."""
    fall_hz_per_s: float = 8e9
    """[Hz/s] Speed at which the clock falls when the device is idle."""
    idle_w: float = 75.0
    compute_w: float = 620.0
    """[W] Power above idle of the matrix units at the highest clock."""
    memory_w: float = 380.0
    """[W] Power above idle of memory at its full rate."""
    power_cap_w: float = 700.0

    def kernel_s(self, *, flops: float = 0.0, dtype: str = "bfloat16", cold_bytes: float = 0.0,
                 cached_bytes: float = 0.0, clock_fraction: float = 1.0) -> float:  # fmt: skip
        """[s] True time of a kernel: the slowest of compute, memory and cache, after its start."""
        rate = self.flops_per_s.get(dtype, self.flops_per_s["float32"]) * clock_fraction
        return self.kernel_start_s + max(
            flops / rate,
            cold_bytes / self.memory_bytes_per_s,
            (cold_bytes + cached_bytes) / (self.l2_bytes_per_s * clock_fraction),
        )


MI300X = Chip(
    name="AMD Instinct MI300X", vendor="amd", architecture="gfx942", compute_units=304,
    memory_bytes=205_822_885_888, l2_bytes=256 * 2**20, memory_bytes_per_s=4.2e12,
    l2_bytes_per_s=14e12, max_clock_hz=2100e6,
    power_cap_w=750.0,
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A node with equal GPUs, the faults of some of them, and the folder where its state lives."""

    gpus: int = 1
    chip: Chip = field(default_factory=Chip)
    faults: tuple[dict[str, Any], ...] = ()
    """Each has a ``kind``, the fields that :mod:`timeline` and :mod:`nccl` read, and optionally the
    ``node`` of a Slurm cluster that has it."""
    folder: str = ""
    """Folder with files that outlive a process, such as a lost device; empty: nothing outlives."""
    driver: dict[str, Any] = field(default_factory=dict)
    """What the driver's library says beside the timeline (see ``pynvml`` and ``amdsmi``)."""

    def dump(self) -> str:
        """Return the machine as JSON for the environment variable."""
        return json.dumps(asdict(self))

    def chip_of(self, index: int) -> Chip:
        """Return the chip of one device, with its faults of speed (kind ``slow``)."""
        chip = self.chip
        for fault in self.faults:
            if fault["kind"] == "slow" and fault.get("device", index) == index:
                changed = {k: v for k, v in fault.items() if k not in ("kind", "device")}
                chip = replace(chip, **changed)
        return chip


def machine_from_environment() -> Machine:
    """Read the machine that the test has described."""
    text = json.loads(os.environ["SIMULATED_MACHINE"])
    chip = Chip(**text.pop("chip"))
    # A cluster gives all its nodes the same description; a fault may belong to one node.
    here = os.environ.get("SLURMD_NODENAME", "")
    faults = tuple(f for f in text.pop("faults") if f.pop("node", here) == here)
    return Machine(chip=chip, faults=faults, **text)
