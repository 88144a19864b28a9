"""One interface to time a kernel, on a GPU by its own events, on a CPU by its own clock.

Device time, not host time. On a GPU a sample lies between two events with the launch queue
already full (a spin kernel holds the device while the host queues up), so launching is not in the
sample; what is left, about half a microsecond, is the events' own. Kernels too short for that are
captured into a graph, many of them in rotation, and the replay is timed. On a CPU the program and
the device are one, and a sample is the clock around the call. In both cases consecutive runs use
different operands (the rotation of the kernel), so the operands are cold.

    timed = timer.prepare(calls)      # warms up, finds out how long one takes
    timed.sample(10)                  # ten durations in seconds
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Call = Callable[[], object]

CPU_TICK_S = time.get_clock_info("perf_counter").resolution
EVENT_TICK_S = 0.5e-6
"""CUDA documents about half a microsecond for the time between two events."""

MIN_SAMPLE_S = 40e-6
"""A CPU sample is at least this long: a thousand times the clock's own cost."""

GRAPH_BELOW_S = 60e-6
"""GPU kernels shorter than this are timed in a graph."""

GRAPH_SPAN_S = 400e-6
QUEUE_HOST_S = 40e-6
"""Host time to queue one timed launch, with a margin; the spin kernel covers it."""


class Timed(Protocol):
    """A prepared case that can be sampled."""

    @property
    def estimate_s(self) -> float:
        """About how long one run takes."""
        ...

    @property
    def sample_s(self) -> float:
        """About how long taking one sample takes."""
        ...

    @property
    def resolution_s(self) -> float:
        """Tick of the clock, spread over the runs of one sample."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about the way this case is timed."""
        ...

    def sample(self, count: int) -> list[float]:
        """Durations of ``count`` samples [s per run]."""
        ...


class Timer(Protocol):
    """Times callables on one device."""

    def prepare(self, calls: Sequence[Call]) -> Timed:
        """Warm up and estimate."""
        ...


@dataclass
class _CpuInterrupted:
    """Single calls, each after something else has had the caches and the branch predictor."""

    calls: Sequence[Call]
    between: Call
    estimate_s: float
    sample_s: float
    resolution_s: float = CPU_TICK_S
    notes: tuple[str, ...] = ()
    _turn: int = 0

    def sample(self, count: int) -> list[float]:
        durations = []
        for _ in range(count):
            call = self.calls[self._turn]
            self._turn = (self._turn + 1) % len(self.calls)
            self.between()
            begin = time.perf_counter_ns()
            call()
            durations.append(max(time.perf_counter_ns() - begin, 1) * 1e-9)
        return durations


@dataclass
class _CpuTimed:
    calls: Sequence[Call]
    estimate_s: float
    runs_per_sample: int
    notes: tuple[str, ...] = ()
    _turn: int = 0

    @property
    def sample_s(self) -> float:
        return self.estimate_s * self.runs_per_sample

    @property
    def resolution_s(self) -> float:
        return CPU_TICK_S / self.runs_per_sample

    def sample(self, count: int) -> list[float]:
        durations = []
        for _ in range(count):
            turn, calls, runs = self._turn, self.calls, self.runs_per_sample
            batch = [calls[(turn + i) % len(calls)] for i in range(runs)]
            begin = time.perf_counter_ns()
            for call in batch:
                call()
            end = time.perf_counter_ns()
            self._turn = (turn + runs) % len(calls)
            durations.append(max(end - begin, 1) * 1e-9 / runs)
        return durations


class CpuTimer:
    """The processor's clock around each call."""

    def prepare(self, calls: Sequence[Call], *, between: Call | None = None) -> Timed:
        """Run each call once for page faults and code paths, then estimate.

        Parameters
        ----------
        calls : sequence of callables
            One for each set of operands.
        between : callable, optional
            Run before each sample and not timed. A small operation repeated in a loop finds its
            own code and data in the nearest cache and takes half of what it takes in a model,
            where a matrix product has just swept them.
        """
        for call in calls[: max(2, min(len(calls), 8))]:
            call()
        begin = time.perf_counter_ns()
        calls[-1]()
        once = (time.perf_counter_ns() - begin) * 1e-9
        if between is not None:
            between()
            both = (time.perf_counter_ns() - begin) * 1e-9
            return _CpuInterrupted(calls, between, once, max(once, both))
        if once < MIN_SAMPLE_S:  # a first look this short is mostly the look itself
            runs = 50
            begin = time.perf_counter_ns()
            for i in range(runs):
                calls[i % len(calls)]()
            once = (time.perf_counter_ns() - begin) * 1e-9 / runs
        return _CpuTimed(calls, once, max(1, round(MIN_SAMPLE_S / max(once, 1e-9))))


