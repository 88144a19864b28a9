"""Release files: the wheel, the source archive and the Dockerfiles."""

import json
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

MOST_WHEEL_BYTES = 5_000_000


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build source archive and wheel from a clean clone; return the folder that holds them."""
    pytest.importorskip("build", reason="the package 'build' is not installed")
    out = tmp_path_factory.mktemp("dist")
    clean = tmp_path_factory.mktemp("clean") / "source"
    subprocess.run(["git", "clone", "-q", str(root), str(clean)], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(out), str(clean)],
        check=True, capture_output=True,
    )  # fmt: skip
    return out


@pytest.mark.slow
def test_wheel_installs_and_runs_in_a_new_environment(built: Path, tmp_path: Path) -> None:
    """The new environment holds only the wheel and the packages that it requires."""
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < MOST_WHEEL_BYTES
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "-q", f"{wheel}[report]"],
        check=True, capture_output=True,
    )  # fmt: skip
    program = tmp_path / "env" / "bin" / "groundspeed"
    for arguments, wanted in (
        (["estimate", "qwen2.5-32b", "--gpu", "h20"], "TPOT"),
        (["report", "h200", "-o", str(tmp_path / "r.html")], "MB"),
        (["--version"], "groundspeed"),
    ):
        ran = subprocess.run(
            [str(program), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert wanted in ran.stdout
    ran = subprocess.run([str(program), "doctor"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1  # without torch it cannot measure, and names the remedy
    assert "groundspeed[measure]" in ran.stdout


@pytest.mark.slow
def test_source_archive_and_wheel_contain_all_needed_files(built: Path, root: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "profiles/schema.py"} <= names
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as inside:
        names_inside = set(inside.namelist())
    for kind in ("report/page.html.j2", "report/page.css", "report/plotly-cartesian.min.js"):
        assert f"groundspeed/{kind}" in names_inside
    assert not any(n.startswith("groundspeed/tests") for n in names_inside)
    assert (root / "docker").is_dir()


@pytest.mark.parametrize("kind", ["cuda", "rocm"])
def test_dockerfile_passes_hadolint(root: Path, kind: str) -> None:
    program = Path(sys.executable).parent / "hadolint"
    if not program.exists():
        pytest.skip("hadolint is not installed")
    ran = subprocess.run(
        [str(program), "--no-color", str(root / "docker" / f"Dockerfile.{kind}")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_hosts_with_both_kinds_of_processors_get_triton(root: Path, machine: str) -> None:
    """GH200, GB200 and GB10 have Arm processors; PyPI has triton for them."""
    requirements = _measuring(root)
    (triton,) = [r for r in requirements if r.name == "triton"]
    assert triton.marker is not None
    assert triton.marker.evaluate({"platform_system": "Linux", "platform_machine": machine})
    assert not triton.marker.evaluate({"platform_system": "Darwin", "platform_machine": "arm64"})


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_bounds_of_torch_and_triton_are_the_versions_that_were_compared(
    root: Path, name: str
) -> None:
    """The newest compared version is allowed, and its successor is not."""
    text = (root / "tests" / "data" / "signatures.json").read_text(encoding="utf-8")
    compared = [Version(v) for v in json.loads(text)[name]]
    (requirement,) = [r for r in _measuring(root) if r.name == name]
    assert all(v in requirement.specifier for v in compared)
    newest = max(compared)
    assert f"{newest.major}.{newest.minor + 1}" not in requirement.specifier


def _measuring(root: Path) -> list[Requirement]:
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return [Requirement(r) for r in config["project"]["optional-dependencies"]["measure"]]
