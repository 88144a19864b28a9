"""The commands about a live server: what belongs together, and what has no effect."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundspeed.cli import app
from groundspeed.estimator.engines.own_engine import find_own_engine
from groundspeed.profiles.errors import InputError

SERVER = ("--server", "127.0.0.1:9")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("calibrate", *SERVER), "--gpu: the device of the server is needed"),
        (("calibrate", *SERVER, "--gpu", "h200", "--quick"), "--quick: has no effect with"),
        (("calibrate", *SERVER, "--gpu", "h200", "--plan"), "--plan: has no effect with"),
        (("calibrate", "--metrics-only"), "--metrics-only: has no effect without --server"),
        (("calibrate", "--tp", "2"), "--tp: has no effect without --server"),
        (("calibrate", "--budget", "9s"), "--budget: has no effect without --server"),
        (("calibrate", *SERVER, "--gpu", "h200", "--metrics", "a"), "--metrics: belongs to"),
        (("calibrate", *SERVER, "--gpu", "h200", "--name", "../x"), "--name: '../x' is no name"),
        (("calibrate", *SERVER, "--gpu", "h200"), "nothing listens there"),
        (("calibrate", *SERVER, "--gpu", "h20000"), "nothing listens there"),
        (("verify", "qwen3-8b", *SERVER, "--gpu", "h200", "--layers", "3"), "--layers: has no"),
        (("verify", "qwen3-8b", "--engine-profile", "x"), "--engine-profile: has no effect wi"),
        (("verify", "qwen3-8b", *SERVER, "--gpu", "h200"), "nothing listens there"),
        (("verify", "qwen3-8b", *SERVER, "--gpu", "h200", "--engine-profile", "nonesuch"),
         "no engine profile 'nonesuch'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(words: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(app, list(words))
    assert isinstance(result.exception, InputError)
    assert told in str(result.exception)


TABLE = (
    "model,engine,isl,osl,concurrency,num_prompts,ttft_ms,tpot_ms\n"
    "qwen3-8b,vllm,128,64,1,10,35,9.1\n"
    "qwen3-8b,vllm,1024,64,8,80,120,11.0\n"
    "qwen3-8b,vllm,256,128,32,320,150,13.5\n"
)


def test_results_of_a_load_tool_are_fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    table = tmp_path / "rows.csv"
    table.write_text(TABLE)
    words = ["calibrate", "--results", str(table), "--gpu", "h200-sxm", "--name", "mine"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    own = find_own_engine("mine")
    assert own.origin == "results" and len(own.loads) == 3
    assert own.tpot_factor > 1.1 and "too few" in own.notes[0]
    # Steps of 9 ms on a GPU that needs 4.5 for the kernels: the host takes the rest.
    assert 2e-3 < own.costs["step_s"] < 8e-3
    for load in own.loads:
        assert load.tpot_ms is not None and load.predicted_tpot_ms is not None
        assert abs(load.predicted_tpot_ms / load.tpot_ms - 1.0) < 0.08


@pytest.mark.parametrize(
    ("table", "more", "told"),
    [
        (TABLE.replace("engine", "other"), (), "do not say which engine"),
        (TABLE.replace("model", "other"), (), "do not say which model"),
        (TABLE.replace("ttft_ms", "other"), (), "no result has a TTFT"),
        (TABLE, SERVER, "exclude each other"),
        (TABLE, ("--metrics-only", "--quick"), "--quick: has no effect"),
    ],
)
def test_results_that_are_none_say_so(
    tmp_path: Path, table: str, more: tuple[str, ...], told: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(table)
    words = ["calibrate", "--results", str(path), "--gpu", "h200-sxm", *more]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, InputError)
    assert told in str(result.exception)
