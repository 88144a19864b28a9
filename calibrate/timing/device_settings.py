"""Read what a GPU is set to and what its driver has counted, for comparison with other GPUs.

A power cap, a clock limit, half of the lanes or an old firmware slow one GPU of a fleet, and none
of them is an error to the driver. Counters tell of memory and links that wear out before they
fail. Neither changes during a measurement, so both are read once, after it: a link that saves power
while it is idle shows its real generation then. What a driver does not know is left out.

    settings = nvml_settings(pynvml, handle)
"""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

MOST_NVLINKS = 18
"""Largest number of NVLinks of a GPU (Hopper and Blackwell)."""

Read = tuple[str, Callable[[], Any]]


def _known(reads: list[Read], errors: tuple[type[BaseException], ...]) -> Iterator[tuple[str, Any]]:
    """Yield the results of the queries that this driver and GPU answer."""
    for name, query in reads:
        try:
            value = query()
        except errors:
            continue
        if value is not None and str(value).strip().upper() not in ("", "N/A", "NONE"):
            yield name, value


def nvml_settings(nvml: ModuleType, handle: object) -> dict[str, str]:
    """Return the settings of an NVIDIA GPU by name; numbers as text without units.

    Parameters
    ----------
    nvml : module
        ``pynvml``, initialized.
    handle : object
        Handle of the GPU.
    """

    def text(value: object) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    def links() -> int | None:
        up = 0
        for link in range(MOST_NVLINKS):
            try:
                up += int(nvml.nvmlDeviceGetNvLinkState(handle, link) == 1)
            except (nvml.NVMLError, AttributeError):
                break
        return up or None

    reads: list[Read] = [
        ("power_cap", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) // 1000),
        ("ecc", lambda: nvml.nvmlDeviceGetEccMode(handle)[0]),
        ("persistence", lambda: nvml.nvmlDeviceGetPersistenceMode(handle)),
        ("pcie_width", lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle)),
        ("pcie_gen", lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)),
        ("nvlinks", links),
        ("clock_limit",
         lambda: nvml.nvmlDeviceGetApplicationsClock(handle, nvml.NVML_CLOCK_SM)),
        ("memory_clock_limit",
         lambda: nvml.nvmlDeviceGetApplicationsClock(handle, nvml.NVML_CLOCK_MEM)),
        ("vbios", lambda: text(nvml.nvmlDeviceGetVbiosVersion(handle))),
        ("driver", lambda: text(nvml.nvmlSystemGetDriverVersion())),
    ]  # fmt: skip
    return {name: str(v) for name, v in _known(reads, (nvml.NVMLError, AttributeError, TypeError))}


def nvml_counters(nvml: ModuleType, handle: object) -> dict[str, float]:
    """Return the counters of errors of an NVIDIA GPU by name."""

    def ecc(kind: str) -> int:
        return int(
            nvml.nvmlDeviceGetTotalEccErrors(
                handle, getattr(nvml, f"NVML_MEMORY_ERROR_TYPE_{kind}"), nvml.NVML_VOLATILE_ECC
            )
        )

    def nvlink_errors() -> int | None:
        total, known = 0, False
        kinds = [getattr(nvml, f"NVML_NVLINK_ERROR_DL_{k}", None) for k in ("REPLAY", "RECOVERY")]
        for link in range(MOST_NVLINKS):
            for kind in kinds:
                try:
                    if kind is not None:
                        total += int(nvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, kind))
                        known = True
                except (nvml.NVMLError, AttributeError):
                    continue
        return total if known else None

    def retired() -> int:
        causes = (nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
                  nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)  # fmt: skip
        return sum(len(nvml.nvmlDeviceGetRetiredPages(handle, cause)) for cause in causes)

    reads: list[Read] = [
        ("ecc_uncorrected_volatile", lambda: ecc("UNCORRECTED")),
        ("ecc_corrected_volatile", lambda: ecc("CORRECTED")),
        ("rows_remapped_corrected", lambda: nvml.nvmlDeviceGetRemappedRows(handle)[0]),
        ("rows_remapped_uncorrected", lambda: nvml.nvmlDeviceGetRemappedRows(handle)[1]),
        ("row_remap_pending", lambda: nvml.nvmlDeviceGetRemappedRows(handle)[2]),
        ("row_remap_failure", lambda: nvml.nvmlDeviceGetRemappedRows(handle)[3]),
        ("retired_pages", retired),
        ("retired_pages_pending", lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)),
        ("pcie_replay_count", lambda: nvml.nvmlDeviceGetPcieReplayCounter(handle)),
        ("nvlink_replay_errors", nvlink_errors),
    ]
    errors = (nvml.NVMLError, AttributeError, TypeError, ValueError)
    return {name: float(value) for name, value in _known(reads, errors)}


def amdsmi_settings(smi: ModuleType, handle: object) -> dict[str, str]:
    """Return the settings of an AMD GPU by name; numbers as text without units."""

    def cap() -> float | None:
        watts = float(smi.amdsmi_get_power_cap_info(handle)["power_cap"])
        return round(watts / 1e6 if watts > 1e5 else watts) or None

    def pcie(name: str) -> int:
        return int(smi.amdsmi_get_pcie_info(handle)["pcie_metric"][name])

    reads: list[Read] = [
        ("power_cap", cap),
        ("pcie_width", lambda: pcie("pcie_width")),
        ("pcie_gen", lambda: PCIE_GENERATION.get(pcie("pcie_speed") // 1000)),
        ("vbios", lambda: smi.amdsmi_get_gpu_vbios_info(handle)["version"]),
        ("driver", lambda: smi.amdsmi_get_gpu_driver_info(handle)["driver_version"]),
    ]
    return {name: str(value) for name, value in _known(reads, _amd_errors(smi))}


PCIE_GENERATION = {2: 1, 5: 2, 8: 3, 16: 4, 32: 5, 64: 6}
"""Generation of a PCIe link by its rate in GT/s, rounded down."""


def amdsmi_counters(smi: ModuleType, handle: object) -> dict[str, float]:
    """Return the counters of errors of an AMD GPU by name."""
    reads: list[Read] = [
        ("ecc_uncorrected_volatile",
         lambda: smi.amdsmi_get_gpu_total_ecc_count(handle)["uncorrectable_count"]),
        ("ecc_corrected_volatile",
         lambda: smi.amdsmi_get_gpu_total_ecc_count(handle)["correctable_count"]),
        ("retired_pages", lambda: len(smi.amdsmi_get_gpu_bad_page_info(handle))),
        ("pcie_replay_count",
         lambda: smi.amdsmi_get_pcie_info(handle)["pcie_metric"]["pcie_replay_count"]),
    ]  # fmt: skip
    return {
        name: float(value)
        for name, value in _known(reads, _amd_errors(smi))
        if str(value).replace(".", "", 1).isdigit()
    }


def _amd_errors(smi: ModuleType) -> tuple[type[BaseException], ...]:
    return smi.AmdSmiException, AttributeError, KeyError, TypeError, ValueError
