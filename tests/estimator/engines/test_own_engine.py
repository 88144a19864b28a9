"""A calibrated engine: written, read, and used in place of the published constants."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import groundspeed as gs
from groundspeed.cli import app
from groundspeed.estimator.engines.own_engine import (
    FittedLoad,
    OwnEngine,
    engine_folder,
    find_own_engine,
    load_own_engine,
    save_own_engine,
)
from groundspeed.profiles.errors import InputError

OWN = OwnEngine(
    name="mine", engine="vllm", engine_version="0.32.0", origin="load", date="2026-11-30",
    model="qwen3-8b", hardware="h200-sxm-imported", policy="mixed", token_budget=4096,
    max_sequences=128, flags={"block size": "16", "quote": 'a "b"\n'},
    costs={"step_s": 0.004, "request_s": 0.05}, spread={"step_s": 0.1}, tpot_factor=1.04,
    ttft_factor=1.1,
    loads=(
        FittedLoad(
            concurrency=4, prompt_tokens=100, output_tokens=16, requests=16, ttft_ms=60.0,
            tpot_ms=12.0, predicted_ttft_ms=61.0, predicted_tpot_ms=12.1,
        ),
    ),
    notes=("a note",),
)  # fmt: skip


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    save_own_engine(OWN, engine_folder() / "mine.toml")
    return "mine"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    save_own_engine(OWN, path)
    assert load_own_engine(path) == OWN
    assert path.read_text().startswith("# vllm 0.32.0 on h200-sxm-imported, calibrated 2026-11-30")
    with pytest.raises(InputError, match="exists already"):
        save_own_engine(OWN, path)


@given(st.text(max_size=40), st.floats(1e-9, 10.0))
def test_any_text_and_constant_survives(text: str, value: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        own = OWN.model_copy(update={"flags": {"x": text}, "costs": {"step_s": value}})
        save_own_engine(own, Path(folder) / "a.toml")
        assert load_own_engine(Path(folder) / "a.toml") == own


def test_its_constants_are_used_first(stored: str) -> None:
    plain = gs.estimate("qwen3-8b", gpu="h200-sxm", concurrency=8)
    ours = gs.estimate("qwen3-8b", gpu="h200-sxm", concurrency=8, engine_profile=stored)
    assert ours.tpot_s is not None and plain.tpot_s is not None
    assert ours.tpot_s > plain.tpot_s + 0.003  # its step takes 4 ms of the host
    assert ours.engine_version == "0.32.0"
    assert any("measured on a server of your own" in text for text in ours.assumed)
    # The interval of the model that was measured is what its loads showed; of another, wider.
    other = gs.estimate("qwen3-32b", gpu="h200-sxm", concurrency=8, engine_profile=stored)
    assert other.tpot_s is not None and other.tpot_high_s is not None
    assert ours.tpot_high_s is not None
    assert ours.tpot_high_s / ours.tpot_s < other.tpot_high_s / other.tpot_s
    assert not any("of your own" in text for text in other.assumed)


def test_commands_take_it(stored: str, tmp_path: Path) -> None:
    run = CliRunner()
    words = ["estimate", "qwen3-8b", "--gpu", "h200-sxm", "--concurrency", "8", "--json"]
    plain = json.loads(run.invoke(app, words).stdout)
    ours = json.loads(run.invoke(app, [*words, "--engine-profile", stored]).stdout)
    assert plain != ours
    words = ["plan", "qwen3-8b", "--gpu", "h200-sxm", "--gpus", "1", "--json"]
    assert json.loads(run.invoke(app, words).stdout) != json.loads(
        run.invoke(app, [*words, "--engine-profile", stored]).stdout
    )
    table = tmp_path / "rows.csv"
    table.write_text(
        "model,gpu,engine,isl,osl,concurrency,tpot_ms\n"
        "qwen3-8b,h200-sxm,vllm,512,64,4,10\nqwen3-8b,h200-sxm,sglang,512,64,4,10\n"
    )
    words = ["backtest", str(table), "--json"]
    before = json.loads(run.invoke(app, words).stdout)["rows"]
    after = json.loads(run.invoke(app, [*words, "--engine-profile", stored]).stdout)["rows"]
    assert after[0]["pred_tpot_ms"] > before[0]["pred_tpot_ms"]
    assert after[1] == before[1]  # another engine keeps its own constants


def test_what_is_wrong_is_said(stored: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no engine profile 'min'"):
        find_own_engine("min")
    with pytest.raises(InputError, match="is of vllm, not of sglang"):
        gs.estimate("qwen3-8b", gpu="h200-sxm", concurrency=2, engine="sglang",
                    engine_profile=stored)  # fmt: skip
    bad = tmp_path / "bad.toml"
    bad.write_text("name = ")
    with pytest.raises(InputError, match="is not TOML"):
        load_own_engine(bad)
    bad.write_text('name = "x"\n')
    with pytest.raises(InputError, match=r"bad\.toml"):
        load_own_engine(bad)
    wrong = OWN.model_copy(update={"name": "wrong", "costs": {"step_ms": 1.0}})
    save_own_engine(wrong, tmp_path / "wrong.toml")
    with pytest.raises(InputError, match="unknown constant step_ms.*did you mean"):
        gs.estimate("qwen3-8b", gpu="h200-sxm", concurrency=2,
                    engine_profile=str(tmp_path / "wrong.toml"))  # fmt: skip


def test_nothing_was_calibrated_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(InputError, match="calibrate --server"):
        find_own_engine("any")
