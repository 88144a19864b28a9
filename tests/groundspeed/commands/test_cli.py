"""The command line in real processes: exit codes, output, and one line for each error."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

import profile_factory
from groundspeed.cli import app
from groundspeed.profiles import save_profile
from program import PATIENCE_S, environment, groundspeed, running


def test_estimate_does_not_import_torch_pandas_or_scipy() -> None:
    script = (
        "import sys; sys.argv = ['groundspeed', 'estimate', 'qwen2.5-32b', '--gpu', 'h20']\n"
        "from groundspeed.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'triton', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


COMMANDS = ["run", "calibrate", "estimate", "verify", "profile"]
SUBCOMMANDS = ["list", "show", "check", "import", "diff"]


@pytest.mark.parametrize(
    "command", [*([c] for c in COMMANDS), *(["profile", s] for s in SUBCOMMANDS)], ids=" ".join
)
def test_help_shows_an_example_of_the_command(command: list[str]) -> None:
    ran = groundspeed(*command, "--help")
    assert ran.code == 0
    if command != ["profile"]:
        assert f"Example: groundspeed {' '.join(command)}" in " ".join(ran.out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["estimate", "qwen2.5-32b", "--gpu", "h2000"], "did you mean 'h20'"),
        (["estimate", "qwen2.5-3b2", "--gpu", "h20"], "did you mean"),
        (["estimate", "qwen2.5-32b", "--gpu", "mi308x"], "gives no bfloat16 peak"),
        (["estimate", "qwen2.5-32b", "--gpu", "h20", "--isl", "0"], "prompt tokens"),
        (["estimate", "qwen2.5-32b", "--gpu", "h20", "--osl", "-4"], "output tokens"),
        (["estimate", "qwen2.5-32b", "--gpu", "h20", "--batch", "0"], "batch"),
        (["estimate", "qwen2.5-32b", "--gpu", "h20", "--isl", "9999999"], "more than"),
        (["estimate", "qwen2.5-32b", "--gpu", "h20", "--dtype", "bf61"], "did you mean 'bf16'"),
        (["estimate", "qwen2.5-32b", "--gpu", "h20", "--method", "magic"], "unknown method"),
        (["estimate", "qwen2.5-32b", "--gpu", "h20", "--isl", "many"], "isl"),
        (["estimate", "qwen2.5-32b"], "--gpu"),
        (["estimate"], "Missing argument"),
        (["estimate", "./absent/config.json", "--gpu", "h20"], "no such model configuration"),
        (["estimate", "/", "--gpu", "h20"], "is a folder"),
        (["estimate", "/proc/self/mem", "--gpu", "h20"], "cannot be read"),
        (["estimate", "qwen2.5-32b", "--gpu", "absent.json"], "no such profile"),
        (["profile", "show", "v100-sxm", "--plot", "x.png"], "is a datasheet"),
        (["profile", "check", "absent.json"], "no such profile"),
        (["profile", "diff", "v100-sxm", "rtx-4090"], "compares measured profiles"),
        (["verify", "qwen2.5-0.5b", "--prompts", "64,x"], "not a positive whole number"),
        (["verify", "qwen2.5-0.5b", "--layers", "99"], "has 24 layers"),
        (["fly"], "No such command"),
        (["estimate", "--warp"], "No such option"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_gives_one_line_and_exit_code_2(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    ran = groundspeed(*arguments, cwd=tmp_path)
    assert ran.code == 2, ran
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["estimate", "qwen2.5-32b", "--gpu", "h20", "--json"],
        ["estimate", "qwen2.5-32b", "--gpu", "h20", "--gpu", "mi300x", "--json"],
        ["estimate", "qwen2.5-32b", "--gpu", "h20", "--method", "naive", "--json"],
        ["profile", "list", "--json"],
        ["fleet", "rounds", "--nodes", "a,b,c,d", "--json"],
        ["fleet", "dashboard", "--json"],
        ["fleet", "daemonset", "--store", "s3://b/f", "--image", "x", "--json"],
        ["profile", "show", "h200", "--json"],
        ["profile", "show", "h200", "--sheet", "--json"],
    ],
    ids=" ".join,
)
def test_json_option_prints_one_document_on_stdout(arguments: list[str]) -> None:
    ran = groundspeed(*arguments)
    assert ran.code == 0, ran.err
    assert isinstance(json.loads(ran.out), dict)


def test_naive_estimate_prints_the_figures_of_the_article() -> None:
    ran = groundspeed("estimate", "qwen2.5-32b", "--gpu", "h20", "--method", "naive")
    for figure in ("31.98", "65.28", "441", "735", "2466", "432", "2312", "2297", "62.5", "2.7%"):
        assert figure in ran.out, figure


def test_output_file_is_written_and_overwritten_only_with_force(tmp_path: Path) -> None:
    arguments = ("estimate", "qwen2.5-7b", "--gpu", "h200", "--json", "-o", "estimate.json")
    assert groundspeed(*arguments, cwd=tmp_path).code == 0
    before = (tmp_path / "estimate.json").read_text()
    ran = groundspeed(*arguments, cwd=tmp_path)
    assert (ran.code, "--force" in ran.err) == (2, True)
    assert (tmp_path / "estimate.json").read_text() == before
    assert groundspeed(*arguments, "--force", cwd=tmp_path).code == 0


def test_measured_profile_is_used_beside_the_datasheet(own_data_folder: Path) -> None:
    document = profile_factory.document_with_laws()
    profile = type(profile_factory.profile()).model_validate(document)
    folder = own_data_folder / "groundspeed" / "profiles"
    save_profile(profile, folder / "h200-sxm-test.json")
    ran = groundspeed("estimate", "llama-3.1-8b", "--gpu", "h200")
    assert ran.code == 0, ran.err
    shown = " ".join(ran.out.split())  # undo the wrapping of long lines
    assert "measured: h200-sxm-test; what they lack: profile h200-sxm-imported" in shown
    assert "datasheet" in ran.out
    assert "calibrated" in ran.out
    listed = json.loads(groundspeed("profile", "list", "--json").out)
    assert [p["id"] for p in listed["profiles"]] == ["h200-sxm-test"]
    shown = groundspeed("profile", "show", "h200-sxm-test")
    assert "utilization" in shown.out


def test_profile_check_of_impossible_times_names_the_roof_and_exits_with_1(tmp_path: Path) -> None:
    document = profile_factory.document()
    (tmp_path / "good.json").write_text(json.dumps(document))
    assert groundspeed("profile", "check", "good.json", cwd=tmp_path).code == 0
    for p in document["curves"][0]["points"]:
        for key in ("time_s", "q10_s", "q90_s", "low_s", "high_s"):
            p[key] /= 1000.0
    (tmp_path / "bad.json").write_text(json.dumps(document))
    ran = groundspeed("profile", "check", "bad.json", cwd=tmp_path)
    assert ran.code == 1
    assert "roof" in ran.out
    assert groundspeed("profile", "show", "./bad.json", cwd=tmp_path).code == 2


def test_markup_and_escape_codes_in_names_are_not_interpreted(tmp_path: Path) -> None:
    document = profile_factory.document()
    document["device"]["name"] = "[bold red]x[/] \x1b[31m\x07 NVIDIA"
    document["warnings"] = ["[link=file:///etc]click[/link] \x1b]0;owned\x07"]
    (tmp_path / "p.json").write_text(json.dumps(document))
    ran = groundspeed("profile", "show", "./p.json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "[bold red]x[/]" in ran.out
    assert "[link=file:///etc]click[/link]" in ran.out
    assert "\x1b" not in ran.out and "\x07" not in ran.out


def test_output_in_a_pipe_fits_80_columns_and_has_no_colour() -> None:
    ran = groundspeed("estimate", "qwen2.5-32b", "--gpu", "h20", COLUMNS="80")
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    assert "\x1b" not in ran.out


def test_closed_pipe_gives_no_traceback() -> None:
    command = f"{sys.executable} -P -m groundspeed profile list --json | head -c 10"
    run = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment(), capture_output=True, text=True
    )
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_the_measurements_and_exits_with_130(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    command = [
        sys.executable, "-P", "-m", "groundspeed", "calibrate", "--quick", "--device", "cpu",
        "--profile-dir", str(tmp_path),
    ]  # fmt: skip
    journals: list[Path] = []
    with running(command) as process:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and process.poll() is None:
            journals = list((tmp_path / "unfinished").glob("*.jsonl"))
            if journals and len(journals[0].read_text().splitlines()) > 5:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "interrupted; the measurements so far are kept" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.glob("*.json")) == []
    assert len(journals[0].read_text().splitlines()) > 5


@pytest.mark.parametrize("command", ["calibrate", "run"])
def test_measuring_without_torch_names_the_package_to_install(tmp_path: Path, command: str) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here', name='torch')\n")
    path = os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])
    ran = groundspeed(command, PYTHONPATH=path)
    assert ran.code == 2
    assert "pip install 'groundspeed[measure]'" in ran.err


def test_unknown_device_and_missing_gpu_are_refused() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert "unknown device 'tpu'" in groundspeed("calibrate", "--device", "tpu").err
    if not torch.cuda.is_available():
        ran = groundspeed("calibrate", "--device", "cuda")
        assert (ran.code, "no GPU here" in ran.err) == (2, True)


def test_every_command_has_a_json_option_and_an_example() -> None:
    lacking = []

    def walk(prefix: str, group: Any) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(f"{prefix} {name}", command)
            elif not command.hidden:
                options = {o for p in command.params for o in p.opts}
                if "--json" not in options or "Example: " not in (command.help or ""):
                    lacking.append(f"{prefix} {name}")

    walk("groundspeed", typer.main.get_command(app))
    assert lacking == []


def test_a_terminal_of_ascii_gets_an_answer_and_no_traceback() -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "groundspeed", "estimate", "qwen3-8b", "--gpu", "h200",
         "--concurrency", "1"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"concurrency 1" in ran.stdout


def test_narrow_terminal_cuts_no_name_and_no_number() -> None:
    ran = groundspeed("estimate", "qwen3-32b", "--gpu", "h100", COLUMNS="60")
    assert "…" not in ran.out
    assert "18.1 ms   16.7 to 19.7" in ran.out
    assert "rtx-pro-6000-workstation" in groundspeed("profile", "list", COLUMNS="80").out


def test_a_result_is_not_written_under_a_name_that_promises_text(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    ran = groundspeed("estimate", "qwen3-8b", "--gpu", "h100", "-o", str(path))
    assert ran.code == 2 and "would hold JSON, not text" in ran.err and not path.exists()