@dataclass
class _EventTimed:
    calls: Sequence[Call]
    estimate_s: float
    device: torch.device
    spin_cycles_per_s: float
    runs_per_sample: int = 1
    notes: tuple[str, ...] = ()
    resolution_s: float = EVENT_TICK_S
    _turn: int = 0

    @property
    def sample_s(self) -> float:
        return self.estimate_s * self.runs_per_sample

    def sample(self, count: int) -> list[float]:
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(count)
        ]
        queued = min(count * self.runs_per_sample, 500)
        torch.cuda._sleep(int(self.spin_cycles_per_s * QUEUE_HOST_S * queued))
        for begin, end in events:
            begin.record()
            for _ in range(self.runs_per_sample):
                self.calls[self._turn]()
                self._turn = (self._turn + 1) % len(self.calls)
            end.record()
        torch.cuda.synchronize(self.device)
        scale = 1e-3 / self.runs_per_sample
        return [begin.elapsed_time(end) * scale for begin, end in events]


@dataclass
class _GraphTimed:
    graph: torch.cuda.CUDAGraph
    runs: int
    estimate_s: float
    device: torch.device
    spin_cycles_per_s: float
    notes: tuple[str, ...] = ()

    @property
    def sample_s(self) -> float:
        return self.estimate_s * self.runs

    @property
    def resolution_s(self) -> float:
        return EVENT_TICK_S / self.runs

    def sample(self, count: int) -> list[float]:
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(count)
        ]
        torch.cuda._sleep(int(self.spin_cycles_per_s * QUEUE_HOST_S * min(count, 500)))
        for begin, end in events:
            begin.record()
            self.graph.replay()
            end.record()
        torch.cuda.synchronize(self.device)
        return [begin.elapsed_time(end) * 1e-3 / self.runs for begin, end in events]


class GpuTimer:
    """CUDA and ROCm events; graphs for short kernels."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        cycles = 10_000_000
        torch.cuda._sleep(cycles // 10)
        begin.record()
        torch.cuda._sleep(cycles)
        end.record()
        torch.cuda.synchronize(device)
        self.spin_cycles_per_s = cycles / (begin.elapsed_time(end) * 1e-3)

    def prepare(
        self, calls: Sequence[Call], *, graph: bool = True, runs_per_sample: int = 1
    ) -> Timed:
        """Warm up, estimate, and capture a graph if the kernel is short.

        Parameters
        ----------
        calls : sequence of callables
            One for each set of operands.
        graph : bool, default True
            Whether a short kernel may be captured.
        runs_per_sample : int, default 1
            Runs between two events where no graph is used.

        Raises
        ------
        torch.OutOfMemoryError
            If a graph needs memory that is not there.
        """
        for call in calls[:8]:
            call()
        torch.cuda.synchronize(self.device)
        plain = _EventTimed(calls, 0.0, self.device, self.spin_cycles_per_s)
        plain.sample(3)
        plain.estimate_s = sorted(plain.sample(5))[2]
        plain.runs_per_sample = runs_per_sample
        if not graph or plain.estimate_s >= GRAPH_BELOW_S:
            return plain
        runs = max(len(calls), round(GRAPH_SPAN_S / max(plain.estimate_s, 1e-6)))
        try:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                for i in range(runs):
                    calls[i % len(calls)]()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # something in the call may not be captured: its events still tell
            torch.cuda.synchronize(self.device)
            plain.notes = ("not-in-graph",)
            return plain
        timed = _GraphTimed(captured, runs, 0.0, self.device, self.spin_cycles_per_s)
        timed.sample(2)
        timed.estimate_s = sorted(timed.sample(3))[1]
        return timed


def timer_for(device: torch.device) -> "CpuTimer | GpuTimer":
    """The timer of a device."""
    return CpuTimer() if device.type == "cpu" else GpuTimer(device)
