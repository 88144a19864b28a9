"""Open a device, find its datasheet, and record the environment of a measurement.

A GPU without a known datasheet, or a partition of a GPU, is measured too, but without utilization.

    running = open_device("cuda:0")
    running.device.name, running.datasheet
"""

import datetime
import functools
import os
import platform
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from groundspeed.calibrate.timing.allocator import keep_freed_memory
from groundspeed.calibrate.timing.telemetry import Telemetry
from groundspeed.calibrate.version import METHOD_VERSION, tool_version
from groundspeed.profiles.datasheet import DeviceSpec, find_device
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Device, Environment

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "sve", "bf16")


@dataclass(frozen=True)
class RunningDevice:
    """An opened device of this machine."""

    torch_device: torch.device
    device: Device
    datasheet: DeviceSpec | None
    """Datasheet; None for a CPU, an unknown GPU or a part of a GPU."""
    datasheet_note: str
    """Which datasheet was found, or why there is none."""
    allocator: str | None = None
    """Setting of the C library's allocator on a CPU; None on a GPU."""

    @property
    def memory_bytes(self) -> float:
        """Memory that the driver or the operating system reports."""
        if self.device.memory_bytes is None:
            raise AssertionError("the memory of an opened device is known")
        return self.device.memory_bytes

    @property
    def identity(self) -> str:
        """What distinguishes this device from an equal one: host, and UUID of a GPU."""
        uuid = _uuid(self.torch_device) if self.device.kind != "cpu" else None
        # The partitions of an AMD GPU share its UUID.
        part = f"/{self.torch_device.index}" if self.datasheet is None and uuid else ""
        return f"{socket.gethostname()}/{uuid or self.torch_device}{part}"


def open_device(name: str | None = None) -> RunningDevice:
    """Open a device of this machine.

    Parameters
    ----------
    name : str, optional
        ``cpu``, ``cuda`` or ``cuda:1`` (ROCm devices are called cuda too, as in torch). Default:
        the first GPU if there is one, else the CPU.

    Raises
    ------
    InputError
        If there is no such device, or the driver cannot open it.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return RunningDevice(
            torch.device("cpu"),
            describe_cpu(),
            None,
            "CPU: there is no datasheet, so only measured rates are shown",
            allocator=keep_freed_memory(),
        )
    match = re.fullmatch(r"(?:cuda|gpu|rocm|hip)(?::(\d{1,3}))?", name)
    if match is None:
        raise InputError(f"unknown device '{name}'", remedy="use cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        reason = _visibility_settings() or f"torch {torch.__version__} finds none"
        raise InputError(
            f"no GPU here ({reason})", remedy="check the driver, or measure with --device cpu"
        )
    index = int(match.group(1) or 0)
    if index >= torch.cuda.device_count():
        raise InputError(
            f"there is no GPU {index}",
            remedy=f"give an index below {torch.cuda.device_count()}, the number of visible GPUs",
        )
    try:
        torch.cuda.set_device(index)
        torch.zeros(1, device=f"cuda:{index}")
        properties = torch.cuda.get_device_properties(index)
    except RuntimeError as error:
        raise InputError(f"GPU {index} cannot be opened ({error})") from error
    rocm = torch.version.hip is not None
    name, units = str(properties.name), int(properties.multi_processor_count)
    spec, note = None, f"no datasheet is known for '{name}'"
    if " MIG " in name:
        note = f"'{name}' is a slice of a GPU: the datasheet of the whole GPU does not apply"
    try:
        match_in_datasheets = find_device(properties.name)
        spec, note = (
            match_in_datasheets.spec,
            match_in_datasheets.note or f"datasheet {match_in_datasheets.spec.id}",
        )
        if units < WHOLE_DEVICE * _units(spec):
            # A partition of an AMD GPU has the name of the whole GPU.
            name = f"{name}, {units} of {_units(spec):.0f} compute units"
            spec, note = None, f"only a part of {properties.name}: its datasheet does not apply"
    except InputError:
        pass  # an unknown GPU or a MIG slice is measured too, but without utilization
    cache = spec.last_level_cache_bytes if spec else None
    device = Device(
        name=name,
        kind="rocm" if rocm else "cuda",
        vendor="amd" if rocm else "nvidia",
        architecture=(
            properties.gcnArchName.split(":")[0]
            if rocm
            else f"sm_{properties.major}{properties.minor}"
        ),
        compute_units=units,
        memory_bytes=float(properties.total_memory),
        # The driver reports the L2 cache only; the Infinity Cache is known from the datasheet.
        last_level_cache_bytes=max(cache.value if cache else 0.0, float(properties.L2_cache_size))
        or None,
        max_clock_hz=spec.max_clock_hz.value if spec and spec.max_clock_hz else None,
    )
    return RunningDevice(torch.device("cuda", index), device, spec, note)


WHOLE_DEVICE = 0.9
"""Share of the datasheet's compute units below which a device is a partition (MIG, CPX)."""


