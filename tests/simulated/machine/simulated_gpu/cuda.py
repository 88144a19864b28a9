"""``torch.cuda`` of a simulated machine: devices, streams, events, graphs, properties."""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch.cuda import nccl

from simulated_gpu.chip import Machine
from simulated_gpu.tensors import Memory, simulated
from simulated_gpu.timeline import Device, HostClock, Stream, Work


class Simulation:
    """The simulated machine of this process."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.clock = HostClock()
        self.devices = [Device(i, machine, self.clock) for i in visible(machine)]
        self.memory = Memory(self.devices)
        self.current = 0
        self.wrong_data = False
        self.triton_replaced = False
        self._streams = [0] * len(self.devices)
        self._next_stream = 1
        self._pinned: set[int] = set()

    def device(self, which: Any = None) -> Device:
        return self.devices[self.index(which)]

    def index(self, which: Any = None) -> int:
        if which is None:
            return self.current
        if isinstance(which, int):
            return which
        index = torch.device(which).index
        return self.current if index is None else index

    def stream(self, index: int) -> Stream:
        return self.devices[index].streams[self._streams[index]]

    def new_stream(self, index: int) -> int:
        key = self._next_stream
        self._next_stream += 1
        self.devices[index].streams[key] = Stream()
        return key

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mark a host tensor as pinned."""
        self._pinned.add(tensor.untyped_storage()._cdata)
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._pinned


def visible(machine: Machine) -> list[int]:
    """Indices of the devices that CUDA_VISIBLE_DEVICES leaves."""
    import os

    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return list(range(machine.gpus))
    uuids = {f"GPU-{uuid_of(i)}": i for i in range(machine.gpus)}
    return [uuids.get(w, int(w) if w.isdigit() else -1) for w in wanted.split(",") if w]


def uuid_of(index: int) -> str:
    return f"00000000-0000-0000-0000-{index:012d}"


