"""The documentation matches the code: shown output, published schemas and command reference."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from program import environment


@pytest.fixture(scope="module")
def regenerate(root: Path) -> ModuleType:
    pytest.importorskip("torch", reason="the schema of verify needs torch")
    spec = importlib.util.spec_from_file_location(
        "regenerate_docs", root / "scripts" / "regenerate_docs.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/measured.md", "docs/laws.md", "docs/deepseek-r1.md", "docs/tutorial.md",
     "docs/zh/tutorial.md"],
)  # fmt: skip
def test_output_shown_in_the_documentation_is_current(
    root: Path, regenerate: ModuleType, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    text = (root / page).read_text(encoding="utf-8")
    assert regenerate.regenerated(text, kinds=("output",)) == text, "run: make docs"


def test_published_schemas_are_current(root: Path, regenerate: ModuleType) -> None:
    for name, text in regenerate.schemas():
        assert (root / "docs" / "schema" / name).read_text() == text, f"{name}: run: make docs"


def test_command_reference_is_current(root: Path, regenerate: ModuleType) -> None:
    published = (root / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert published == regenerate.cli_reference(), "run: make docs"
