"""Find out what this machine can do, what is missing for the rest, and how to install it.

Nothing is measured or changed. Libraries are looked up without importing them, except torch,
because only torch itself can tell whether it sees a GPU.

    diagnose().can["measure"]
"""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

from groundspeed.extras import EXTRA_OF
from groundspeed.profiles.record import Record
from groundspeed.profiles.store import profile_folder

State = Literal["ok", "missing", "warning"]
"""``missing``: something does not work without it; ``warning``: it works, but see the remedy."""

PACKAGE_OF = {"pynvml": "nvidia-ml-py", "prometheus_client": "prometheus-client",
              "huggingface_hub": "huggingface-hub", "tomli_w": "tomli-w"}  # fmt: skip
"""Package name on PyPI, where it differs from the name that is imported."""

NOISY_LOAD = 0.25
"""Load average per processor above which measurements are likely to be disturbed."""


class Check(Record):
    """The state of one library, device, program or folder."""

    what: str
    """Name of the thing that was checked."""
    state: State
    found: str
    """What was found: a version, a path, or the problem."""
    for_what: str = ""
    """The commands or tasks that need it."""
    remedy: str = ""
    """What to do about it; empty if nothing."""


class Diagnosis(Record):
    """All checks of a machine, and what it can do."""

    checks: tuple[Check, ...]
    can: dict[str, bool]
    """Whether this machine can do each task: estimate, measure, measure on a GPU, ..."""


def diagnose() -> Diagnosis:
    """Check this machine: Python, load, libraries, GPU, schedulers, profile folder."""
    libraries = list(_libraries())
    checks = [*_machine(), *libraries, *_gaps(), *_gpu(), *_schedulers(), _folder()]
    missing = {c.what for c in checks if c.state == "missing"}

    def have(*names: str) -> bool:
        return not missing & set(names)

    measuring = have("pandas", "scipy", "torch")
    return Diagnosis(
        checks=tuple(checks),
        can={
            "estimate": True,
            "measure": measuring,
            "measure on a GPU": measuring and have("triton") and _sees_gpu(),
            "screen a fleet": have("pandas", "scipy", "fsspec", "duckdb", "pyarrow"),
            "write reports": have("pandas", "fsspec", "jinja2"),
        },
    )


def _machine() -> Iterator[Check]:
    version = platform.python_version()
    yield Check(what="python", state="ok", found=f"{version} ({sys.executable})")
    count = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    noisy = load > NOISY_LOAD * count
    yield Check(
        what="load",
        state="warning" if noisy else "ok",
        found=f"{load:.1f} on {count} processors",
        for_what="measuring",
        remedy="stop other programs while you measure" if noisy else "",
    )
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.exists():
        name = governor.read_text().strip()
        slow = name in ("powersave", "ondemand", "conservative")
        yield Check(
            what="clock governor",
            state="warning" if slow else "ok",
            found=name,
            for_what="measuring on the CPU",
            remedy="it changes the clock frequency: expect wider intervals" if slow else "",
        )


def _libraries() -> Iterator[Check]:
    purpose = {
        "fit": "fitting laws, fleet screen",
        "measure": "calibrate, run, verify, plots",
        "fleet": "fleet run, stores, Prometheus",
        "report": "report",
        "server": "calibrate --server, verify --server",
        "ray": "fleet run --launcher ray",
        "hub": "models by their Hugging Face name",
    }
    for name, extra in EXTRA_OF.items():
        if name == "markupsafe":
            continue
        package = PACKAGE_OF.get(name, name)
        try:
            there = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            there = False
        version = ""
        if there:
            try:
                version = metadata.version(package)
            except metadata.PackageNotFoundError:
                version = "installed"
        yield Check(
            what=name,
            state="ok" if there else "missing",
            found=version if there else "not installed",
            for_what=purpose[extra],
            remedy="" if there else f"pip install 'groundspeed[{extra}]'",
        )


def _gaps() -> Iterator[Check]:
    """Yield what the installed versions of torch and triton lack."""
    if importlib.util.find_spec("torch") is None:
        return
    from groundspeed.calibrate.version_gaps import gaps_here

    for gap in gaps_here():
        yield Check(
            what=gap.since.split()[0],
            state="warning",
            found=f"older than {gap.since.split()[1]}",
            for_what=gap.consequence,
            remedy=f"{gap.since} or newer has it",
        )


def _gpu() -> Iterator[Check]:
    nvidia, amd = Path("/dev/nvidiactl").exists(), Path("/dev/kfd").exists()
    if not nvidia and not amd:
        yield Check(
            what="GPU",
            state="warning",
            found="no NVIDIA or AMD device on this machine",
            for_what="measuring on a GPU",
            remedy="measure the CPU; in a container, start it with access to the GPUs",
        )
        return
    kind = "NVIDIA" if nvidia else "AMD"
    node = Path("/dev/nvidiactl" if nvidia else "/dev/kfd")
    if not os.access(node, os.R_OK | os.W_OK):
        group = "" if nvidia else ": sudo usermod -aG render,video $USER"
        yield Check(
            what="GPU",
            state="missing",
            found=f"{node} cannot be opened",
            for_what="measuring on a GPU",
            remedy=f"give your user read and write permission{group}",
        )
        return
    seen = _torch_checks()
    yield Check(
        what="GPU",
        state="ok" if _sees_gpu() else "missing",
        found=f"{kind}, {seen}",
        for_what="measuring on a GPU",
        remedy="" if _sees_gpu() else "install a torch build for it: https://pytorch.org",
    )


def _torch_checks() -> str:
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    build = torch.version.cuda or torch.version.hip
    made_for = build or "CPUs"
    built = f"torch {torch.__version__} built for {made_for}"
    return f"{built}, sees {torch.cuda.device_count()} devices"


def _sees_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _schedulers() -> Iterator[Check]:
    for program, engine in (("sbatch", "slurm"), ("kubectl", "kubernetes")):
        path = shutil.which(program)
        yield Check(
            what=program,
            state="ok" if path else "warning",
            found=path or "not on this machine",
            for_what=f"fleet run --launcher {engine}",
            remedy="" if path else f"needed only if you use {engine}",
        )


def _folder() -> Check:
    folder = profile_folder()
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    fine = nearest.is_dir() and os.access(nearest, os.W_OK)
    return Check(
        what="profiles",
        state="ok" if fine else "missing",
        found=str(folder),
        for_what="saving measured profiles",
        remedy="" if fine else "you cannot write to it: give --profile-dir or set XDG_DATA_HOME",
    )
