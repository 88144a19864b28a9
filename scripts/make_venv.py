"""Make ``.venv`` and install groundspeed into it, without replacing an installed torch.

GPU images (NGC, ROCm) contain a torch built for their driver. A second torch from a package index
would shadow it and break the machine. So if this interpreter has a torch, the virtual environment
sees it and pip is constrained to exactly that version. Otherwise the tested version is installed.

This script uses only the standard library, because it runs before anything is installed.

    python scripts/make_venv.py measure,dev
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "groundspeed-installed"
INPUTS = ("pyproject.toml", "constraints.txt", "scripts/make_venv.py")


def main() -> None:
    """Make or update the environment if it is missing, incomplete or older than its inputs."""
    extras = sys.argv[1] if len(sys.argv) > 1 else "measure"
    require_machine()
    newest = max((ROOT / name).stat().st_mtime for name in INPUTS)
    wanted = set(extras.split(","))
    installed = set(STAMP.read_text().split()) if STAMP.exists() else set()
    if wanted <= installed and STAMP.stat().st_mtime > newest:
        return
    own_torch = find_torch()
    if not PYTHON.exists() or not has_pip():
        print(f"making {VENV.name} with Python {sys.version.split()[0]}", flush=True)
        builder = venv.EnvBuilder(
            with_pip=True, clear=True, system_site_packages=own_torch is not None
        )
        builder.create(VENV)
        if own_torch is not None and sys.prefix != sys.base_prefix:
            link_parent()
    install(extras, own_torch)
    STAMP.write_text(" ".join(sorted(wanted | installed)) + "\n")


def require_machine() -> None:
    """Exit with an error that names missing programs and the command that installs them."""
    missing = []
    if sys.version_info < (3, 11):  # noqa: UP036  (this runs before pip checks the version)
        sys.exit(
            f"groundspeed needs Python 3.11 or newer, but this is {sys.version.split()[0]}; "
            "choose another with: make run PYTHON=python3.12"
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if importlib.util.find_spec("ensurepip") is None:
        missing.append(f"python{version}-venv")
    if shutil.which("gcc") is None and shutil.which("cc") is None and has_gpu():
        missing.append("gcc")  # Triton compiles a launcher for each kernel
    if missing:
        what = " ".join(missing)
        sys.exit(f"missing: {what}; install with: sudo apt-get install -y {what}")


def has_gpu() -> bool:
    """Return True if the device node of a GPU exists."""
    return any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd"))


def has_pip() -> bool:
    """Return True if the environment has pip; an interrupted creation leaves none."""
    command = [PYTHON, "-c", "import pip"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def find_torch() -> str | None:
    """Return the version of the torch installed for this interpreter; None without torch."""
    try:
        from importlib import metadata

        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def link_parent() -> None:
    """Make the packages of the calling environment importable in the new one.

    A virtual environment made from another one does not see that one's packages.
    """
    inside = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    parents = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(inside) / "parent-environment.pth").write_text("\n".join(sorted(parents)) + "\n")


def install(extras: str, own_torch: str | None) -> None:
    """Install groundspeed in editable mode, and check that an existing torch was not replaced."""
    wanted = extras if own_torch is None else extras.replace("measure", "measure-with-own-torch")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    if own_torch is not None:
        print(f"keeping the installed torch {own_torch}", flush=True)
        lines = [line for line in lines if not line.startswith("torch==")]
        lines.append(f"torch=={own_torch}")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("\n".join(lines) + "\n")
    command = [
        PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--constraint", file.name, "--editable", f"{ROOT}[{wanted}]",
    ]  # fmt: skip
    print(f"installing groundspeed[{wanted}] (a few minutes the first time)", flush=True)
    try:
        failed = subprocess.run(command, check=False).returncode
    finally:
        Path(file.name).unlink()
    if failed:
        sys.exit(f"pip could not install groundspeed[{wanted}]; see its message above")
    if own_torch is not None:
        check = "from importlib import metadata; print(metadata.version('torch'))"
        now = subprocess.run(
            [PYTHON, "-c", check], check=True, capture_output=True, text=True
        ).stdout.strip()
        if now != own_torch:
            sys.exit(
                f"torch {own_torch} was replaced by {now}: remove {VENV} and report this as a bug"
            )


if __name__ == "__main__":
    main()
