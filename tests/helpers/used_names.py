"""Functions, classes and keyword arguments of torch, Triton, NVML and amdsmi that are used here.

They are read from the source, so a new call is compared with all versions without being listed.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from repository import ROOT

PACKAGES = ("calibrate", "kernels", "src/groundspeed/verify", "src/groundspeed/measuring",
            "fleet/run")  # fmt: skip
PREFIXES = ("torch.cuda.", "torch.distributed.", "torch.nn.functional.", "torch._scaled_mm",
            "torch._int_mm", "torch.profiler.", "triton.", "pynvml.", "amdsmi.")  # fmt: skip
"""Names that differ between versions; the rest of torch is stable."""

ALIASES = {"nvml": "pynvml", "smi": "amdsmi", "self.nvml": "pynvml", "self.amdsmi": "amdsmi"}
"""Variables that hold a module."""


def files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


@functools.cache
def used_names() -> dict[str, set[str]]:
    """Return each used name, and the keyword arguments with which it is called somewhere."""
    used: dict[str, set[str]] = {PROPERTIES: {"pci_domain_id", "pci_bus_id", "pci_device_id"}}
    for path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = dict(_imports(tree)) | ALIASES
        for node in ast.walk(tree):
            call = isinstance(node, ast.Call)
            if isinstance(node, ast.Attribute) and _is_properties(node.value):
                used.setdefault(PROPERTIES, set()).add(node.attr)
            target = node.func if isinstance(node, ast.Call) else node
            if not isinstance(target, ast.Attribute | ast.Name):
                continue
            name = _resolved(target, modules)
            if name is None or not name.startswith(PREFIXES):
                continue
            keywords = {k.arg for k in node.keywords if k.arg} if call else set()  # type: ignore[attr-defined]
            used.setdefault(name, set()).update(keywords)
    return used


PROPERTIES = "torch.cuda._CudaDeviceProperties"
"""What ``torch.cuda.get_device_properties`` returns; its fields count as keyword arguments."""


def _is_properties(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return node.id == "properties"
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get_device_properties"
    )


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                first = a.name.split(".")[0]
                yield (a.asname, a.name) if a.asname else (first, first)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((a.asname or a.name, f"{node.module}.{a.name}") for a in node.names)


def _resolved(node: ast.expr, modules: dict[str, str]) -> str | None:
    """Return the full name of an attribute of a module."""
    parts: list[str] = []
    at: ast.expr = node
    while isinstance(at, ast.Attribute):
        parts.insert(0, at.attr)
        at = at.value
    if not isinstance(at, ast.Name):
        return None
    for used in range(len(parts) + 1):
        head = ".".join([at.id, *parts[:used]])
        if head in modules:
            name = ".".join([modules[head], *parts[used:]])
            return name.replace("torch._C._distributed_c10d.", "torch.distributed.")
    return None
