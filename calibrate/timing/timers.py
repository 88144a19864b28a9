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

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from groundspeed.kernels.capture import capture

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
"""[s] Host time to queue one sample, assumed until it has been measured."""


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


QUEUE_LIMIT = 800
"""Most launches in the queue of a stream at once. Drivers hold about a thousand; a host that
launches into a full queue waits, and the samples would measure the host."""

SPIN_MARGIN = 1.5
"""The spin kernel lasts this many times as long as the host needs to queue a round."""

LONGEST_SPIN_S = 0.2
"""[s] Longest spin. A host that needs more for one sample is too slow to fill the queue."""

STEADY_SPIN = 0.01
"""Relative change between two spins below which the clock counts as steady."""


@dataclass
class _Queued:
    """Launches between pairs of events, queued while a spin kernel keeps the device busy.

    A round queues a limited number of launches and then proves that the device had not begun: the
    first event must not have completed. Otherwise the round is discarded and repeated with a longer
    spin or fewer samples.
    """

    launch: Call
    """One sample: launches ``runs`` runs."""
    runs: int
    launches: int
    """Launches of one sample, with its two events."""
    estimate_s: float
    timer: "GpuTimer"
    notes: tuple[str, ...] = ()
    _host_s: float = QUEUE_HOST_S
    """[s] Host time to queue one sample, measured in each round."""
    _margin: float = SPIN_MARGIN
    _most: int = 10**6
    """Most samples in a round."""

    @property
    def sample_s(self) -> float:
        return self.estimate_s * self.runs

    @property
    def resolution_s(self) -> float:
        return EVENT_TICK_S / self.runs

    def sample(self, count: int) -> list[float]:
        durations: list[float] = []
        while len(durations) < count:
            size = min(count - len(durations), max(1, QUEUE_LIMIT // self.launches), self._most)
            taken, covered = self._round(size)
            if not covered and size > 1 and self._host_s * size * self._margin > LONGEST_SPIN_S:
                self._most = size // 2
            elif not covered and self._host_s * size * self._margin <= LONGEST_SPIN_S:
                self._margin *= 2.0
            else:
                durations += taken
                if not covered and "host-bound" not in self.notes:
                    self.notes = (*self.notes, "host-bound")
        return durations

    def _round(self, size: int) -> tuple[list[float], bool]:
        """Return the samples of one round, and whether all were queued before the first began."""
        events = [(new_event(), new_event()) for _ in range(size)]
        self.timer.spin(min(LONGEST_SPIN_S, self._margin * self._host_s * size))
        begin_s = time.perf_counter()
        for begin, end in events:
            begin.record()
            self.launch()
            end.record()
        self._host_s = (time.perf_counter() - begin_s) / size
        covered = not events[0][0].query()
        while not events[0][0].query():
            pass
        time.sleep(0.5 * self.sample_s * size)  # until about half of the round has run
        self.timer.while_busy()
        torch.cuda.synchronize(self.timer.device)
        scale = 1e-3 / self.runs
        return [max(b.elapsed_time(e), 1e-7) * scale for b, e in events], covered


def new_event() -> torch.cuda.Event:
    """Create an event that records its time."""
    return torch.cuda.Event(enable_timing=True)


class GpuTimer:
    """Timer for CUDA and ROCm devices: uses events, and graphs for short kernels.

    Parameters
    ----------
    device : torch.device
    while_busy : callable, optional
        Called once per round of samples, when half of them have run, e.g. to read the sensors of
        a device that is at work.
    """

    def __init__(
        self, device: torch.device, while_busy: Callable[[], object] = lambda: None
    ) -> None:
        self.device = device
        self.while_busy = while_busy
        self.spin_cycles_per_s = self._steady_spin_rate()

    def _steady_spin_rate(self) -> float:
        """[1/s] Cycles that the spin kernel counts, once the clock has risen from idle."""
        cycles, last = 10_000_000, 0.0
        rate = 0.0
        for _ in range(50):  # at most a quarter of a second
            begin, end = new_event(), new_event()
            begin.record()
            torch.cuda._sleep(cycles)
            end.record()
            torch.cuda.synchronize(self.device)
            rate = cycles / (max(begin.elapsed_time(end), 1e-6) * 1e-3)
            if abs(rate - last) < STEADY_SPIN * rate:
                break
            last = rate
        return rate

    def spin(self, seconds: float) -> None:
        """Launch a kernel that keeps the device busy."""
        torch.cuda._sleep(max(1, int(self.spin_cycles_per_s * seconds)))

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
        turns = itertools.cycle(calls)

        def launch() -> None:
            for _ in range(plain.runs):
                next(turns)()

        plain = _Queued(launch, 1, 3, 0.0, self)
        plain.sample(3)
        plain.estimate_s = sorted(plain.sample(5))[2]
        plain.runs, plain.launches = runs_per_sample, runs_per_sample + 2
        if not graph or plain.estimate_s >= GRAPH_BELOW_S:
            return plain
        # Whole rotations: otherwise the calls at the end of a replay are those at the start of the
        # next one, which would find their operands in the cache.
        once_s = max(plain.estimate_s, 1e-6) * len(calls)
        runs = len(calls) * max(1, round(GRAPH_SPAN_S / once_s))

        def record() -> None:
            for i in range(runs):
                calls[i % len(calls)]()

        try:
            captured = capture(record)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # the calls cannot be captured: time them with events instead
            torch.cuda.synchronize(self.device)
            plain.notes = (*plain.notes, "not-in-graph")
            return plain
        timed = _Queued(captured.replay, runs, 3, 0.0, self, plain.notes)
        timed.sample(2)
        timed.estimate_s = sorted(timed.sample(3))[1]
        return timed


def timer_for(
    device: torch.device, while_busy: Callable[[], object] = lambda: None
) -> "CpuTimer | GpuTimer":
    """Return the timer for a device; ``while_busy`` is for GPUs, see :class:`GpuTimer`."""
    return CpuTimer() if device.type == "cpu" else GpuTimer(device, while_busy)
