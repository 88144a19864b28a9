"""Real captures of other tools, whole and as logs mangle them: right numbers or one clear line."""

import csv
import json
import random
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from groundspeed.calibrate.importers.imported import Imported, ImportRequest
from groundspeed.calibrate.importers.nccl_tests import read_nccl_tests
from groundspeed.profiles.busbw import busbw
from groundspeed.profiles.errors import InputError
from program import groundspeed


def test_captures_are_read_or_refused_as_their_answers_say(
    cases: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    with (cases / "truth.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if "profile import" in r["command"]]
    assert len(rows) > 30
    for row in rows:
        with subtests.test(row["id"]):
            arguments = shlex.split(row["command"])[1:]
            arguments[arguments.index("-o") + 1] = str(tmp_path / "out.json")
            paths = [str(cases / a) if a.startswith("importers/") else a for a in arguments]
            ran = groundspeed(*paths)
            allowed = set(re.findall(r"\b[0-3]\b", row["exit_expected"]))
            assert str(ran.code) in allowed, (row["right_answer"], ran.out, ran.err)
            assert "Traceback" not in ran.err


CAPTURES = {
    "h100_plain.txt": ("all_reduce", 8, 2.0**31, 470.7),
    "h100_k8s_2nodes.txt": ("all_reduce", 16, 2.0**33, 196.52),
    "t4_untagged.txt": ("all_reduce", 2, 2.0**30, 3.11),
    "h100_3nodes_clean.txt": ("all_reduce", 24, 2.0**29, 5.31),
    "sb_nccl_allgather.log": ("all_gather", 8, 2.0**33, 223.0),
    "sb_nccl_alltoall.log": ("alltoall", 8, 2.0**33, 224.0),
    "sb_nccl_reduce.log": ("reduce", 8, 2.0**33, 228.0),
}
"""Collective, ranks, a size [bytes] and its busbw [GB/s], by capture."""


def read(path: Path, text: str, op: str) -> Imported:
    return read_nccl_tests(ImportRequest(path, text, "nccl-tests", "h100-sxm", op))


def rate_at(imported: Imported, size: float) -> list[float]:
    """Return the busbw [GB/s] of every curve at a size."""
    return [
        busbw(c.config_key["op"], int(c.config_key["world_size"]), size, p.time_s) / 1e9
        for c in imported.curves
        for p in c.points
        if p.case["bytes"] == size
    ]


def per_line(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: "\n".join(change(line) for line in text.splitlines())


MANGLED: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "mpirun": per_line(lambda line: f"[1,0]<stdout>:{line}"),
    "srun": per_line(lambda line: f" 0: {line}"),
    "kubectl": per_line(lambda line: f"2025-06-03T10:11:12.123456789Z {line}"),
    "kubectl and mpirun": per_line(lambda line: f"2025-06-03T10:11:12Z [1,0]<stdout>:{line}"),
    "indented": per_line(lambda line: f"    {line}"),
    "quoted": per_line(lambda line: f"> {line}"),
    "fenced": lambda text: f"What I see:\n```\n{text}\n```\n",
    "windows": lambda text: text.replace("\n", "\r\n"),
    "coloured": per_line(lambda line: f"\x1b[32m{line}\x1b[0m"),
}


@pytest.mark.parametrize("name", CAPTURES)
@pytest.mark.parametrize("form", MANGLED)
def test_what_logs_add_to_lines_changes_no_number(cases: Path, name: str, form: str) -> None:
    op, ranks, size, wanted = CAPTURES[name]
    path = cases / "importers" / "nccl-tests" / name
    imported = read(path, MANGLED[form](path.read_text()), op)
    (curve,) = imported.curves
    assert (curve.config_key["op"], int(curve.config_key["world_size"])) == (op, ranks)
    assert rate_at(imported, size) == [pytest.approx(wanted, rel=0.005)]


@pytest.mark.parametrize("seed", range(30))
def test_a_log_that_is_cut_gives_the_same_numbers_or_one_line(cases: Path, seed: int) -> None:
    rng = random.Random(seed)
    name = rng.choice(list(CAPTURES))
    op, ranks, _, _ = CAPTURES[name]
    path = cases / "importers" / "nccl-tests" / name
    text = path.read_text()
    whole = {p.case["bytes"]: p.time_s for p in read(path, text, op).curves[0].points}
    begin = rng.choice((0, rng.randrange(len(text))))
    part = text[begin : rng.randrange(begin, len(text)) + 1]
    lines = part.splitlines()
    if rng.random() < 0.3:
        rng.shuffle(lines)
    try:
        imported = read(path, "\n".join(lines), op)
    except InputError as error:
        assert "\n" not in str(error)
        return
    for curve in imported.curves:
        assert curve.config_key["world_size"] == str(ranks)
        for point in curve.points:
            if point.case["bytes"] in whole:
                assert point.time_s == pytest.approx(whole[point.case["bytes"]], rel=0.5)


def test_two_runs_in_one_log_are_told_apart(cases: Path) -> None:
    folder = cases / "importers" / "nccl-tests"
    first, second = (folder / n for n in ("h100_plain.txt", "h100_k8s_2nodes.txt"))
    imported = read(first, first.read_text() + "\n" + second.read_text(), "all_reduce")
    assert [c.config_key["world_size"] for c in imported.curves] == ["8", "16"]
    again = read(first, first.read_text() + "\n" + first.read_text(), "all_reduce")
    assert [c.config_key.get("run") for c in again.curves] == [None, "2"]
    assert any("each run is kept apart" in w for w in again.warnings)
    assert rate_at(again, 2.0**31) == [pytest.approx(470.7, rel=0.005)] * 2


def test_a_fall_with_size_is_named(cases: Path) -> None:
    path = cases / "importers" / "nccl-tests" / "h100_3nodes_clean.txt"
    said = "; ".join(read(path, path.read_text(), "all_reduce").warnings)
    assert "busbw falls by 82%, from 29.5 GB/s at 32 MiB to 5.31 GB/s at 64 MiB" in said


def test_requests_keep_their_file() -> None:
    request = ImportRequest(Path("a.txt"), "nothing", "nccl-tests")
    with pytest.raises(InputError, match=r"a\.txt: no table of nccl-tests found"):
        read_nccl_tests(replace(request, op="all_reduce"))


def test_a_log_of_large_messages_leaves_the_estimate_of_a_decode_step_alone(
    cases: Path, tmp_path: Path
) -> None:
    """Messages of a decode step have kilobytes; a log from 256 MiB up says nothing about them."""
    log = cases / "importers" / "nccl-tests" / "h100_plain.txt"
    folder = ("--profile-dir", str(tmp_path))
    ran = groundspeed("profile", "import", "nccl-tests", str(log), *folder)
    assert ran.code == 0 and "its latency is unknown" in " ".join(ran.out.split())
    model = ("estimate", "llama-3.3-70b", "--gpu", "h100", "--tp", "8", "--dtype", "fp8",
             "--concurrency", "16", "--json")  # fmt: skip
    alone, beside = (
        json.loads(groundspeed(*model, *more).out)["predictions"][-1]["tpot_s"]
        for more in (("--profile-dir", str(tmp_path / "none")), folder)
    )
    assert beside == pytest.approx(alone, rel=0.05)