def replace_cuda(sim: Simulation) -> None:
    """Replace the functions and classes of ``torch.cuda`` that the tool uses."""
    cuda = torch.cuda

    class SimulatedStream:
        def __init__(self, device: Any = None, key: int | None = None, **_: Any) -> None:
            self.index = sim.index(device)
            self.key = sim.new_stream(self.index) if key is None else key

        @property
        def _queue(self) -> Stream:
            return sim.devices[self.index].streams[self.key]

        def wait_stream(self, other: "SimulatedStream") -> None:
            if sim.devices[self.index].capture is None:
                self._queue.end_s = max(self._queue.end_s, other._queue.end_s)

        def synchronize(self) -> None:
            sim.devices[self.index].synchronize()

        def query(self) -> bool:
            sim.clock.advance(sim.clock.now_s + 1e-6)
            done = sim.devices[self.index].settle(self._queue)
            return done and self._queue.end_s <= sim.clock.now_s

    class Event:
        def __init__(self, enable_timing: bool = False, **_: Any) -> None:
            self.at: float | None = None
            self.stream: Stream | None = None
            self.timed = enable_timing
            self.polls = 0

        def record(self, stream: SimulatedStream | None = None) -> None:
            device = sim.device()
            queue = stream._queue if stream else sim.stream(sim.current)
            self.at, self.stream, self.polls = None, queue, 0
            if device.capture is not None:
                return
            chip = device.chip
            device.launch(Work("event", fixed_s=chip.event_s), queue, host_s=chip.event_host_s)
            if queue.waiting:
                queue.waiting.append(lambda: (setattr(self, "at", queue.end_s), True)[1])
            else:
                self.at = queue.end_s

        def query(self) -> bool:
            device = sim.device()
            device.require_alive()
            # A host that polls lets time pass, in steps that grow to keep the test short.
            sim.clock.advance(sim.clock.now_s + 1e-6 * 2.0 ** min(self.polls, 8))
            self.polls += 1
            if self.stream is not None and self.stream.waiting:
                device.settle(self.stream)
            return self.at is not None and self.at <= sim.clock.now_s

        def synchronize(self) -> None:
            device = sim.device()
            if device.capture is not None:
                device.capture_broken = True
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
            device.require_alive()
            while self.stream is not None and not device.settle(self.stream):
                pass
            sim.clock.advance(self.at or 0.0)

        def elapsed_time(self, other: "Event") -> float:
            sim.device().require_alive()
            if not (self.query() and other.query()):
                raise RuntimeError("CUDA error: device not ready (simulated)")
            return (other.at - self.at) * 1e3  # type: ignore[operator]

    class CUDAGraph:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.works: list[Work] = []
            self.index = sim.current

        def replay(self) -> None:
            sim.devices[self.index].replay(self.works, sim.stream(self.index))

        def pool(self) -> tuple[int, int]:
            return (0, id(self))

        def reset(self) -> None:
            self.works = []

    class graph:
        def __init__(self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None,
                     capture_error_mode: str = "global") -> None:  # fmt: skip
            self.graph = cuda_graph
            self.side = stream or SimulatedStream()

        def __enter__(self) -> None:
            device = sim.device()
            device.synchronize()
            self.before = sim._streams[sim.current]
            sim._streams[sim.current] = self.side.key
            device.capture, device.capture_broken = [], False

        def __exit__(self, *_: Any) -> None:
            device = sim.device()
            self.graph.works, device.capture = device.capture or [], None
            if device.capture_broken:
                # As in torch, the error leaves the side stream the current one.
                raise RuntimeError("CUDA error: operation failed due to a previous error during "
                                   "capture (simulated)")  # fmt: skip
            sim._streams[sim.current] = self.before

    @contextlib.contextmanager
    def use_stream(stream: SimulatedStream | None) -> Iterator[None]:
        if stream is None:
            yield
            return
        before = sim._streams[stream.index]
        sim._streams[stream.index] = stream.key
        yield
        sim._streams[stream.index] = before

    def set_stream(stream: SimulatedStream) -> None:
        sim._streams[stream.index] = stream.key

    def set_device(which: Any) -> None:
        index = sim.index(which)
        sim.devices[index].require_alive()
        sim.current = index

    def properties(which: Any = None) -> types.SimpleNamespace:
        device = sim.device(which)
        chip = device.chip
        amd = chip.vendor == "amd"
        return types.SimpleNamespace(
            name=chip.name, major=9 if amd else int(chip.architecture[3:-1]),
            minor=4 if amd else int(chip.architecture[-1]), total_memory=chip.memory_bytes,
            multi_processor_count=chip.compute_units, L2_cache_size=chip.l2_bytes,
            uuid=uuid_of(device.index),
            gcnArchName=f"{chip.architecture}:sramecc+:xnack-" if amd else "",
            pci_domain_id=0, pci_bus_id=16 + device.index, pci_device_id=0,
            warp_size=64 if amd else 32, is_integrated=0,
        )  # fmt: skip

    def sleep(cycles: int) -> None:
        sim.device().launch(Work("spin", cycles=float(cycles)), sim.stream(sim.current))

    def memory_info(which: Any = None) -> tuple[int, int]:
        device = sim.device(which)
        return device.chip.memory_bytes - device.allocated, device.chip.memory_bytes

    replaced: dict[str, Any] = {
        "is_available": lambda: bool(sim.devices),
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "device_count": lambda: len(sim.devices),
        "current_device": lambda: sim.current,
        "set_device": set_device,
        "get_device_properties": properties,
        "get_device_name": lambda which=None: sim.device(which).chip.name,
        "get_device_capability": lambda which=None: (9, 0),
        "synchronize": lambda which=None: sim.device(which).synchronize(),
        "_sleep": sleep,
        "Event": Event,
        "Stream": SimulatedStream,
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "stream": use_stream,
        "set_stream": set_stream,
        "current_stream": lambda which=None: SimulatedStream(
            sim.index(which), sim._streams[sim.index(which)]
        ),
        "default_stream": lambda which=None: SimulatedStream(sim.index(which), 0),
        "is_current_stream_capturing": lambda: sim.device().capture is not None,
        "mem_get_info": memory_info,
        "memory_allocated": lambda which=None: sim.device(which).allocated,
        "max_memory_allocated": lambda which=None: sim.device(which).peak_allocated,
        "empty_cache": lambda: None,
        "manual_seed_all": lambda seed: None,
    }
    for name, value in replaced.items():
        setattr(cuda, name, value)
    nccl.version = lambda: (2, 28, 3)
    torch.version.cuda = None if sim.machine.chip.vendor == "amd" else "13.0"
    torch.version.hip = "7.0" if sim.machine.chip.vendor == "amd" else None

    class Generator(torch.Generator):
        """A generator of the host: the values on a simulated device are not known anyway."""

        def __new__(cls, device: Any = "cpu") -> torch.Generator:
            return _RealGenerator(device="cpu")

    torch.Generator = Generator  # type: ignore[misc]


_RealGenerator = torch.Generator

__all__ = ["Simulation", "replace_cuda", "simulated"]
