"""The folders at the top are the package: links resolve, nothing leaks, everything ships."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import groundspeed

FOLDERS = ["calibrate", "estimator", "fleet", "kernels", "profiles"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_is_subpackage(root: Path, folder: str) -> None:
    assert (root / "src" / "groundspeed" / folder).resolve() == root / folder
    assert importlib.util.find_spec(f"groundspeed.{folder}") is not None


def test_the_name_kernels_stays_free(root: Path) -> None:
    """Transformers and vLLM import a PyPI package of that name."""
    spec = importlib.util.find_spec("kernels")
    assert spec is None or root not in Path(spec.origin or "").parents


def test_every_package_ships(root: Path) -> None:
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    found = {
        ".".join(("groundspeed", *init.parent.relative_to(root).parts))
        for folder in FOLDERS
        for init in (root / folder).rglob("__init__.py")
    }
    own = {"groundspeed", "groundspeed.commands", "groundspeed.report"}
    assert set(config["tool"]["setuptools"]["packages"]) == found | own


def test_one_version(root: Path) -> None:
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert config["project"]["version"] == groundspeed.__version__


@pytest.mark.slow
def test_the_wheel_holds_the_data_and_opens_it(root: Path, tmp_path: Path) -> None:
    """Build the wheel as a release would, and read each kind of data file out of it alone."""
    pytest.importorskip("build", reason="the package 'build' is not installed")
    source = tmp_path / "source"  # a copy: building leaves its own folders behind
    skipped = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(root, source, symlinks=True, ignore=skipped)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert not any(name.startswith(("kernels/", "tests/", "estimator/")) for name in names)
    assert "groundspeed/py.typed" in names
    script = (
        "import json, groundspeed\n"
        "from groundspeed.estimator.catalog import shipped_models\n"
        "from groundspeed.profiles import load_datasheets\n"
        "print(json.dumps([groundspeed.__file__, len(shipped_models()), len(load_datasheets())]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    where, models, sheets = json.loads(run.stdout)
    assert where.startswith(str(tmp_path))
    assert models == len(list((root / "estimator" / "models").glob("*.json")))
    assert sheets == len(list((root / "profiles" / "datasheets").glob("*.toml")))
