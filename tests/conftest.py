"""Fixtures that all tests share, the order of the tests, and the list of tests that did not run.

This module also removes the root of the checkout from ``sys.path``: otherwise our ``kernels/``
folder would shadow Hugging Face's ``kernels`` package under ``python -m pytest``.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]

# Without a GPU, Triton kernels run in Triton's interpreter. Triton reads the variable on import.
if not any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the most slow tests first, so that no worker starts a long file last."""
    slow: dict[str, int] = {}
    for item in items:
        if item.get_closest_marker("slow") is not None:
            slow[item.nodeid.split("::")[0]] = slow.get(item.nodeid.split("::")[0], 0) + 1
    items.sort(key=lambda item: -slow.get(item.nodeid.split("::")[0], 0))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that did not run, why, and how to run them."""
    skipped: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        skipped[reason] = skipped.get(reason, 0) + 1
    left_out = len(terminalreporter.stats.get("deselected", []))
    if left_out == 0 and not skipped:
        return
    terminalreporter.section("not run")
    if "not slow" in str(terminalreporter.config.option.markexpr):
        terminalreporter.line("slow tests (Slurm, Ray, killed ranks, compilers): make test-slow")
    for reason, count in sorted(skipped.items()):
        remedy = next((r for word, r in REMEDIES.items() if word in reason), "")
        terminalreporter.line(f"{count} x {reason}{f': {remedy}' if remedy else ''}")


REMEDIES = {
    "no GPU": "run them on a machine with a GPU: make gpu",
    "no reference data": "measurements that this repository does not ship",
    "chromium": "apt-get install chromium",
    "munged": "apt-get install slurm-wlm munge",
    "torch is not installed": "pip install 'groundspeed[measure]'",
    "triton is not installed": "pip install 'groundspeed[measure]'",
    "is not installed": "pip install 'groundspeed[dev]'",
}
"""Remedy shown for a skipped test, by a phrase that occurs in its reason."""


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty data folder, so that no test reads or changes a user's profiles."""
    folder = tmp_path / "data"
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    monkeypatch.setenv("COLUMNS", "120")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of published measurements that the repository does not ship; skip without it."""
    folder = Path(os.environ.get("GROUNDSPEED_REFERENCE", _ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set GROUNDSPEED_REFERENCE)")
    return folder


@pytest.fixture(scope="session")
def cases(reference: Path) -> Path:
    """Public captures and incidents with their right answers, beside the reference data."""
    folder = reference.parent / "cases" / "dev"
    if not (folder / "truth.csv").is_file():
        pytest.skip("no reference data: cases with known answers")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """Root folder of the checkout."""
    return _ROOT


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Headless Chromium (Debian's), driven by Playwright, for reports and the documentation."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()
