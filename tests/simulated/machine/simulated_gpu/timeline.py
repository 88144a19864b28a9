"""Discrete-event model of a GPU: streams, launch queue, clock, power, L2 cache, graphs, faults.

The host has one clock, which only moves when the host does something or waits. A launch costs host
time and enters the queue of a stream. The device works through a stream in order; an operation
begins when its predecessor has ended and it has been launched. A host that launches into a full
queue waits until a place is free, which is what turns a measurement of the device into one of the
host if the spin kernel in front is too short.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from simulated_gpu.chip import Chip, Machine

BIN_S = 1e-3
"""[s] Resolution of the record of power and clock."""

LOST = "CUDA error: unspecified launch failure (simulated: the device is lost)"
STICKY = "CUDA error: an illegal memory access was encountered (simulated)"
IN_CAPTURE = "CUDA error: operation not permitted when stream is capturing (simulated)"

Range = tuple[int, int]
"""Address and bytes of an operand."""


@dataclass(frozen=True)
class Work:
    """One operation of a stream."""

    name: str
    flops: float = 0.0
    dtype: str = "bfloat16"
    reads: tuple[Range, ...] = ()
    writes: tuple[Range, ...] = ()
    repeats: float = 1.0
    """How often the operands are read; from the cache after the first time, if they fit."""
    cycles: float = 0.0
    """Clock cycles of a spin kernel."""
    fixed_s: float = 0.0
    """[s] Time that does not depend on the clock: events, copies over a link."""
    active: float = 1.0
    """Share of the power that the operands cause: zeros switch fewer transistors."""


class HostClock:
    """The host's time [s]."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def advance(self, to_s: float) -> None:
        self.now_s = max(self.now_s, to_s)


