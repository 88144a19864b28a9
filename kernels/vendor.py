"""Differences between vendors, in one place: the fp8 format, pipelining, shared memory.

An MI300X computes fp8 in the FNUZ encodings (no negative zero, one more exponent step), everybody
else, its successor included, in the OCP ones. NVIDIA's compiler pipelines loads over many stages
of shared memory; on CDNA two stages are the useful number and the 64 KiB of local memory forbid
more.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Vendor:
    """What a kernel must know about whose chip it runs on."""

    name: str
    fp8: torch.dtype
    most_stages: int
    """Software pipelining depth that pays."""


NVIDIA = Vendor("nvidia", torch.float8_e4m3fn, most_stages=8)
CDNA3 = Vendor("amd", torch.float8_e4m3fnuz, most_stages=2)
CDNA4 = Vendor("amd", torch.float8_e4m3fn, most_stages=2)
CPU = Vendor("cpu", torch.float8_e4m3fn, most_stages=8)


def compute_units(device: torch.device) -> int:
    """Streaming multiprocessors or compute units; one for a processor (the interpreter)."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def vendor_of(device: torch.device) -> Vendor:
    """The vendor of a device that is here."""
    if device.type != "cuda":
        return CPU
    if torch.version.hip is None:
        return NVIDIA
    architecture = torch.cuda.get_device_properties(device).gcnArchName
    return CDNA3 if architecture.startswith(("gfx940", "gfx941", "gfx942")) else CDNA4