def _units(spec: DeviceSpec) -> float:
    return spec.compute_units.value if spec.compute_units else 0.0


VISIBILITY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def _visibility_settings() -> str:
    """Describe the environment variables that may hide the GPUs; empty if none is set."""
    settings = [f"{v}='{os.environ[v]}' may hide it" for v in VISIBILITY if v in os.environ]
    return ", ".join(settings)


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """Read the block of the first core in /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    block = text.split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def describe_cpu() -> Device:
    """Describe the CPU from /proc, /sys and torch."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return Device(
        name=info.get("model name") or platform.processor() or platform.machine(),
        kind="cpu",
        vendor={"AuthenticAMD": "amd", "GenuineIntel": "intel"}.get(
            info.get("vendor_id", ""), info.get("vendor_id") or "unknown"
        ),
        architecture=platform.machine(),
        compute_units=torch.get_num_threads(),
        memory_bytes=_memory_bytes(),
        last_level_cache_bytes=_last_level_cache_bytes(),
        max_clock_hz=_max_clock_hz(),
        instruction_sets=tuple(s for s in INSTRUCTION_SETS if s in flags),
    )


def _last_level_cache_bytes() -> float | None:
    """[bytes] Total last-level cache of all cores that this process may use.

    A server CPU has one for each group of cores, and cold operands must be evicted from all of
    them.
    """
    sizes: dict[tuple[int, str], float] = {}
    for core in sorted(os.sched_getaffinity(0)):
        for index in Path(f"/sys/devices/system/cpu/cpu{core}/cache").glob("index*"):
            try:
                level = int((index / "level").read_text(encoding="ascii"))
                text = (index / "size").read_text(encoding="ascii").strip()
                shared = (index / "shared_cpu_list").read_text(encoding="ascii").strip()
            except (OSError, ValueError):
                continue
            unit = {"K": 1024.0, "M": 1024.0**2}.get(text[-1:], 0.0)
            if unit and text[:-1].isdigit():
                sizes[level, shared] = float(text[:-1]) * unit
    last = max((level for level, _ in sizes), default=0)
    return sum(size for (level, _), size in sizes.items() if level == last) or None


def _memory_bytes() -> float:
    """[bytes] Memory of the machine, or the memory limit of this container if it is lower."""
    machine = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or the word "max"
        return machine
    return min(machine, limit)


def _max_clock_hz() -> float | None:
    try:
        path = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
        return float(path.read_text(encoding="ascii")) * 1e3
    except (OSError, ValueError):
        return None


def read_environment(running: RunningDevice, *, telemetry: Telemetry, command: str) -> Environment:
    """Record the software, settings and surroundings that can change a measurement."""
    on_gpu = running.device.kind != "cpu"
    hypervisor = "hypervisor" in _cpuinfo().get("flags", "").split()
    return Environment(
        date_utc=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        host=socket.gethostname(),
        operating_system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        tool_version=tool_version(),
        method_version=METHOD_VERSION,
        command=command,
        libraries=_library_versions(),
        driver=_driver_version() if on_gpu else None,
        runtime=_runtime_version() if on_gpu else None,
        threads=None if on_gpu else torch.get_num_threads(),
        virtualization="virtual machine" if hypervisor else "none seen",
        telemetry=telemetry.description,
        allocator=running.allocator,
        power_cap_w=telemetry.state.power_cap_w,
        ecc=telemetry.state.ecc,
        partition_mode=telemetry.state.partition_mode,
        persistence=telemetry.state.persistence,
        host_link=telemetry.state.host_link,
        numa_nodes=len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or None,
        other_processes=telemetry.state.other_processes,
        device_index=running.torch_device.index,
        device_uuid=_uuid(running.torch_device) if on_gpu else None,
    )


def _uuid(device: torch.device) -> str | None:
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return str(uuid) if uuid is not None else None


def _library_versions() -> dict[str, str]:
    names = ("torch", "triton", "numpy", "scipy")
    versions = {}
    for name in names:
        module = sys.modules.get(name)
        if module is not None:
            versions[name] = str(getattr(module, "__version__", "unknown"))
    return versions


def _runtime_version() -> str | None:
    return f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"


def _driver_version() -> str | None:
    for path in (Path("/proc/driver/nvidia/version"), Path("/sys/module/amdgpu/version")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        version = re.search(r"\d+\.\d+(\.\d+)?", text)
        if version:
            return version.group(0)
    return None
