"""Time kernels through one interface: with events on a GPU, with the host's clock on a CPU.

The measured quantity is device time, not host time. On a GPU a sample lies between two events that
are recorded while the launch queue is already full: a spin kernel occupies the device while the
host queues the launches. A sample therefore contains no launch cost, only the cost of the events,
about half a microsecond. Kernels too short for that are captured into a CUDA graph, many runs in
rotation, and the replay of the graph is timed. On a CPU the host is the device, and a sample is the
time around the call. In both cases consecutive runs use different operands (the kernel rotates
them), so the operands are cold.

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
"""[s] Resolution of the host's clock."""
EVENT_TICK_S = 0.5e-6
"""[s] Resolution of CUDA events: about half a microsecond according to the CUDA documentation."""

MIN_SAMPLE_S = 40e-6
"""[s] Minimum length of a CPU sample: a thousand times the cost of reading the clock."""

GRAPH_BELOW_S = 60e-6
"""[s] GPU kernels shorter than this are timed inside a CUDA graph."""

GRAPH_SPAN_S = 400e-6
"""[s] Approximate length of one replay of a captured graph."""

QUEUE_HOST_S = 40e-6
"""[s] Host time to queue one timed launch, with a margin. The spin kernel runs at least this
long."""


class Timed(Protocol):
    """Protocol of a prepared case that can be sampled."""

    @property
    def estimate_s(self) -> float:
        """[s] Approximate duration of one run."""
        ...

    @property
    def sample_s(self) -> float:
        """[s] Approximate time needed to take one sample."""
        ...

    @property
    def resolution_s(self) -> float:
        """[s] Clock resolution divided by the number of runs in one sample."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Tags for unusual timing of this case, such as ``not-in-graph``."""
        ...

    def sample(self, count: int) -> list[float]:
        """[s] Take ``count`` samples and return the duration of one run in each."""
        ...


class Timer(Protocol):
    """Protocol of a timer of one device."""

    def prepare(self, calls: Sequence[Call]) -> Timed:
        """Warm up the calls and estimate the duration of one run."""
        ...


@dataclass
class _CpuInterrupted:
    """Single calls, each timed after another operation has used caches and branch predictor."""

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
    """Timer for CPUs: reads the host's clock before and after each call."""

    def prepare(self, calls: Sequence[Call], *, between: Call | None = None) -> Timed:
        """Warm up page faults and code paths, then estimate the duration of one run.

        Parameters
        ----------
        calls : sequence of callables
            One call for each set of operands.
        between : callable, optional
            Operation that runs before each sample and is not timed. Without it, a small operation
            repeated in a loop finds its code and data in the nearest cache and takes half as long
            as in a model, where a matrix multiplication has just swept the cache.
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
        if once < MIN_SAMPLE_S:  # reading the clock dominates so short a time: average 50 runs
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
    """Timer for CUDA and ROCm devices: uses events, and graphs for short kernels."""

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
        """Warm up, estimate the duration of one run, and capture a graph if the kernel is short.

        Parameters
        ----------
        calls : sequence of callables
            One call for each set of operands.
        graph : bool, default True
            Whether a short kernel may be captured into a graph.
        runs_per_sample : int, default 1
            Number of runs between two events if no graph is used.

        Raises
        ------
        torch.OutOfMemoryError
            If there is not enough memory for the graph.
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
        except RuntimeError:  # the call cannot be captured: time it with events instead
            torch.cuda.synchronize(self.device)
            plain.notes = ("not-in-graph",)
            return plain
        timed = _GraphTimed(captured, runs, 0.0, self.device, self.spin_cycles_per_s)
        timed.sample(2)
        timed.estimate_s = sorted(timed.sample(3))[1]
        return timed


def timer_for(device: torch.device) -> "CpuTimer | GpuTimer":
    """Return the timer for a device."""
    return CpuTimer() if device.type == "cpu" else GpuTimer(device)
