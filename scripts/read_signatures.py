"""Read from real wheels which functions of torch, Triton and the drivers' libraries a version has.

The result is one small file, ``tests/data/signatures.json``. A test compares every call that this
project makes with it, for each version, without downloading anything. The wheels are large (several
hundred megabytes each), so this script is run by hand when a version is added:

    pip download --no-deps -d wheels torch==2.11.0
    python scripts/read_signatures.py wheels

Nothing is imported from the wheels: signatures are read from the source and from the type stubs.
"""

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "tests" / "data" / "signatures.json"

FILES = {
    "torch": {
        "torch.cuda": ["torch/cuda/__init__.py", "torch/cuda/memory.py", "torch/cuda/streams.py",
                       "torch/cuda/graphs.py", "torch/_C/__init__.pyi"],
        "torch.cuda.nccl": ["torch/cuda/nccl.py"],
        "torch": ["torch/__init__.py", "torch/_C/_VariableFunctions.pyi",
                  "torch/_C/__init__.pyi"],
        "torch.nn.functional": ["torch/nn/functional.py", "torch/_C/_nn.pyi"],
        "torch.distributed": ["torch/distributed/__init__.py",
                              "torch/distributed/distributed_c10d.py",
                              "torch/_C/_distributed_c10d.pyi"],
        "torch.distributed.launcher.api": ["torch/distributed/launcher/api.py"],
        "torch.distributed._symmetric_memory": [
            "torch/distributed/_symmetric_memory/__init__.py"],
        "torch.distributed.elastic.multiprocessing.errors": [
            "torch/distributed/elastic/multiprocessing/errors/__init__.py"],
        "torch.profiler": ["torch/profiler/profiler.py", "torch/_C/_autograd.pyi",
                           "torch/_C/_profiler.pyi"],
    },
    "triton": {
        "triton": ["triton/__init__.py", "triton/runtime/__init__.py", "triton/runtime/jit.py",
                   "triton/runtime/_allocation.py"],
        "triton.language": ["triton/language/core.py", "triton/language/standard.py",
                            "triton/language/math.py", "triton/language/semantic.py"],
    },
    "nvidia-ml-py": {"pynvml": ["pynvml.py"]},
    "amdsmi": {"amdsmi": ["amdsmi/amdsmi_interface.py", "amdsmi/amdsmi_exception.py"]},
}  # fmt: skip
"""Modules whose names this project uses, and the files in a wheel that define them."""

PROPERTIES = "torch.cuda._CudaDeviceProperties"
UNLISTED = ("pci_domain_id", "pci_bus_id", "pci_device_id")
CPU_BUILD = "(build for the CPU)"


def signatures(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield each function, class and constant of a module, with the names of its parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, _fields(node)
            yield from ((f"{node.name}.{name}", []) for name in _constants(node))
    for node in tree.body:
        for inner in ast.walk(node) if isinstance(node, ast.If | ast.Try) else (node,):
            if isinstance(inner, ast.FunctionDef):
                yield inner.name, _parameters(inner)
            elif isinstance(inner, ast.Assign | ast.AnnAssign):
                targets = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
                yield from ((t.id, []) for t in targets if isinstance(t, ast.Name))
            elif isinstance(inner, ast.ImportFrom):
                yield from ((a.asname or a.name, []) for a in inner.names)


def _parameters(node: ast.FunctionDef) -> list[str]:
    a = node.args
    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return [n for n in names if n != "self"] + (["**"] if a.kwarg else [])


def _fields(node: ast.ClassDef) -> list[str]:
    """Return the fields of a class; for an exception or enumeration they do not matter."""
    annotated = [c.target.id for c in node.body if isinstance(c, ast.AnnAssign)
                 and isinstance(c.target, ast.Name)]  # fmt: skip
    made = [c for c in node.body if isinstance(c, ast.FunctionDef)
            and c.name in ("__init__", "__new__")]  # fmt: skip
    properties = [c.name for c in node.body if isinstance(c, ast.FunctionDef)
                  and any(isinstance(d, ast.Name) and d.id == "property"
                          for d in c.decorator_list)]  # fmt: skip
    return sorted({*annotated, *properties, *(p for c in made for p in _parameters(c))})


def _constants(node: ast.ClassDef) -> Iterator[str]:
    """Yield the members of an enumeration."""
    for child in node.body:
        targets = child.targets if isinstance(child, ast.Assign) else []
        if isinstance(child, ast.AnnAssign):
            targets = [child.target]
        yield from (t.id for t in targets if isinstance(t, ast.Name))
        if isinstance(child, ast.ClassDef):  # ReduceOp holds its members in an inner class
            yield from _constants(child)


def read(wheel: Path, files: dict[str, list[str]], wanted: set[str]) -> dict[str, list[str]]:
    """Return ``module.name`` and parameters of everything wanted that a wheel defines."""
    found: dict[str, set[str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        present = set(archive.namelist())
        for module, paths in files.items():
            for path in (p for p in paths if p in present):
                tree = ast.parse(archive.read(path).decode("utf-8"))
                for name, parameters in signatures(tree):
                    full = f"{module}.{name}"
                    if full in wanted:
                        found.setdefault(full, set()).update(parameters)
        library = "torch/lib/libtorch_python.so"
        if library in present and PROPERTIES in found:
            # Fields that the stubs do not list are read from the compiled library, whose builds for
            # the CPU have none of them.
            code = archive.read(library)
            on_gpu = "torch/lib/libtorch_cuda.so" in present
            found[PROPERTIES] |= (
                {f for f in UNLISTED if f.encode() + b"\0" in code} if on_gpu else {CPU_BUILD}
            )
    return {name: sorted(parameters) for name, parameters in sorted(found.items())}


def main() -> None:
    """Read all wheels in a folder, and write the names that this project uses."""
    sys.path.insert(0, str(OUT.parents[1] / "helpers"))
    from used_names import used_names

    wanted = set(used_names())
    # Versions whose wheels are not in the folder stay as they are.
    versions: dict[str, dict[str, dict[str, list[str]]]] = json.loads(OUT.read_text("utf-8"))
    for wheel in sorted(Path(sys.argv[1]).glob("*.whl")):
        match = re.match(r"([A-Za-z0-9_]+)-(\d+\.\d+(?:\.\d+)?)", wheel.name)
        if match is None:
            continue
        package = match.group(1).replace("_", "-")
        if package in FILES:
            columns = versions.setdefault(package, {})
            columns[match.group(2)] = read(wheel, FILES[package], wanted)
            print(package, match.group(2), len(columns[match.group(2)]), "names")
    OUT.write_text(json.dumps(versions, indent=0, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
