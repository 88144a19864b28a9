"""A complete CPU calibration in real processes that are killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from groundspeed.profiles import InputError, check_profile, load_profile
from program import PATIENCE_S
from repository import HELPERS

SCRIPT = HELPERS / "tiny_campaign.py"


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-P", str(SCRIPT), str(folder), *flags],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def journal_lines(folder: Path) -> list[str]:
    path = folder / "journal.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def keys(lines: list[str]) -> list[str]:
    return [entry["key"] for entry in entries_in(lines)]


def entries_in(lines: list[str]) -> list[dict[str, Any]]:
    """Return the measurements among the lines of a journal; the others mark what has begun."""
    documents = [json.loads(line) for line in lines[1:]]
    return [d for d in documents if "key" in d]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campaign")
    process = start(folder)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return folder


def test_calibrated_profile_has_every_law_and_passes_the_physics_check(finished: Path) -> None:
    profile = load_profile(finished / "profile.json")
    assert [v for v in check_profile(profile) if v.severity == "error"] == []
    assert all(p.valid for c in profile.curves for p in c.points)
    operations = {law.operation for law in profile.laws}
    assert operations == {
        "matmul",
        "stream",
        "attention_prefill",
        "attention_decode",
        "elementwise",
    }
    quantities = {r.quantity for r in profile.rates}
    assert {"matmul bfloat16", "memory read", "memory copy", "launch eager"} <= quantities
    assert all(r.low <= r.value <= r.high for r in profile.rates)
    assert {s.limit for s in profile.stability} == {"compute", "memory"}


def test_journal_holds_every_point_with_all_its_samples(finished: Path) -> None:
    profile = load_profile(finished / "profile.json")
    entries = entries_in(journal_lines(finished))
    medians = {entry["point"]["time_s"] for entry in entries}
    assert {p.time_s for c in profile.curves for p in c.points} <= medians
    assert all(len(e["samples_s"]) == e["point"]["samples"] for e in entries)


@pytest.mark.slow
def test_killed_calibration_resumes_without_losing_or_repeating_cases(tmp_path: Path) -> None:
    """After three kill -9, no case is measured twice and no written journal line is lost."""
    kept: list[str] = []
    for more in (3, 17, 11):
        process = start(tmp_path, "--slow")
        while len(journal_lines(tmp_path)) < len(kept) + more and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        lines = journal_lines(tmp_path)
        assert lines[: len(kept)] == kept
        complete = (tmp_path / "journal.jsonl").read_text().endswith("\n")
        kept = lines if complete else lines[:-1]
        assert not (tmp_path / "profile.json").exists()
    process = start(tmp_path)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    lines = journal_lines(tmp_path)
    assert lines[: len(kept)] == kept
    assert len(set(keys(lines))) == len(keys(lines))
    profile = load_profile(tmp_path / "profile.json")
    old = {entry["point"]["time_s"] for entry in entries_in(kept)}
    assert old & {p.time_s for c in profile.curves for p in c.points}


def test_incomplete_last_journal_line_is_dropped_on_resume(finished: Path, tmp_path: Path) -> None:
    lines = journal_lines(finished)
    (tmp_path / "journal.jsonl").write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:40])
    process = start(tmp_path)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    known = keys(lines[:-2])
    assert keys(journal_lines(tmp_path))[: len(known)] == known


def test_journal_of_another_device_is_renamed_and_not_resumed(tmp_path: Path) -> None:
    from groundspeed.calibrate.run.journal import Journal

    (tmp_path / "j").write_text('{"journal": 1, "device": "another"}\n')
    with Journal(tmp_path / "j", {"device": "this"}) as journal:
        assert not journal.resumed
    kept = list(tmp_path.glob("j.*.old"))
    assert [p.read_text() for p in kept] == ['{"journal": 1, "device": "another"}\n']


def test_journal_in_use_by_another_calibration_is_refused(tmp_path: Path) -> None:
    from groundspeed.calibrate.run.journal import Journal

    with (
        Journal(tmp_path / "j", {"run": 1}),
        pytest.raises(InputError, match="another calibration"),
    ):
        Journal(tmp_path / "j", {"run": 1})


def test_journal_in_an_impossible_folder_is_refused(tmp_path: Path) -> None:
    from groundspeed.calibrate.run.journal import Journal

    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "file" / "j", {})
