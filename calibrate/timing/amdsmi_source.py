"""Sensors of an AMD GPU, through amdsmi (the library behind ``amd-smi``).

``HIP_VISIBLE_DEVICES`` changes torch's numbering, so a device is found by its PCI address. Slices
of a GPU (CPX, DPX) share that address; their partition modes are part of the state.
"""

import time
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import torch

from groundspeed.calibrate.timing.device_settings import amdsmi_counters, amdsmi_settings
from groundspeed.calibrate.timing.reading import (
    Reading,
    Source,
    State,
    counted,
    others_of,
    silent_source,
)

Answer = TypeVar("Answer")

VIOLATIONS = {
    "active_ppt_pwr": "power-cap",
    "active_socket_thrm": "thermal",
    "active_vr_thrm": "thermal",
    "active_hbm_thrm": "thermal",
    "active_prochot_thrm": "hardware",
}
"""Throttle reason for each violation that amdsmi reports."""


def amdsmi_source(index: int) -> Source:
    """Open the sensors of a GPU; without amdsmi, the description says why there are none."""
    address = ""
    try:
        import amdsmi  # pyright: ignore[reportMissingImports]

        amdsmi.amdsmi_init()
        properties = torch.cuda.get_device_properties(index)
        names = [f"pci_{n}_id" for n in ("domain", "bus", "device")]
        missing = [n for n in names if not hasattr(properties, n)]
        if missing:
            return silent_source(
                f"none (torch {torch.__version__} does not tell the PCI address: {missing[0]})"
            )
        domain, bus, slot = (int(getattr(properties, n)) for n in names)
        address = f"{domain:04x}:{bus:02x}:{slot:02x}"
        handle = next(
            h
            for h in amdsmi.amdsmi_get_processor_handles()
            if str(amdsmi.amdsmi_get_gpu_device_bdf(h)).lower().startswith(address)
        )
    except StopIteration:
        return silent_source(f"none (amdsmi lists no GPU at {address})")
    except Exception as error:  # a driver error disables telemetry but not the measurement
        return silent_source(f"none (amdsmi: {error})")
    return _Amdsmi(amdsmi, handle).source()


def _number(value: object) -> float | None:
    """Return a number; amdsmi says ``N/A`` for a sensor that a GPU does not have."""
    return float(value) if isinstance(value, int | float) else None


class _Amdsmi:
    """Queries of one GPU."""

    def __init__(self, amdsmi: ModuleType, handle: object) -> None:
        self.amdsmi = amdsmi
        self.handle = handle
        self._before = self._error_counts()

    def source(self) -> Source:
        power = self._or_none(lambda: self.amdsmi.amdsmi_get_power_info(self.handle)) or {}
        known = _number(power.get("current_socket_power")) is not None
        about = "current socket power" if known else "average socket power"
        return Source(
            self.read,
            f"amdsmi, {about}",
            self.state(),
            self.errors,
            lambda: amdsmi_settings(self.amdsmi, self.handle),
            lambda: amdsmi_counters(self.amdsmi, self.handle),
        )

    def _or_none(self, query: Callable[[], Answer]) -> Answer | None:
        try:
            return query()
        except (self.amdsmi.AmdSmiException, AttributeError, KeyError, TypeError):
            return None

    def read(self) -> Reading:
        smi, handle = self.amdsmi, self.handle
        kinds = smi.AmdSmiClkType
        clock = self._or_none(lambda: smi.amdsmi_get_clock_info(handle, kinds.GFX)) or {}
        memory_clock = self._or_none(lambda: smi.amdsmi_get_clock_info(handle, kinds.MEM)) or {}
        power = self._or_none(lambda: smi.amdsmi_get_power_info(handle)) or {}
        current = _number(power.get("current_socket_power"))
        heat = self._or_none(
            lambda: smi.amdsmi_get_temp_metric(
                handle, smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
            )
        )
        return Reading(
            time.monotonic(),
            _number(clock.get("clk")),
            current if current is not None else _number(power.get("average_socket_power")),
            _number(heat),
            self._throttled(),
            memory_clock_mhz=_number(memory_clock.get("clk")),
            power_window_s=0.0 if current is not None else 1.0,
        )

    def _throttled(self) -> tuple[str, ...]:
        status = self._or_none(lambda: self.amdsmi.amdsmi_get_violation_status(self.handle)) or {}
        return tuple(sorted({v for k, v in VIOLATIONS.items() if status.get(k) is True}))

    def state(self) -> State:
        smi, handle = self.amdsmi, self.handle

        def link() -> str:
            metric = smi.amdsmi_get_pcie_info(handle)["pcie_metric"]
            return f"PCIe {metric['pcie_speed'] / 1e3:g} GT/s x{metric['pcie_width']}"

        def partition() -> str:
            compute = smi.amdsmi_get_gpu_compute_partition(handle)
            return f"{compute} {smi.amdsmi_get_gpu_memory_partition(handle)}"

        cap = self._or_none(lambda: float(smi.amdsmi_get_power_cap_info(handle)["power_cap"]))
        pids = self._or_none(
            lambda: [int(p["pid"]) for p in smi.amdsmi_get_gpu_process_list(handle)]
        )
        return State(
            # Some amdsmi releases report microwatts, others watts. No GPU has a cap above 100 kW,
            # so larger values are microwatts.
            power_cap_w=cap / 1e6 if cap and cap > 1e5 else cap or None,
            ecc=self._or_none(lambda: smi.amdsmi_get_gpu_total_ecc_count(handle) is not None),
            partition_mode=self._or_none(partition),
            host_link=self._or_none(link),
            other_processes=others_of(pids or []),
        )

    def _error_counts(self) -> dict[str, int]:
        counts = self._or_none(lambda: self.amdsmi.amdsmi_get_gpu_total_ecc_count(self.handle))
        known = _number((counts or {}).get("uncorrectable_count"))
        return {} if known is None else {"uncorrected ECC errors": int(known)}

    def errors(self) -> tuple[str, ...]:
        """Hardware errors since the source was opened."""
        return counted(self._before, self._error_counts())
