"""Make ``.venv`` and install groundspeed into it, without ever replacing a torch that is there.

Images for GPUs (NGC, ROCm) bring a torch built for their driver; a second one from an index would
hide it and break the machine. So if this interpreter has a torch, the environment sees it and pip
is told to keep exactly that version; otherwise the tested version is installed.

Standard library only: it runs before anything is installed.
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
    """Make the environment if it is missing or older than what it is made from."""
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
    """Name what is missing, with the line that installs it."""
    missing = []
    if sys.version_info < (3, 11):  # noqa: UP036  (this file runs before pip can refuse)
        sys.exit(
            f"groundspeed needs Python 3.11 or newer, this is {sys.version.split()[0]}; "
            "name another with: make run PYTHON=python3.12"
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
    """Whether a GPU's device node is there."""
    return any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd"))


def has_pip() -> bool:
    """Whether the environment was made completely (an interrupted one has no pip)."""
    command = [PYTHON, "-c", "import pip"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def find_torch() -> str | None:
    """Version of the torch that this interpreter already has."""
    try:
        from importlib import metadata

        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def link_parent() -> None:
    """Show the packages of the environment we were started from (a venv of a venv sees none)."""
    inside = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    parents = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(inside) / "parent-environment.pth").write_text("\n".join(sorted(parents)) + "\n")


def install(extras: str, own_torch: str | None) -> None:
    """Install the package in place, and check that a torch that was there still is."""
    wanted = extras if own_torch is None else extras.replace("measure", "measure-with-own-torch")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    if own_torch is not None:
        print(f"keeping the torch {own_torch} that is already here", flush=True)
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
        sys.exit(f"pip could not install groundspeed[{wanted}]; its message stands above")
    if own_torch is not None:
        check = "from importlib import metadata; print(metadata.version('torch'))"
        now = subprocess.run(
            [PYTHON, "-c", check], check=True, capture_output=True, text=True
        ).stdout.strip()
        if now != own_torch:
            sys.exit(f"torch {own_torch} was replaced by {now}: remove {VENV} and report this")


if __name__ == "__main__":
    main()
