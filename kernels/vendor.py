"""Differences between GPU vendors that kernels must respect: fp8 format and pipelining depth.

An MI300X computes fp8 in the FNUZ encodings (no negative zero, one more exponent step). All other
GPUs, including the successor of the MI300X, use the OCP encodings. On NVIDIA GPUs the Triton
compiler pipelines loads over many stages of shared memory. On CDNA two stages are best, and the
64 KiB of local memory (LDS) do not allow more.

    fp8 = vendor_of(torch.device("cuda")).fp8
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Vendor:
    """Properties of a GPU vendor or architecture that kernels depend on."""

    name: str
    """``nvidia``, ``amd`` or ``cpu``."""
    fp8: torch.dtype
    """The E4M3 data type that the matrix units compute with."""
    most_stages: int
    """Largest software pipelining depth (``num_stages`` in Triton) that is useful."""


NVIDIA = Vendor("nvidia", torch.float8_e4m3fn, most_stages=8)
CDNA3 = Vendor("amd", torch.float8_e4m3fnuz, most_stages=2)
CDNA4 = Vendor("amd", torch.float8_e4m3fn, most_stages=2)
CPU = Vendor("cpu", torch.float8_e4m3fn, most_stages=8)


def compute_units(device: torch.device) -> int:
    """Return the number of SMs (NVIDIA) or CUs (AMD); 1 on a CPU, where Triton is interpreted."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def vendor_of(device: torch.device) -> Vendor:
    """Return the vendor properties of a device of this machine."""
    if device.type != "cuda":
        return CPU
    if torch.version.hip is None:
        return NVIDIA
    architecture = torch.cuda.get_device_properties(device).gcnArchName
    return CDNA3 if architecture.startswith(("gfx940", "gfx941", "gfx942")) else CDNA4
