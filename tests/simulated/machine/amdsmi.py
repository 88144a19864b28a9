"""amdsmi of a simulated machine; its functions have the names and results of amdsmi 7.0.2.

``Machine.driver`` may hold ``silent`` (names of sensors that say ``N/A``), ``others`` (pids of
other processes), ``ecc`` (uncorrected errors after the start), ``partition`` (both modes).
"""

import os
from enum import IntEnum
from typing import Any


class AmdSmiException(Exception):
    """As in amdsmi."""


class AmdSmiClkType(IntEnum):
    """Kinds of clocks."""

    GFX = 0
    MEM = 4


class AmdSmiTemperatureType(IntEnum):
    """Places of temperature sensors."""

    HOTSPOT = 1


class AmdSmiTemperatureMetric(IntEnum):
    """Kinds of temperatures."""

    CURRENT = 0


def _sim() -> Any:
    from simulated_gpu.install import THE_MACHINE

    return THE_MACHINE[0]


def _or_na(name: str, value: float) -> Any:
    return "N/A" if name in _sim().machine.driver.get("silent", ()) else value


def amdsmi_init() -> None:
    if _sim().machine.driver.get("no_amdsmi"):
        raise AmdSmiException("driver not loaded")


def amdsmi_get_processor_handles() -> list[Any]:
    return list(_sim().devices)


def amdsmi_get_gpu_device_bdf(handle: Any) -> str:
    return f"0000:{16 + handle.index:02x}:00.0"


def amdsmi_get_clock_info(handle: Any, kind: AmdSmiClkType) -> dict[str, Any]:
    clock = 1300 if kind is AmdSmiClkType.MEM else round(handle.window(5e-3)[1] / 1e6)
    return {"clk": _or_na("clock", clock), "min_clk": 132, "max_clk": 2100}


def amdsmi_get_power_info(handle: Any) -> dict[str, Any]:
    now = round(handle.window(5e-3)[0])
    return {
        "socket_power": now,
        "current_socket_power": _or_na("current_power", now),
        "average_socket_power": _or_na("average_power", round(handle.window(1.0)[0])),
        "power_limit": 750,
    }


def amdsmi_get_temp_metric(
    handle: Any, kind: AmdSmiTemperatureType, metric: AmdSmiTemperatureMetric
) -> int:
    return round(35 + 0.05 * handle.window(1.0)[0])


def amdsmi_get_violation_status(handle: Any) -> dict[str, Any]:
    capped = handle.window(5e-3)[2]
    return {"active_ppt_pwr": capped, "active_socket_thrm": False, "active_vr_thrm": False,
            "active_hbm_thrm": "N/A", "active_prochot_thrm": False}  # fmt: skip


def amdsmi_get_pcie_info(handle: Any) -> dict[str, Any]:
    return {"pcie_metric": {"pcie_speed": 32000, "pcie_width": 16, "pcie_replay_count": 0}}


def amdsmi_get_gpu_vbios_info(handle: Any) -> dict[str, str]:
    return {"name": "AMD MI300X", "version": "022.040.003.043.000001"}


def amdsmi_get_gpu_driver_info(handle: Any) -> dict[str, str]:
    return {"driver_name": "amdgpu", "driver_version": "6.12.12"}


def amdsmi_get_gpu_bad_page_info(handle: Any) -> list[dict[str, int]]:
    return []


def amdsmi_get_gpu_compute_partition(handle: Any) -> str:
    return str(_sim().machine.driver.get("partition", ("SPX", "NPS1"))[0])


def amdsmi_get_gpu_memory_partition(handle: Any) -> str:
    return str(_sim().machine.driver.get("partition", ("SPX", "NPS1"))[1])


def amdsmi_get_power_cap_info(handle: Any) -> dict[str, Any]:
    return {"power_cap": round(handle.chip.power_cap_w * 1e6)}


def amdsmi_get_gpu_process_list(handle: Any) -> list[dict[str, Any]]:
    return [{"pid": p} for p in [os.getpid(), *_sim().machine.driver.get("others", ())]]


def amdsmi_get_gpu_total_ecc_count(handle: Any) -> dict[str, int]:
    count = int(_sim().machine.driver.get("ecc", 0)) if handle.busy_s > 0.5 else 0
    return {"correctable_count": 0, "uncorrectable_count": count, "deferred_count": 0}
