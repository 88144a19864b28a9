"""NVML of a simulated machine; its functions have the names and results of nvidia-ml-py.

``Machine.driver`` may hold: ``host_pids`` (the numbers of processes as a container sees them),
``others`` (pids of other processes), ``silent`` (names of sensors that are not supported), ``mig``
(the devices are slices), ``no_instant_power``, ``ecc``, ``remapped``, ``xids`` (errors that come up
after the start), ``pcie_width``, ``nvlinks``, ``clock_limit``, ``vbios``, ``pcie_replay``.
"""

import os
from types import SimpleNamespace
from typing import Any

NVML_SUCCESS = 0
NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
NVML_TEMPERATURE_GPU = 0
NVML_FI_DEV_POWER_INSTANT = 186
NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1
NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS = 0
NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR = 1
NVML_VOLATILE_ECC = 0
nvmlEventTypeXidCriticalError = 8
ERROR_AFTER = 2
"""Queries of a counter that see the state before the errors of ``Machine.driver``."""


class NVMLError(Exception):
    """As in nvidia-ml-py."""


class NVMLError_NotSupported(NVMLError):
    """As in nvidia-ml-py."""


def _sim() -> Any:
    from simulated_gpu.install import THE_MACHINE

    return THE_MACHINE[0]


def _driver() -> dict[str, Any]:
    return dict(_sim().machine.driver)


def _supported(name: str) -> None:
    if name in _driver().get("silent", ()):
        raise NVMLError_NotSupported("Not Supported")


def nvmlInit() -> None:
    if _driver().get("no_nvml"):
        raise NVMLError("NVML Shared Library Not Found")


def nvmlDeviceGetHandleByUUID(uuid: str) -> Any:
    wanted = "MIG-" if _driver().get("mig") else "GPU-"
    for device in _sim().devices:
        from simulated_gpu.cuda import uuid_of

        if uuid == f"{wanted}{uuid_of(device.index)}":
            return SimpleNamespace(device=device, mig=wanted == "MIG-")
    raise NVMLError("Not Found")


def nvmlDeviceIsMigDeviceHandle(handle: Any) -> bool:
    return bool(handle.mig)


def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle: Any) -> Any:
    return SimpleNamespace(device=handle.device, mig=False)


def _whole(handle: Any) -> None:
    if handle.mig:
        raise NVMLError_NotSupported("Not Supported")


def nvmlDeviceGetEnforcedPowerLimit(handle: Any) -> int:
    _whole(handle)
    return round(handle.device.chip.power_cap_w * 1e3)


def nvmlDeviceGetEccMode(handle: Any) -> list[int]:
    return [1, 1]


def nvmlDeviceGetMigMode(handle: Any) -> list[int]:
    on = int(bool(_driver().get("mig")))
    return [on, on]


def nvmlDeviceGetPersistenceMode(handle: Any) -> int:
    return 1


def nvmlDeviceGetCurrPcieLinkGeneration(handle: Any) -> int:
    return 5


def nvmlDeviceGetCurrPcieLinkWidth(handle: Any) -> int:
    return int(_driver().get("pcie_width", 16))


def nvmlDeviceGetNvLinkState(handle: Any, link: int) -> int:
    if link >= 18:
        raise NVMLError_NotSupported("Not Supported")
    return int(link < int(_driver().get("nvlinks", 18)))


def nvmlDeviceGetApplicationsClock(handle: Any, kind: int) -> int:
    return 2619 if kind == NVML_CLOCK_MEM else int(_driver().get("clock_limit", 1980))


def nvmlDeviceGetVbiosVersion(handle: Any) -> str:
    return str(_driver().get("vbios", "96.00.89.00.01"))


def nvmlSystemGetDriverVersion() -> bytes:
    return b"570.124.06"


def nvmlDeviceGetPcieReplayCounter(handle: Any) -> int:
    return int(_driver().get("pcie_replay", 0))


def nvmlDeviceGetRetiredPages(handle: Any, cause: int) -> list[int]:
    raise NVMLError_NotSupported("Not Supported")  # row remapping has taken its place


def nvmlDeviceGetComputeRunningProcesses(handle: Any) -> list[Any]:
    own = 4_000_000 + os.getpid() if _driver().get("host_pids") else os.getpid()
    return [SimpleNamespace(pid=p) for p in [own, *_driver().get("others", ())]]


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: Any) -> int:
    _supported("throttle")
    _, _, capped = handle.device.window(5e-3)
    return 0x4 if capped else 0x0


def nvmlDeviceGetClockInfo(handle: Any, kind: int) -> int:
    _supported("clock")
    if kind == NVML_CLOCK_MEM:
        return 2619
    return round(handle.device.window(5e-3)[1] / 1e6)


def nvmlDeviceGetPowerUsage(handle: Any) -> int:
    """Mean over the last second, as on Hopper."""
    _supported("power")
    return round(handle.device.window(1.0)[0] * 1e3)


def nvmlDeviceGetFieldValues(handle: Any, fields: list[int]) -> list[Any]:
    if _driver().get("no_instant_power"):
        return [SimpleNamespace(nvmlReturn=3, value=SimpleNamespace(uiVal=0)) for _ in fields]
    _supported("power")
    milliwatts = round(handle.device.window(5e-3)[0] * 1e3)
    value = SimpleNamespace(uiVal=milliwatts)
    return [SimpleNamespace(nvmlReturn=NVML_SUCCESS, value=value) for _ in fields]


def nvmlDeviceGetTemperature(handle: Any, kind: int) -> int:
    _supported("temperature")
    return round(35 + 0.05 * handle.device.window(1.0)[0])


def _counted(handle: Any, name: str) -> int:
    """Return a counter of ``Machine.driver`` once the device has worked."""
    begun = handle.device.busy_s > 0.5
    return int(_driver().get(name, 0)) if begun else 0


def nvmlDeviceGetTotalEccErrors(handle: Any, kind: int, counter: int) -> int:
    return _counted(handle, "ecc") if kind == NVML_MEMORY_ERROR_TYPE_UNCORRECTED else 0


def nvmlDeviceGetRemappedRows(handle: Any) -> tuple[int, int, int, int]:
    rows = _counted(handle, "remapped")
    return 0, rows, int(rows > 0), 0


def nvmlEventSetCreate() -> list[int]:
    return []


def nvmlDeviceRegisterEvents(handle: Any, kinds: int, events: list[int]) -> None:
    events += _driver().get("xids", ())


def nvmlEventSetWait(events: list[int], timeout_ms: int) -> Any:
    if not events:
        raise NVMLError("Timeout")
    return SimpleNamespace(eventData=events.pop(0))