class Cache:
    """L2 cache that evicts the least recently used operand."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: OrderedDict[Range, int] = OrderedDict()
        self._total = 0

    def touch(self, operand: Range) -> tuple[float, float]:
        """Access an operand and return the bytes from the cache and from memory."""
        size = operand[1]
        found = self._held.pop(operand, 0)
        self._total -= found
        if size > self.size:  # it evicts everything, and its own beginning before its end
            self._held.clear()
            self._total = 0
            return 0.0, float(size)
        self._held[operand] = size
        self._total += size
        while self._total > self.size:
            self._total -= self._held.popitem(last=False)[1]
        return (float(size), 0.0) if found else (0.0, float(size))


@dataclass
class Stream:
    """In-order queue of one device."""

    end_s: float = 0.0
    queued: deque[float] = field(default_factory=deque)
    """Times at which the operations of the queue end."""
    waiting: list[Callable[[], bool]] = field(default_factory=list)
    """Operations whose time depends on other processes; see :mod:`nccl`."""


class Device:
    """One simulated GPU."""

    def __init__(self, index: int, machine: Machine, clock: HostClock) -> None:
        self.index = index
        self.chip: Chip = machine.chip_of(index)
        self.machine = machine
        self.clock = clock
        self.cache = Cache(self.chip.l2_bytes)
        self.streams = {0: Stream()}
        self.capture: list[Work] | None = None
        self.capture_broken = False
        self.error: str | None = None
        self.clock_hz = self.chip.idle_clock_hz
        self.busy_until_s = 0.0
        self.busy_s = 0.0
        self.energy_above_idle_j = 0.0
        self.allocated = 0
        self.peak_allocated = 0
        self.bins: dict[int, list[float]] = {}
        """By millisecond: energy above idle [J], time busy [s], clock * time, time capped [s]."""
        self.log: list[tuple[str, float, float, float, float]] = []
        """Name, begin, time, bytes from memory and bytes from the cache of every operation."""
        self.generation = 0
        """Number of operations that may have changed the cache or the clock, beside graphs."""
        self._patterns: dict[int, tuple[tuple[float, float], ...]] = {}
        self._steady: dict[int, tuple[int, float, float]] = {}
        self.faults = [
            dict(f) for f in machine.faults if f.get("device", index) == index
        ]  # fmt: skip

    # ---- memory ----

    def allocate(self, size: int) -> None:
        if self.allocated + size > self.chip.memory_bytes:
            import torch

            raise torch.OutOfMemoryError(
                f"CUDA out of memory (simulated). Tried to allocate {size} bytes, "
                f"{self.chip.memory_bytes - self.allocated} are free"
            )
        self.allocated += size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    # ---- errors ----

    def lost_file(self) -> Path | None:
        return Path(self.machine.folder) / f"lost-{self.index}" if self.machine.folder else None

    def require_alive(self) -> None:
        """Raise the error of a device that is lost, or of a context that an access has killed."""
        file = self.lost_file()
        if self.error is None and file is not None and file.exists():
            self.error = LOST
        if self.error is not None:
            raise RuntimeError(self.error)

    def break_if_due(self, work: Work) -> None:
        """Apply faults of kind ``lost`` (after a time of work) and ``sticky`` (in an operation)."""
        for fault in self.faults:
            if fault["kind"] == "lost" and self.busy_s > fault["after_s"]:
                self.error = LOST
                if (file := self.lost_file()) is not None:
                    file.touch()
            if fault["kind"] == "sticky" and (
                work.name == fault["op"] and work.flops == fault.get("flops", work.flops)
            ):
                self.error = STICKY

    # ---- time ----

    def launch(self, work: Work, stream: Stream, *, host_s: float | None = None) -> None:
        """Launch one operation: into the graph that is captured, or into the queue of a stream."""
        self.require_alive()
        cost = self.chip.launch_host_s if host_s is None else host_s
        if self.capture is not None:
            self.capture.append(work)
            self.clock.advance(self.clock.now_s + 0.3 * cost)
            return
        self._enter_queue(stream, cost)
        if stream.waiting:
            launched = self.clock.now_s
            stream.waiting.append(lambda: (self._plain(work, stream, launched), True)[1])
        else:
            self._plain(work, stream)

    def replay(self, works: list[Work], stream: Stream) -> None:
        """Launch a graph."""
        self.require_alive()
        self._enter_queue(stream, self.chip.graph_host_s)

        def run() -> bool:
            self._run_graph(works, stream)
            stream.queued.append(stream.end_s)
            return True

        if any(hasattr(work, "enqueue") for work in works):  # collectives, see nccl
            for work in works:
                enqueue = getattr(work, "enqueue", None)
                if enqueue is not None:
                    enqueue(stream)
                else:
                    stream.waiting.append(lambda work=work: (self._run(work, stream), True)[1])
        elif stream.waiting:
            stream.waiting.append(run)
        else:
            run()

    def _run_graph(self, works: list[Work], stream: Stream) -> None:
        """Run the operations of a graph; if nothing has changed since the last time, at once."""
        known = self._steady.get(id(works))
        if known is not None and known[0] == self.generation:
            begin = max(stream.end_s, self.clock.now_s)
            self._record(begin, known[2], known[1], throttled=False)
            stream.end_s = begin + known[2]
            return
        clock, before = self.clock_hz, self.energy_above_idle_j
        begin = max(stream.end_s, self.clock.now_s)
        first = len(self.log)
        for i, work in enumerate(works):
            self._run(work, stream, gap_s=self.chip.graph_gap_s if i else 0.0, count=False)
        pattern = tuple((miss, hit) for _, _, _, miss, hit in self.log[first:])
        same = self._patterns.get(id(works)) == pattern
        self._patterns[id(works)] = pattern
        full = self.clock_hz == clock == self.chip.max_clock_hz
        if same and full and len(works) > 1:
            took = stream.end_s - begin
            power = (self.energy_above_idle_j - before) / took
            self._steady[id(works)] = (self.generation, power, took)

    def _enter_queue(self, stream: Stream, cost_s: float) -> None:
        queued = stream.queued
        while queued and queued[0] <= self.clock.now_s:
            queued.popleft()
        while len(queued) >= self.chip.queue_depth:
            self.clock.advance(queued.popleft())
        self.clock.advance(self.clock.now_s + cost_s)

    def _plain(self, work: Work, stream: Stream, launched_s: float | None = None) -> None:
        """Run one operation outside graphs."""
        if not work.fixed_s and not work.cycles:
            self.generation += 1
        self._run(work, stream, launched_s=launched_s)

    def _run(
        self, work: Work, stream: Stream, *, gap_s: float = 0.0, count: bool = True,
        launched_s: float | None = None,
    ) -> None:  # fmt: skip
        launched_s = self.clock.now_s if launched_s is None else launched_s
        begin = max(stream.end_s, launched_s) + gap_s
        took = self._time_s(work, begin)
        stream.end_s = begin + took
        if count:
            stream.queued.append(stream.end_s)
        self.break_if_due(work)

    def _time_s(self, work: Work, begin: float) -> float:
        chip = self.chip
        self._cool(begin)
        if work.fixed_s or not (work.cycles or work.flops or work.reads or work.writes):
            took = work.fixed_s or chip.kernel_start_s
            self._record(begin, took, 0.0, throttled=False)
            return self._logged(work, begin, took, 0.0, 0.0)
        hit = miss = 0.0
        for operand in (*work.reads, *work.writes):
            cached, cold = self.cache.touch(operand)
            more = (work.repeats - 1.0) * operand[1]
            fits = operand[1] <= chip.l2_bytes
            hit += cached + (more if fits else 0.0)
            miss += cold + (0.0 if fits else more)
        full = chip.kernel_s(flops=work.flops, dtype=work.dtype, cold_bytes=miss, cached_bytes=hit)
        rate = chip.flops_per_s.get(work.dtype, chip.flops_per_s["float32"])
        compute = work.flops / rate / full
        power = work.active * (
            chip.compute_w * compute + chip.memory_w * miss / chip.memory_bytes_per_s / full
        )
        highest = chip.max_clock_hz
        allowed = chip.power_cap_w - chip.idle_w
        throttled = power > allowed
        if throttled:
            highest *= (allowed / power) ** (1.0 / 3.0)
        took, self.clock_hz = self._warm(work, miss, hit, highest)
        share = (self.clock_hz / chip.max_clock_hz) ** 3
        self._record(begin, took, power * share, throttled=throttled and self.clock_hz >= highest)
        return self._logged(work, begin, took, miss, hit)

    def _warm(self, work: Work, miss: float, hit: float, highest: float) -> tuple[float, float]:
        """Return time and final clock of a kernel during which the clock rises."""
        chip, clock = self.chip, min(self.clock_hz, highest)
        left, took = 1.0, 0.0
        while True:
            if work.cycles:
                whole = work.cycles / clock
            else:
                whole = chip.kernel_s(
                    flops=work.flops, dtype=work.dtype, cold_bytes=miss, cached_bytes=hit,
                    clock_fraction=clock / chip.max_clock_hz,
                )  # fmt: skip
            step = 1e-3
            if clock >= highest or whole * left <= step:
                return took + whole * left, min(highest, clock + chip.ramp_hz_per_s * whole * left)
            left -= step / whole
            took += step
            clock = min(highest, clock + chip.ramp_hz_per_s * step)

    def _cool(self, begin: float) -> None:
        idle = begin - self.busy_until_s
        if idle > 2e-3:
            self.clock_hz = max(
                self.chip.idle_clock_hz, self.clock_hz - self.chip.fall_hz_per_s * idle
            )

    def _record(self, begin: float, took: float, power: float, *, throttled: bool) -> None:
        self.busy_s += took
        self.energy_above_idle_j += power * took
        self.busy_until_s = max(self.busy_until_s, begin + took)
        at, left = begin, took
        while left > 0.0:
            index = math.floor(at / BIN_S)
            part = min(left, (index + 1) * BIN_S - at) or left
            slot = self.bins.setdefault(index, [0.0, 0.0, 0.0, 0.0])
            slot[0] += power * part
            slot[1] += part
            slot[2] += self.clock_hz * part
            slot[3] += part if throttled else 0.0
            at += part
            left -= part

    def _logged(self, work: Work, begin: float, took: float, miss: float, hit: float) -> float:
        if len(self.log) < 2_000_000:
            self.log.append((work.name, begin, took, miss, hit))
        return took

    # ---- sensors ----

    def window(self, seconds: float) -> tuple[float, float, bool]:
        """Power [W], clock [Hz] and whether the cap slowed the device, over the last seconds."""
        end = math.floor(self.clock.now_s / BIN_S)  # whole milliseconds that are over
        slots = [self.bins[i] for i in range(end - round(seconds / BIN_S), end) if i in self.bins]
        busy = sum(s[1] for s in slots)
        energy = sum(s[0] for s in slots)
        hz = sum(s[2] for s in slots) / busy if busy else self.chip.idle_clock_hz
        slowed = sum(s[3] for s in slots) > 0.1 * max(busy, 1e-12)
        return self.chip.idle_w + energy / seconds, hz, busy > 0 and slowed

    # ---- waiting ----

    def settle(self, stream: Stream) -> bool:
        """Resolve operations that wait for other processes; False if one still has to wait."""
        while stream.waiting:
            if not stream.waiting[0]():
                return False
            stream.waiting.pop(0)
        return True

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        if self.capture is not None:
            self.capture_broken = True
            raise RuntimeError(IN_CAPTURE)
        self.require_alive()
        for stream in self.streams.values():
            while not self.settle(stream):
                pass
            self.clock.advance(stream.end_s)
        self.clock.advance(self.clock.now_s + 2e-6)
        self.require_alive()
