"""Links between real processes, with ranks that are killed, hang, are slow or send wrong data."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from groundspeed.kernels.kernel import chunks
from groundspeed.kernels.links.collectives import SMALL_PRIME, Group, expected_in, value_of
from groundspeed.profiles import check_profile
from groundspeed.profiles.schema import Profile
from program import PATIENCE_S, environment, groundspeed, slowness
from repository import HELPERS

SCRIPT = HELPERS / "tiny_links.py"
HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Kill every process that the test has started, also after a failed test."""
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
        process.communicate()
    STARTED.clear()


STARTED: list[subprocess.Popen[str]] = []


def start(folder: Path, ranks: int, timeout_s: float, **more: str) -> subprocess.Popen[str]:
    """Start ranks; a silent rank is lost after ``timeout_s``, or later on a busy machine."""
    timeout_s *= slowness()
    process = subprocess.Popen(
        [sys.executable, "-P", str(SCRIPT), str(folder), str(ranks), str(timeout_s)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def rank_processes(parent: int, count: int) -> list[int]:
    """Return the process ids of the ranks, in the order in which the launcher started them."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        processes = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rsplit(")", 1)[1].split()
                command = (path.parent / "cmdline").read_text()
                if int(fields[1]) == parent and "spawn_main" in command:
                    processes.append(int(path.parent.name))
        if len(processes) == count:
            return sorted(processes)
        time.sleep(0.05)
    raise AssertionError("the ranks did not start")


def journal(folder: Path) -> list[str]:
    path = folder / "links.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_entries(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    while len(journal(folder)) <= count and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_calibrate_with_four_ranks_gives_valid_laws_for_two_and_four(tmp_path: Path) -> None:
    """Groups of two and four ranks get valid data and laws that predict unseen sizes."""
    ran = groundspeed("calibrate", "--ranks", "4", "--device", "cpu", "--json",
                      "--profile-dir", str(tmp_path))  # fmt: skip
    assert ran.code == 0, ran.err
    profile = Profile.model_validate_json(ran.out)
    assert [v.what for v in check_profile(profile) if v.severity == "error"] == []
    laws = [law for law in profile.laws if law.operation == "collective"]
    assert {law.config_key["world_size"] for law in laws} == {"2", "4"}
    errors = sorted(law.held_out.median_fraction for law in laws)
    # The error of a law cannot be smaller than the spread between samples of one case.
    collectives = [p for c in profile.curves if c.operation == "collective" for p in c.points]
    spreads = sorted(p.q90_s / p.q10_s - 1.0 for p in collectives)
    assert errors[len(errors) // 2] < max(0.25, 2.0 * spreads[len(spreads) // 2])
    pairs = [p for c in profile.curves if c.operation == "p2p" for p in c.points]
    assert {(p.case["from"], p.case["to"]) for p in pairs} == {
        (0, 3), (1, 2), (0, 2), (3, 1), (0, 1), (2, 3),
    }  # fmt: skip
    assert profile.interconnect is not None
    assert (profile.interconnect.backend, profile.interconnect.ranks) == ("gloo", 4)
    assert all(p.valid for c in profile.curves for p in c.points)


@pytest.mark.slow
def test_killed_rank_is_named_and_its_journal_is_continued(tmp_path: Path) -> None:
    process = start(tmp_path, 3, 20)
    wait_for_entries(tmp_path, process, 6)
    os.kill(rank_processes(process.pid, 3)[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert f"rank 1 on {HOST} was killed by SIGKILL during " in stderr
    assert len(stderr.strip().splitlines()) == 1, stderr
    kept = journal(tmp_path)
    assert len(kept) > 6
    again = start(tmp_path, 3, 20)
    _, stderr = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, stderr
    assert journal(tmp_path)[: len(kept)] == kept


@pytest.mark.slow
def test_hung_rank_is_named_after_the_timeout_and_killed(tmp_path: Path) -> None:
    process = start(tmp_path, 3, 5)
    wait_for_entries(tmp_path, process, 3)
    hung = rank_processes(process.pid, 3)[2]
    os.kill(hung, signal.SIGSTOP)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert f"rank 2 on {HOST} was lost during " in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)


@pytest.mark.slow
def test_slow_rank_gives_a_warning_and_a_complete_profile(tmp_path: Path) -> None:
    """The slow rank is stopped for nine tenths of the time, as on a node that swaps."""
    process = start(tmp_path, 2, 60)
    wait_for_entries(tmp_path, process, 2)
    slow = rank_processes(process.pid, 2)[1]
    stop = threading.Event()

    def slow_down() -> None:
        with contextlib.suppress(ProcessLookupError):
            while not stop.wait(0.01):
                os.kill(slow, signal.SIGSTOP)
                time.sleep(0.09)
                os.kill(slow, signal.SIGCONT)

    thread = threading.Thread(target=slow_down)
    thread.start()
    try:
        _, stderr = process.communicate(timeout=PATIENCE_S)
    finally:
        stop.set()
        thread.join()
    assert process.returncode == 0, stderr
    profile = Profile.model_validate_json((tmp_path / "profile.json").read_text())
    assert [w for w in profile.warnings if w.startswith(f"rank 1 on {HOST} is slow")]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return int(s.getsockname()[1])


def rank(folder: Path, number: int, port: int, **more: str) -> subprocess.Popen[str]:
    """Start one of two ranks with the environment variables of torchrun."""
    return start(
        folder, 0, float(more.pop("timeout_s", "8")), RANK=str(number), WORLD_SIZE="2",
        MASTER_ADDR="localhost", MASTER_PORT=str(port), **more,
    )  # fmt: skip


def test_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        process = rank(tmp_path, 0, port)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert stderr.startswith(f"localhost:{port}: port {port} is in use by another program")


@pytest.mark.slow
def test_rank_without_rank_0_at_the_address_reports_it(tmp_path: Path) -> None:
    process = rank(tmp_path, 1, free_port(), timeout_s="3")
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert re.search(rf"rank 1 on {HOST} did not reach rank 0 within [\d.]+ s", stderr)
    assert "check MASTER_ADDR" in stderr


@pytest.mark.slow
def test_rank_0_names_the_rank_that_did_not_start(tmp_path: Path) -> None:
    process = rank(tmp_path, 0, free_port(), timeout_s="3")
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert re.search(r"rank 1 of 2 did not join within [\d.]+ s", stderr)


@pytest.fixture
def other_checkout(tmp_path: Path, root: Path) -> Path:
    """Copy the code, so that a test can change what one rank runs."""
    copy = tmp_path / "other"
    for name in ("calibrate", "estimator", "kernels", "profiles"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "src", copy / "src", symlinks=True)
    return copy


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def both(folder: Path, checkout: Path) -> tuple[int, str]:
    """Run two ranks, the second one from ``checkout``; return exit code and stderr of the first."""
    port = free_port()
    first = rank(folder, 0, port, timeout_s="20")
    second = rank(folder, 1, port, timeout_s="20", PYTHONPATH=f"{checkout / 'src'}:{SCRIPT.parent}")
    _, stderr = first.communicate(timeout=PATIENCE_S)
    second.communicate(timeout=PATIENCE_S)
    return first.returncode, stderr


@pytest.mark.slow
def test_ranks_with_different_method_versions_are_refused(
    tmp_path: Path, other_checkout: Path
) -> None:
    change(other_checkout / "calibrate" / "version.py", "METHOD_VERSION = 2", "METHOD_VERSION = 0")
    code, stderr = both(tmp_path, other_checkout)
    assert code == 2
    assert f"rank 1 (host {HOST}) runs method 0, rank 0 (host {HOST}) runs 2" in stderr


@pytest.mark.slow
def test_wrong_data_of_a_rank_is_warned_about_and_not_fitted(
    tmp_path: Path, other_checkout: Path
) -> None:
    """The wrong rows stay in the profile, marked as invalid, but no law is fitted to them."""
    change(
        other_checkout / "kernels" / "links" / "collectives.py",
        "    got = sent if op",
        "    received[-1:] += 1\n    got = sent if op",
    )
    code, stderr = both(tmp_path, other_checkout)
    assert code == 0, stderr
    profile = Profile.model_validate_json((tmp_path / "profile.json").read_text())
    wrong = [w for w in profile.warnings if w.startswith(f"wrong data on rank 1 ({HOST}) in all_g")]
    assert wrong
    fitted = {law.config_key["op"] for law in profile.laws}
    assert fitted == {"all_reduce", "broadcast"}


@pytest.mark.parametrize("ranks", [2, 8, 64, 1000])
def test_all_reduce_test_data_sums_exactly_in_bfloat16_for_any_rank_count(ranks: int) -> None:
    like = torch.empty(0, dtype=torch.bfloat16)
    total = torch.zeros(2100, dtype=torch.bfloat16)
    for r in range(ranks):
        total += value_of("all_reduce", r, ranks, 2100, like)
    assert torch.equal(total, (torch.arange(2100) % SMALL_PRIME + 1).to(torch.bfloat16))


OPS = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "broadcast", "sendrecv")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_expected_result_is_what_the_collective_makes_of_all_send_buffers(
    op: str, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expectation is computed in parts and without the other ranks; the result is defined."""
    monkeypatch.setattr("groundspeed.kernels.kernel.CHUNK_ITEMS", 37)
    items = 40 * ranks
    like = torch.empty(0, dtype=torch.bfloat16)
    share = items // ranks
    length = share if op == "all_gather" else items
    sent = [value_of(op, r, ranks, length, like) for r in range(ranks)]
    for rank in range(ranks):
        mine = slice(rank * share, (rank + 1) * share)
        results = {
            "all_reduce": torch.stack(sent).sum(0),
            "all_gather": torch.cat(sent),
            "reduce_scatter": torch.stack(sent).sum(0)[mine],
            "alltoall": torch.cat([s[mine] for s in sent]),
            "broadcast": sent[0],
            "sendrecv": sent[rank - 1],
        }
        group = Group(None, rank, ranks, tuple(range(ranks)))  # type: ignore[arg-type]
        got = results[op]
        for part in chunks(got.numel()):
            assert torch.equal(got[part], expected_in(op, items, group, got, part))


@pytest.mark.slow
def test_rank_lost_under_an_external_launcher_is_reported_once(tmp_path: Path) -> None:
    """No parent process of ours watches the ranks: they detect the loss, and one reports it."""
    port = free_port()
    three = [
        start(
            tmp_path, 0, 10.0, RANK=str(number), WORLD_SIZE="3", MASTER_ADDR="localhost",
            MASTER_PORT=str(port),
        )
        for number in range(3)
    ]  # fmt: skip
    wait_for_entries(tmp_path, three[0], 4)
    three[2].send_signal(signal.SIGKILL)
    messages = [process.communicate(timeout=PATIENCE_S)[1].strip() for process in three]
    assert [process.returncode for process in three[:2]] == [2, 2]
    assert f"rank 2 on {HOST} was lost during " in messages[0]
    assert messages[1] == ""


@pytest.mark.slow
def test_journal_header_lists_the_ranks_and_hosts(tmp_path: Path) -> None:
    process = start(tmp_path, 2, 20)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    head = json.loads(journal(tmp_path)[0])
    assert (head["ranks"], head["hosts"]) == (2, [HOST, HOST])
