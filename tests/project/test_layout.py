"""Repository layout: top-level folders are subpackages, none shadows another, and all ship."""

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
def test_top_level_folder_is_a_subpackage_of_groundspeed(root: Path, folder: str) -> None:
    assert (root / "src" / "groundspeed" / folder).resolve() == root / folder
    assert importlib.util.find_spec(f"groundspeed.{folder}") is not None


def test_kernels_folder_does_not_shadow_the_pypi_package_kernels(root: Path) -> None:
    """Transformers and vLLM import a PyPI package named ``kernels``."""
    spec = importlib.util.find_spec("kernels")
    assert spec is None or root not in Path(spec.origin or "").parents


def test_pyproject_lists_every_package(root: Path) -> None:
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {
        ".".join(("groundspeed", *init.parent.relative_to(root).parts))
        for folder in FOLDERS
        for init in (root / folder).rglob("__init__.py")
    }
    own = {f"groundspeed.{name}" for name in face_folders(root)}
    assert set(config["tool"]["setuptools"]["packages"]) == packages | own | {"groundspeed"}


def face_folders(root: Path) -> list[str]:
    """Return the packages in ``src/groundspeed`` that are not links to top-level folders."""
    face = root / "src" / "groundspeed"
    return [p.parent.name for p in face.glob("*/__init__.py") if not p.parent.is_symlink()]


def test_package_folders_are_one_level_deep_with_at_most_14_modules(root: Path) -> None:
    """Each folder has one topic and about a dozen files, so that a newcomer finds a file."""
    packages = [root / folder for folder in FOLDERS]
    packages += [root / "src" / "groundspeed" / name for name in face_folders(root)]
    for package in packages:
        modules = [p.relative_to(package) for p in package.rglob("*.py")]
        assert max(len(m.parts) for m in modules) <= 2, package
        for folder in {m.parent for m in modules}:
            named = [m for m in modules if m.parent == folder and m.name != "__init__.py"]
            assert len(named) <= 14, package / folder


def test_src_groundspeed_has_only_the_five_known_modules(root: Path) -> None:
    loose = {p.name for p in (root / "src" / "groundspeed").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py", "api.py", "cli.py", "extras.py"}


def test_test_folders_mirror_the_source_folders(root: Path) -> None:
    mirrored = {f: root / f for f in FOLDERS} | {"groundspeed": root / "src" / "groundspeed"}
    for name, source in mirrored.items():
        for folder in (p for p in (root / "tests" / name).iterdir() if p.is_dir()):
            if any(folder.glob("test_*.py")):
                assert (source / folder.name).is_dir(), folder


def test_pyproject_and_package_have_the_same_version(root: Path) -> None:
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert config["project"]["version"] == groundspeed.__version__


@pytest.mark.slow
def test_wheel_contains_its_data_files_and_reads_them(root: Path, tmp_path: Path) -> None:
    """Build a wheel, unpack it, and read models and datasheets from it without the checkout."""
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
    data = {
        f"groundspeed/{path.relative_to(root)}"
        for folder in ("profiles", "calibrate", "estimator", "fleet", "kernels")
        for path in (root / folder).rglob("*")
        if path.suffix in {".csv", ".json", ".toml"}
    }
    assert data <= set(names), data - set(names)
    script = (
        "import json, groundspeed\n"
        "from groundspeed.estimator.model.catalog import shipped_models\n"
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
