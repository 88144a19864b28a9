"""What the machine was doing meanwhile: clock, power, temperature, throttling, other programs.

A thread reads the sensors every 50 ms while cases are timed; each measurement then takes the
readings of its own span. A disturbed sample is tagged, never silently dropped. Sensors that a
machine does not have are a stated fact, not an error: the profile says which were there.
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
BUSY_ELSEWHERE = 0.10
"""Share of the processor taken by others above which a measurement is tagged."""


@dataclass(frozen=True)
class Reading:
    """One look at the sensors; None where there is none."""

    time_s: float
    clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    busy_elsewhere_fraction: float | None = None
    memory_clock_mhz: float | None = None


@dataclass(frozen=True)
class Span:
    """The readings of one measurement, summed up."""

    clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    busy_elsewhere_fraction: float | None
    tags: tuple[str, ...]
    memory_clock_mhz: float | None = None


@dataclass(frozen=True)
class State:
    """What does not change while measuring; None where it cannot be read."""

    power_cap_w: float | None = None
    ecc: bool | None = None
    partition_mode: str | None = None
    persistence: bool | None = None
    host_link: str | None = None
    other_processes: int | None = None
    """Compute processes on the device beside this one."""


Sensor = Callable[[], Reading]


class Telemetry:
    """Reads a sensor in the background; use as a context."""

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
            except Exception as error:  # a sensor that fails must not fail the measurement
                self.description += f" (stopped: {type(error).__name__}: {error})"
                return

    def span(self, begin_s: float, end_s: float) -> Span:
        """Sum up the readings between two times of ``time.monotonic``.

        A span shorter than the period takes the reading that comes right after it.
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
        """Mean share of the processor that others took during the whole run."""
        known = [r.busy_elsewhere_fraction for r in self._readings]
        shares = [b for b in known if b is not None]
        return statistics.fmean(shares) if shares else None


def _median(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def open_telemetry(kind: str, index: int = 0) -> Telemetry:
    """The best telemetry present for a device.

    Parameters
    ----------
    kind : {'cpu', 'cuda', 'rocm'}
    index : int, default 0
        Of the GPU among those visible.
    """
    if kind == "cuda":
        return _nvml(index)
    if kind == "rocm":
        return _amdsmi(index)
    return Telemetry(CpuSensor(), "processor load from /proc/stat, clock from /sys")


class CpuSensor:
    """Load of other programs and the hypervisor, and the core clock where the kernel shows it."""

    def __init__(self) -> None:
        self._last = self._ticks()

    def __call__(self) -> Reading:
        """Read the counters; loads are since the last call."""
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
        """Busy, stolen and all ticks of the machine, and this process's own."""
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
    """NVIDIA's management library, or the fact that it is absent."""
    try:
        import pynvml

        pynvml.nvmlInit()
        # By identity, not by number: CUDA and NVML number devices differently.
        uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception as error:  # any driver trouble means: no telemetry, measuring goes on
        return Telemetry(lambda: Reading(time.monotonic()), f"none (NVML: {error})")
    # Reasons are bits; idle and the application's own clock setting are not trouble.
    reasons = {0x4: "power-cap", 0x8: "hardware", 0x20: "thermal", 0x40: "thermal", 0x80: "power"}

    def query_or_none(query: Callable[[], float]) -> float | None:
        try:
            return float(query())
        except pynvml.NVMLError:  # not every part answers every question
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
    """AMD's management library, or the fact that it is absent."""
    try:
        import amdsmi  # pyright: ignore[reportMissingImports]

        amdsmi.amdsmi_init()
        # By address, not by number: HIP_VISIBLE_DEVICES renumbers what torch sees.
        p = torch.cuda.get_device_properties(index)
        domain, bus, slot = (getattr(p, f"pci_{n}_id") for n in ("domain", "bus", "device"))
        address = f"{domain:04x}:{bus:02x}:{slot:02x}"
        handle = next(
            h
            for h in amdsmi.amdsmi_get_processor_handles()
            if str(amdsmi.amdsmi_get_gpu_device_bdf(h)).lower().startswith(address)
        )
    except Exception as error:  # any driver trouble means: no telemetry, measuring goes on
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
    """What an AMD device tells about itself; each question may go unanswered."""

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
        # Microwatts in some releases and watts in others: no GPU has a tenth of a megawatt.
        power_cap_w=cap / 1e6 if cap and cap > 1e5 else cap or None,
        ecc=query_or_none(lambda: amdsmi.amdsmi_get_gpu_total_ecc_count(handle) is not None),
        partition_mode=query_or_none(partition),
        host_link=query_or_none(link),
        other_processes=query_or_none(others),
    )
