"""What older versions of torch and Triton lack, and what this program does without it.

The list is complete for the versions in ``tests/data/signatures.json``: a test compares every call
with each of them. ``groundspeed doctor`` names the gaps of the installed versions.

    for gap in gaps_here(): print(gap.sentence)
"""

import importlib
import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """A function, class or field that some supported versions of a library lack."""

    name: str
    """Full name: module, then attributes."""
    since: str
    """Library and first version that has it."""
    consequence: str
    """What this program does without it."""

    @property
    def sentence(self) -> str:
        """One line for the user."""
        return f"{self.name} needs {self.since}: {self.consequence}"


GAPS = (
    Gap(
        "triton.language.make_tensor_descriptor",
        "triton 3.3",
        "the persistent tiles of the Triton GEMM are left out",
    ),
    Gap(
        "triton.set_allocator",
        "triton 3.3",
        "the persistent tiles of the Triton GEMM are left out",
    ),
    Gap(
        "torch.distributed.launcher.api.LaunchConfig.shutdown_timeout",
        "torch 2.12",
        "after a rank is lost, the others end up to 30 s later",
    ),
    Gap(
        "torch.cuda._CudaDeviceProperties.pci_bus_id",
        "torch 2.8",
        "an AMD GPU has no readings of clock, power and throttling, and host memory is not placed "
        "near the GPU",
    ),
)


def gaps_here() -> list[Gap]:
    """Return the gaps of the installed versions."""
    return [gap for gap in GAPS if _is_missing(gap.name)]


def _is_missing(name: str) -> bool:
    """Return whether an installed library lacks a name; one that is not installed lacks nothing."""
    if importlib.util.find_spec(name.split(".")[0]) is None:
        return False
    if name.startswith("torch.cuda._CudaDeviceProperties."):
        return _lacks_property(name.rsplit(".", 1)[1])
    parts = name.split(".")
    at: object = importlib.import_module(parts[0])
    used = 1
    while used < len(parts) and hasattr(at, "__path__") and _is_module(parts[: used + 1]):
        used += 1
        at = importlib.import_module(".".join(parts[:used]))
    for part in parts[used:]:
        if not hasattr(at, part) and part not in getattr(at, "__dataclass_fields__", {}):
            return True
        at = getattr(at, part, None)
    return False


def _is_module(parts: list[str]) -> bool:
    return importlib.util.find_spec(".".join(parts)) is not None


def _lacks_property(name: str) -> bool:
    """Return whether the properties of a GPU lack a field; unknown, so False, without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return False
    return not hasattr(torch.cuda.get_device_properties(0), name)
