"""Sensors of an NVIDIA GPU, through NVML (the library behind ``nvidia-smi``).

Three traps are avoided. ``nvmlDeviceGetPowerUsage`` is the mean of the last second on recent GPUs,
so a short case would get the power of its predecessor: the instantaneous field is read instead, and
if a driver lacks it, power is reported for longer cases only. CUDA and NVML number devices
differently, so a device is found by its UUID. A slice of a GPU (MIG) has a UUID of its own and no
sensors of its own: those of the whole GPU are read, and the description says so.
"""

import time
from collections.abc import Callable
from types import ModuleType

import torch

from groundspeed.calibrate.timing.device_settings import nvml_counters, nvml_settings
from groundspeed.calibrate.timing.reading import (
    Reading,
    Source,
    State,
    counted,
    others_of,
    silent_source,
)

AVERAGED_S = 1.0
"""[s] Time over which ``nvmlDeviceGetPowerUsage`` averages on recent GPUs."""

REASONS = {0x4: "power-cap", 0x8: "hardware", 0x20: "thermal", 0x40: "thermal", 0x80: "power"}
"""Throttle reasons by bit. Idle clocks and clocks set by an application are left out, because they
do not disturb a measurement."""


def nvml_source(index: int) -> Source:
    """Open the sensors of a GPU; without NVML, the description says why there are none."""
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        handle, is_slice = _handle_of(pynvml, uuid)
    except Exception as error:  # a driver error disables telemetry but not the measurement
        return silent_source(f"none (NVML: {error})")
    return _Nvml(pynvml, handle, is_slice=is_slice).source()


def _handle_of(nvml: ModuleType, uuid: str) -> tuple[object, bool]:
    """Return the handle of the GPU whose sensors apply, and whether the device is a slice of it."""
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}")
    except nvml.NVMLError:
        handle = nvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")
    try:
        if nvml.nvmlDeviceIsMigDeviceHandle(handle):
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), True
    except nvml.NVMLError:  # a driver without MIG
        pass
    return handle, False


class _Nvml:
    """Queries of one GPU."""

    def __init__(self, nvml: ModuleType, handle: object, *, is_slice: bool) -> None:
        self.nvml = nvml
        self.handle = handle
        self.is_slice = is_slice
        self.instantaneous = self._instant_power_w() is not None
        self._events = self._register_events()
        self._before = self._error_counts()
        self._xids: list[int] = []

    def source(self) -> Source:
        about = "instantaneous power" if self.instantaneous else "power averaged over one second"
        whole = ", sensors of the whole GPU of which this is a slice" if self.is_slice else ""
        return Source(
            self.read,
            f"NVML, {about}{whole}",
            self.state(),
            self.errors,
            lambda: nvml_settings(self.nvml, self.handle),
            lambda: nvml_counters(self.nvml, self.handle),
        )

    def _or_none(self, query: Callable[[], float]) -> float | None:
        try:
            return float(query())
        except (self.nvml.NVMLError, AttributeError):  # not every GPU supports every query
            return None

    def state(self) -> State:
        nvml, handle = self.nvml, self.handle
        cap_mw = self._or_none(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        ecc = self._or_none(lambda: nvml.nvmlDeviceGetEccMode(handle)[0])
        mig = self._or_none(lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
        persistence = self._or_none(lambda: nvml.nvmlDeviceGetPersistenceMode(handle))
        generation = self._or_none(lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle))
        width = self._or_none(lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))
        try:
            pids = [p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
        except nvml.NVMLError:
            pids = []
        return State(
            persistence=None if persistence is None else bool(persistence),
            host_link=f"PCIe gen {generation:.0f} x{width:.0f}" if generation and width else None,
            power_cap_w=cap_mw / 1e3 if cap_mw else None,
            ecc=None if ecc is None else bool(ecc),
            partition_mode=None if mig is None else ("MIG" if mig else "whole"),
            # The processes of the other slices of a GPU are not ours to count.
            other_processes=None if self.is_slice else others_of(pids),
        )

    def read(self) -> Reading:
        nvml, handle = self.nvml, self.handle
        bits = self._or_none(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        power = self._instant_power_w() if self.instantaneous else self._averaged_power_w()
        return Reading(
            time.monotonic(),
            self._or_none(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            power,
            self._or_none(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            tuple(sorted({name for bit, name in REASONS.items() if int(bits or 0) & bit})),
            memory_clock_mhz=self._or_none(
                lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)
            ),
            power_window_s=0.0 if self.instantaneous else AVERAGED_S,
        )

    def _averaged_power_w(self) -> float | None:
        milliwatts = self._or_none(lambda: self.nvml.nvmlDeviceGetPowerUsage(self.handle))
        return None if milliwatts is None else milliwatts / 1e3

    def _instant_power_w(self) -> float | None:
        """[W] Power at this moment; None if the driver lacks the field."""
        nvml = self.nvml
        try:
            (field,) = nvml.nvmlDeviceGetFieldValues(self.handle, [nvml.NVML_FI_DEV_POWER_INSTANT])
        except (nvml.NVMLError, AttributeError, ValueError):
            return None
        if field.nvmlReturn != nvml.NVML_SUCCESS:
            return None
        return float(field.value.uiVal) / 1e3

    # ---- errors of the hardware ----

    def _register_events(self) -> object:
        nvml = self.nvml
        try:
            events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(self.handle, nvml.nvmlEventTypeXidCriticalError, events)
        except (nvml.NVMLError, AttributeError):
            return None
        return events

    def _error_counts(self) -> dict[str, int]:
        nvml, handle = self.nvml, self.handle
        counts = {}
        uncorrected = self._or_none(
            lambda: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            )
        )
        if uncorrected is not None:
            counts["uncorrected ECC errors"] = int(uncorrected)
        try:
            corrected, not_corrected, pending, failed = nvml.nvmlDeviceGetRemappedRows(handle)
        except (nvml.NVMLError, AttributeError):
            return counts
        return counts | {
            "memory rows remapped after corrected errors": int(corrected),
            "memory rows remapped after uncorrected errors": int(not_corrected),
            "row remapping waits for a reset of the GPU": int(pending),
            "row remapping failed: the GPU must be replaced": int(failed),
        }

    def errors(self) -> tuple[str, ...]:
        """Hardware errors since the source was opened, and states that need a reset or repair."""
        now = self._error_counts()
        standing = [
            name for name in now if name.startswith("row remapping") and self._before.get(name)
        ]
        self._collect_xids()
        xids = tuple(f"XID error {xid} from the driver" for xid in dict.fromkeys(self._xids))
        return (*counted(self._before, now), *standing, *xids)

    def _collect_xids(self) -> None:
        if self._events is None:
            return
        while True:
            try:
                event = self.nvml.nvmlEventSetWait(self._events, 0)
            except self.nvml.NVMLError:  # a timeout: there is no further event
                return
            self._xids.append(int(event.eventData))
