"""Record the state of the machine during timing: clock, power, temperature, throttling, other load.

A thread reads the sensors every 50 ms while cases are timed. Each measurement summarizes the
readings taken during its own span. A disturbed measurement is tagged and never dropped silently. A
missing sensor is no error: the profile records which sensors were available.

    with open_telemetry("cuda", 0) as telemetry:
        begin = time.monotonic()
        ...                                             # time a case
        span = telemetry.span(begin, time.monotonic())  # median clock, power, temperature; tags
"""

import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TypeVar

import torch

Answer = TypeVar("Answer")

PERIOD_S = 0.05
"""[s] Time between two readings of the sensors."""
BUSY_ELSEWHERE = 0.10
"""Share of the CPU used by other programs above which a measurement is tagged
``noisy-neighbour``."""


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


@dataclass(frozen=True)
class Span:
    """Medians of the readings taken during one measurement, and the tags derived from them."""

    clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    busy_elsewhere_fraction: float | None
    tags: tuple[str, ...]
    memory_clock_mhz: float | None = None


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


Sensor = Callable[[], Reading]


class Telemetry:
    """Reads the sensors in a background thread, as a context manager.

    Parameters
    ----------
    sensor : callable
        Returns one reading of all sensors.
    description : str
        Source of the readings, stored in the profile.
    state : State, optional
        Constant device state. Default: nothing is known.
    """

    def __init__(self, sensor: Sensor, description: str, state: State | None = None) -> None:
        self.description = description
        self.state = state or State()
        self._sensor = sensor
        self._readings: list[Reading] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="telemetry", daemon=True)

    def __enter__(self) -> "Telemetry":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=2.0)

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD_S):
            try:
                self._readings.append(self._sensor())
            except Exception as error:  # a failing sensor must not end the measurement
                self.description += f" (stopped: {type(error).__name__}: {error})"
                return

    def span(self, begin_s: float, end_s: float) -> Span:
        """Summarize the readings between two times of ``time.monotonic``.

        A reading up to one period after the end is included, so that a short span has one too.
        """
        inside = [r for r in self._readings if begin_s <= r.time_s <= end_s + PERIOD_S]
        tags = {f"throttled:{reason}" for r in inside for reason in r.throttled}
        busy = _median([r.busy_elsewhere_fraction for r in inside])
        if busy is not None and busy > BUSY_ELSEWHERE:
            tags.add("noisy-neighbour")
        return Span(
            clock_mhz=_median([r.clock_mhz for r in inside]),
            power_w=_median([r.power_w for r in inside]),
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
    if kind == "cuda":
        return _nvml(index)
    if kind == "rocm":
        return _amdsmi(index)
    return Telemetry(CpuSensor(), "processor load from /proc/stat, clock from /sys")


class CpuSensor:
    """CPU sensor: load of other programs and of the hypervisor, and core clock if available."""

    def __init__(self) -> None:
        self._last = self._ticks()

    def __call__(self) -> Reading:
        """Read the counters; the load is the mean since the previous call."""
        busy, steal, total, own = self._ticks()
        before_busy, before_steal, before_total, before_own = self._last
        self._last = (busy, steal, total, own)
        elapsed = total - before_total
        elsewhere = None
        if elapsed > 0:
            others = (busy - before_busy) - (own - before_own) + (steal - before_steal)
            elsewhere = min(1.0, max(0.0, others / elapsed))
        return Reading(time.monotonic(), _cpu_clock_mhz(), busy_elsewhere_fraction=elsewhere)

    @staticmethod
    def _ticks() -> tuple[float, float, float, float]:
        """Busy, stolen and total clock ticks of the machine, and the ticks of this process."""
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        except OSError:
            return 0.0, 0.0, 0.0, 0.0
        user, nice, system, idle, wait, irq, softirq, steal, *_ = map(float, line.split()[1:])
        own = os.times()
        hertz = os.sysconf("SC_CLK_TCK")
        busy = user + nice + system + irq + softirq
        own_ticks = (own.user + own.system + own.children_user + own.children_system) * hertz
        return busy, steal, busy + steal + idle + wait, own_ticks


def _cpu_clock_mhz() -> float | None:
    try:
        path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
        return float(path.read_text(encoding="ascii")) / 1e3
    except (OSError, ValueError):
        return None


def _nvml(index: int) -> Telemetry:
    """Open NVML telemetry. Without NVML the description says why and all readings are empty."""
    try:
        import pynvml

        pynvml.nvmlInit()
        # Select the device by its UUID, because CUDA and NVML number devices differently.
        uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception as error:  # a driver error disables telemetry but not the measurement
        return Telemetry(lambda: Reading(time.monotonic()), f"none (NVML: {error})")
    # NVML reports the throttle reasons as bits. Idle clocks and clocks set by an application are
    # left out, because they do not disturb a measurement.
    reasons = {0x4: "power-cap", 0x8: "hardware", 0x20: "thermal", 0x40: "thermal", 0x80: "power"}

    def query_or_none(query: Callable[[], float]) -> float | None:
        try:
            return float(query())
        except pynvml.NVMLError:  # not every GPU supports every query
            return None

    cap_mw = query_or_none(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    ecc = query_or_none(lambda: pynvml.nvmlDeviceGetEccMode(handle)[0])
    mig = query_or_none(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    processes = query_or_none(
        lambda: sum(
            p.pid != os.getpid() for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        )
    )
    persistence = query_or_none(lambda: pynvml.nvmlDeviceGetPersistenceMode(handle))
    generation = query_or_none(lambda: pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle))
    width = query_or_none(lambda: pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle))
    state = State(
        persistence=None if persistence is None else bool(persistence),
        host_link=f"PCIe gen {generation:.0f} x{width:.0f}" if generation and width else None,
        power_cap_w=cap_mw / 1e3 if cap_mw else None,
        ecc=None if ecc is None else bool(ecc),
        partition_mode=None if mig is None else ("MIG" if mig else "whole"),
        other_processes=None if processes is None else int(processes),
    )

    def read() -> Reading:
        try:
            bits = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
            return Reading(
                time.monotonic(),
                float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
                pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
                float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
                tuple(sorted({name for bit, name in reasons.items() if bits & bit})),
                memory_clock_mhz=float(
                    pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)
                ),
            )
        except pynvml.NVMLError:
            return Reading(time.monotonic())

    return Telemetry(read, "NVML", state)


