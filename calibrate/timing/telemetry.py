"""Record the state of the machine during timing: clock, power, temperature, throttling, other load.

On a CPU a thread reads the sensors every 50 ms. On a GPU the timer asks for a reading when it has
queued its launches and would only wait: the device is busy then, so the reading belongs to the
case, and no thread competes with the host for launches. A disturbed measurement is tagged and never
dropped silently. A missing sensor is no error: the profile records which sensors were available.

    with open_telemetry("cuda", 0) as telemetry:
        begin = telemetry.begin_span()
        ...                                        # time a case; the timer calls read_if_due
        span = telemetry.span(begin, time.monotonic())
"""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from groundspeed.calibrate.timing.reading import Reading, Source, State

PERIOD_S = 0.05
"""[s] Time between two readings of the sensors."""
BUSY_ELSEWHERE = 0.10
"""Share of the CPU used by other programs above which a measurement is tagged
``noisy-neighbour``."""


@dataclass(frozen=True)
class Span:
    """Medians of the readings taken during one measurement, and the tags derived from them."""

    clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    busy_elsewhere_fraction: float | None
    tags: tuple[str, ...]
    memory_clock_mhz: float | None = None


class Telemetry:
    """Readings of the sensors of one device, as a context manager.

    Parameters
    ----------
    source : Source
        Sensors of the device.
    """

    def __init__(self, source: Source) -> None:
        self.description = source.description
        self._source = source
        self._readings: list[Reading] = []
        self._span_begin_s = 0.0
        self._failed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="telemetry", daemon=True)

    @property
    def state(self) -> State:
        """Device state that stays constant during a run."""
        return self._source.state

    def settings(self) -> dict[str, str]:
        """Return what the device is set to, by name; empty if its driver does not say."""
        return self._source.settings()

    def counters(self) -> dict[str, float]:
        """Return the counters of errors that the driver keeps; empty if it keeps none."""
        return self._source.counters()

    def errors(self) -> tuple[str, ...]:
        """Hardware errors that the driver has counted since the telemetry was opened."""
        return self._source.errors()

    def __enter__(self) -> "Telemetry":
        if self._source.in_background:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self.read_once()

    def begin_span(self) -> float:
        """Begin a measurement, and return the time [s] of ``time.monotonic``."""
        self._span_begin_s = time.monotonic()
        return self._span_begin_s

    def read_if_due(self) -> None:
        """Read the sensors unless that was done less than a period ago in the same measurement."""
        if self._source.in_background:
            return
        last_s = self._readings[-1].time_s if self._readings else float("-inf")
        if last_s < self._span_begin_s or time.monotonic() - last_s >= PERIOD_S:
            self.read_once()

    def read_once(self) -> None:
        """Read the sensors now. A sensor that fails is not read again; the description says so."""
        if self._failed:
            return
        try:
            self._readings.append(self._source.read())
        except Exception as error:  # a failing sensor must not end the measurement
            self._failed = True
            self.description += f" (stopped: {type(error).__name__}: {error})"

    def span(self, begin_s: float, end_s: float) -> Span:
        """Summarize the readings between two times of ``time.monotonic``.

        On a CPU a reading up to one period after the end is included, because a reading there
        covers the time since the previous one. A span without any reading has no values.
        """
        slack_s = PERIOD_S if self._source.in_background else 0.0
        inside = [r for r in self._readings if begin_s <= r.time_s <= end_s + slack_s]
        tags = {f"throttled:{reason}" for r in inside for reason in r.throttled}
        busy = _median([r.busy_elsewhere_fraction for r in inside])
        if busy is not None and busy > BUSY_ELSEWHERE:
            tags.add("noisy-neighbour")
        # A sensor that reports the mean of the last second says nothing about a shorter case.
        settled = [r for r in inside if r.time_s - begin_s >= r.power_window_s]
        return Span(
            clock_mhz=_median([r.clock_mhz for r in inside]),
            power_w=_median([r.power_w for r in settled]),
            temperature_c=_median([r.temperature_c for r in inside]),
            busy_elsewhere_fraction=busy,
            tags=tuple(sorted(tags)),
            memory_clock_mhz=_median([r.memory_clock_mhz for r in inside]),
        )

    def busy_elsewhere(self) -> float | None:
        """Mean share of the CPU used by other programs during the run; None if unknown."""
        known = [r.busy_elsewhere_fraction for r in self._readings]
        shares = [b for b in known if b is not None]
        return statistics.fmean(shares) if shares else None


def _median(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def open_telemetry(kind: str, index: int = 0) -> Telemetry:
    """Open the telemetry of a device: NVML, amdsmi or the files of the Linux kernel.

    Parameters
    ----------
    kind : {'cpu', 'cuda', 'rocm'}
        Kind of device.
    index : int, default 0
        Index of the GPU among those visible to torch.
    """
    from groundspeed.calibrate.timing.amdsmi_source import amdsmi_source
    from groundspeed.calibrate.timing.cpu_source import cpu_source
    from groundspeed.calibrate.timing.nvml_source import nvml_source

    sources: dict[str, Callable[[], Source]] = {
        "cpu": cpu_source,
        "cuda": lambda: nvml_source(index),
        "rocm": lambda: amdsmi_source(index),
    }
    return Telemetry(sources[kind]())
