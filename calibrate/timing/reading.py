"""What the sensors of a device give: readings, its constant state, and errors of the hardware.

source = nvml_source(0)
source.read().clock_mhz
"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """One reading of all sensors; None for a sensor that is not available."""

    time_s: float
    clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    busy_elsewhere_fraction: float | None = None
    memory_clock_mhz: float | None = None
    power_window_s: float = 0.0
    """[s] Time over which the sensor averages the power; 0 for an instantaneous reading."""


@dataclass(frozen=True)
class State:
    """Device state that stays constant during a run; None for a property that cannot be read."""

    power_cap_w: float | None = None
    ecc: bool | None = None
    partition_mode: str | None = None
    persistence: bool | None = None
    host_link: str | None = None
    other_processes: int | None = None
    """Number of other processes that compute on the device."""


def no_errors() -> tuple[str, ...]:
    """Return no errors: the driver counts none that this program can read."""
    return ()


@dataclass(frozen=True)
class Source:
    """Sensors of one device."""

    read: Callable[[], Reading]
    description: str
    """Source of the readings, stored in the profile."""
    state: State = State()
    errors: Callable[[], tuple[str, ...]] = no_errors
    """Returns the hardware errors that were counted since the source was opened."""
    settings: Callable[[], dict[str, str]] = dict
    """Returns what the device is set to, by name: see :mod:`.device_settings`."""
    counters: Callable[[], dict[str, float]] = dict
    """Returns the counters of errors that the driver keeps."""
    in_background: bool = False
    """Whether a thread reads the sensors; otherwise the timer does while the device is busy."""


def silent_source(reason: str) -> Source:
    """Return a source without sensors; its description gives the reason."""
    return Source(lambda: Reading(time.monotonic()), reason)


def others_of(pids: list[int]) -> int | None:
    """Return how many processes compute on the device beside this one.

    This process has a context on the device, so one of the processes is this one, also in a
    container in which the driver lists the process numbers of the host. An empty list means that
    the driver hides the processes.

    >>> others_of([4711]), others_of([17, 4711]), others_of([])
    (0, 1, None)
    """
    return len(set(pids)) - 1 if pids else None


def counted(before: dict[str, int], after: dict[str, int]) -> tuple[str, ...]:
    """Return one sentence for each counter that has grown.

    >>> counted({"uncorrected ECC errors": 2}, {"uncorrected ECC errors": 5})
    ('3 uncorrected ECC errors',)
    """
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    return tuple(f"{count} {name}" for name, count in grown.items() if count > 0)
