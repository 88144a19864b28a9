"""Install a simulated machine into this process."""

import atexit
import builtins
import importlib.abc
import importlib.machinery
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VIRTUAL = ("groundspeed.calibrate", "groundspeed.verify", "groundspeed.kernels")
"""Packages whose clock is the simulated host's."""
REAL = ("groundspeed.calibrate.links.rendezvous", "groundspeed.calibrate.links.local_ranks",
        "groundspeed.calibrate.links.device_wait")  # fmt: skip
"""Modules that wait for other processes."""

THE_MACHINE: list[Any] = []
"""The simulation of this process, once it is installed."""


class _AfterTorch(importlib.abc.MetaPathFinder):
    """Runs :func:`install` when torch has been imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def then_install(module: types.ModuleType) -> None:
            execute(module)
            install()

        spec.loader.exec_module = then_install  # type: ignore[method-assign]
        return spec


def install_with_torch() -> None:
    """Arrange that the simulated machine is there as soon as torch is."""
    sys.meta_path.insert(0, _AfterTorch())


def install() -> None:
    """Replace the device, the clock of the measuring code, and the communication."""
    import torch

    from simulated_gpu.chip import machine_from_environment
    from simulated_gpu.cuda import Simulation, replace_cuda
    from simulated_gpu.tensors import Functions, Operations

    torch._C._ensureCUDADeviceGuardSet()
    sim = Simulation(machine_from_environment())
    THE_MACHINE.append(sim)
    replace_cuda(sim)
    Operations(sim).__enter__()
    Functions(sim).__enter__()
    _use_virtual_time(sim)
    from simulated_gpu.nccl import replace_communication

    replace_communication(sim)
    atexit.register(_note_elapsed, sim)


def _note_elapsed(sim: Any) -> None:
    """Append the simulated time of this process to a file, for a script that budgets it."""
    if sim.machine.folder:
        with (Path(sim.machine.folder) / "elapsed").open("a") as file:
            file.write(f"{sim.clock.now_s - 1000.0:.6f}\n")


def _use_virtual_time(sim: Any) -> None:
    virtual = types.ModuleType("time")
    virtual.__dict__.update({k: v for k, v in vars(time).items() if not k.startswith("__")})

    def now() -> float:
        sim.clock.advance(sim.clock.now_s + 2e-8)  # reading a clock costs time too
        return float(sim.clock.now_s)

    virtual.monotonic = virtual.perf_counter = now  # type: ignore[attr-defined]
    virtual.perf_counter_ns = virtual.monotonic_ns = lambda: round(now() * 1e9)  # type: ignore[attr-defined]
    virtual.sleep = lambda s: sim.clock.advance(sim.clock.now_s + s)  # type: ignore[attr-defined]
    real_import = builtins.__import__

    def importing(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (),
                  level: int = 0) -> Any:  # fmt: skip
        if name not in ("time", "triton"):  # most imports: nothing to replace
            return real_import(name, globals, locals, fromlist, level)
        asking = str((globals or {}).get("__name__", ""))
        if name == "time" and asking.startswith(VIRTUAL) and asking not in REAL:
            return virtual
        module = real_import(name, globals, locals, fromlist, level)
        if name == "triton" and asking.startswith("groundspeed") and not sim.triton_replaced:
            sim.triton_replaced = True
            from simulated_gpu.triton_launches import replace_launcher

            replace_launcher(sim)
        return module

    builtins.__import__ = importing