def _amdsmi(index: int) -> Telemetry:
    """Open amdsmi telemetry. Without amdsmi the description says why and all readings are empty."""
    try:
        import amdsmi  # pyright: ignore[reportMissingImports]

        amdsmi.amdsmi_init()
        # Select the device by its PCI address: HIP_VISIBLE_DEVICES changes torch's numbering.
        p = torch.cuda.get_device_properties(index)
        domain, bus, slot = (getattr(p, f"pci_{n}_id") for n in ("domain", "bus", "device"))
        address = f"{domain:04x}:{bus:02x}:{slot:02x}"
        handle = next(
            h
            for h in amdsmi.amdsmi_get_processor_handles()
            if str(amdsmi.amdsmi_get_gpu_device_bdf(h)).lower().startswith(address)
        )
    except Exception as error:  # a driver error disables telemetry but not the measurement
        return Telemetry(lambda: Reading(time.monotonic()), f"none (amdsmi: {error})")

    def number(value: object) -> float | None:
        return float(value) if isinstance(value, int | float) else None

    def read() -> Reading:
        try:
            clock = amdsmi.amdsmi_get_clock_info(handle, amdsmi.AmdSmiClkType.GFX)
            memory_clock = amdsmi.amdsmi_get_clock_info(handle, amdsmi.AmdSmiClkType.MEM)
            power = amdsmi.amdsmi_get_power_info(handle)
            heat = amdsmi.amdsmi_get_temp_metric(
                handle,
                amdsmi.AmdSmiTemperatureType.HOTSPOT,
                amdsmi.AmdSmiTemperatureMetric.CURRENT,
            )
            return Reading(
                time.monotonic(),
                number(clock.get("clk")),
                number(power.get("current_socket_power"))
                or number(power.get("average_socket_power")),
                number(heat),
                memory_clock_mhz=number(memory_clock.get("clk")),
            )
        except amdsmi.AmdSmiException:
            return Reading(time.monotonic())

    return Telemetry(read, "amdsmi", _amd_state(amdsmi, handle))


def _amd_state(amdsmi: ModuleType, handle: object) -> State:
    """Read the constant state of an AMD device; a property that cannot be read is None."""

    def query_or_none(query: Callable[[], Answer]) -> Answer | None:
        try:
            return query()
        except (amdsmi.AmdSmiException, AttributeError, KeyError, TypeError):
            return None

    def link() -> str:
        metric = amdsmi.amdsmi_get_pcie_info(handle)["pcie_metric"]
        return f"PCIe {metric['pcie_speed'] / 1e3:g} GT/s x{metric['pcie_width']}"

    def partition() -> str:
        compute = amdsmi.amdsmi_get_gpu_compute_partition(handle)
        return f"{compute} {amdsmi.amdsmi_get_gpu_memory_partition(handle)}"

    def others() -> int:
        return sum(p["pid"] != os.getpid() for p in amdsmi.amdsmi_get_gpu_process_list(handle))

    cap = query_or_none(lambda: float(amdsmi.amdsmi_get_power_cap_info(handle)["power_cap"]))
    return State(
        # Some amdsmi releases report microwatts, others watts. No GPU has a cap above 100 kW, so
        # larger values are microwatts.
        power_cap_w=cap / 1e6 if cap and cap > 1e5 else cap or None,
        ecc=query_or_none(lambda: amdsmi.amdsmi_get_gpu_total_ecc_count(handle) is not None),
        partition_mode=query_or_none(partition),
        host_link=query_or_none(link),
        other_processes=query_or_none(others),
    )
