"""The Python API: results have an HTML view for notebooks, a DataFrame and a plot."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import groundspeed as gs
from groundspeed.fleet.trial.simulated_fleet import Fault, simulate_fleet
from groundspeed.profiles import InputError
from profile_factory import profile as make_profile
from program import environment

mpl.use("Agg")

HOSTILE = "<script>alert(1)</script>$x$"


def axes() -> Axes:
    return Figure().add_subplot()


def test_loaded_profile_has_a_table_an_html_view_and_a_plot(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    made = make_profile()
    path.write_text(made.model_dump_json())
    profile = gs.load_profile(path)
    assert isinstance(profile, gs.Profile)
    assert profile.model_dump() == made.model_dump()
    frame = profile.to_pandas()
    assert len(frame) == sum(len(c.points) for c in made.curves)
    first = made.curves[0].points[0]
    assert frame["time_us"].iloc[0] == pytest.approx(1e6 * first.time_s)
    assert made.device.name in profile._repr_html_()
    drawn = axes()
    assert profile.plot(drawn) is drawn
    assert drawn.lines


def test_profile_is_found_by_gpu_name_and_unknown_names_are_refused() -> None:
    assert gs.load_profile("h200").id.startswith("h200-sxm")
    with pytest.raises(gs.InputError, match="unknown GPU 'h2000'"):
        gs.load_profile("h2000")
    with pytest.raises(gs.InputError, match="no such"):
        gs.load_profile("/nowhere/p.json")


def test_static_batch_estimate_has_a_table_an_html_view_and_a_plot() -> None:
    result = gs.estimate("llama-3.1-8b", gpu="h200", prompt_tokens=128, output_tokens=16)
    assert isinstance(result, gs.Prediction)
    frame = result.to_pandas()
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    assert "TPOT" in result._repr_html_()
    assert result.plot(axes()).patches


def test_server_estimate_has_a_table_an_html_view_and_a_plot() -> None:
    result = gs.sweep("llama-3.1-8b", gpu="h200", concurrency=[1, 8], output_tokens=64)
    frame = result.to_pandas()
    assert frame["concurrency"].tolist() == [1, 8]
    assert frame["output_tokens_per_s"].is_monotonic_increasing
    assert "TTFT" in result._repr_html_()
    assert result.plot(axes()).lines
    with pytest.raises(gs.InputError):
        gs.sweep("llama-3.1-405b", gpu="h200", concurrency=[1])  # does not fit


def test_fleet_screening_has_a_table_an_escaped_html_view_and_a_plot(tmp_path: Path) -> None:
    fleet = simulate_fleet(8, seed=1, faults=(Fault(2, 2, 0.2),)).table
    fleet["node"] = fleet["node"].replace({"n00002": HOSTILE})
    served = gs.Served("llama-3.1-8b", "h200", tp=2)
    result = gs.screen(fleet, served=served)
    frame = result.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert (frame["node"] == HOSTILE).any()
    assert result.findings[0].cost is not None
    shown = result._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    figure = Figure()
    result.plot(figure.add_subplot())
    figure.savefig(tmp_path / "f.png")  # "$x$" in a node name must not be drawn as a formula
    path = tmp_path / "fleet.csv"
    fleet.to_csv(path, index=False)
    assert gs.screen(path).findings == gs.screen([str(path)]).findings
    with pytest.raises(gs.InputError, match="column missing: metric"):
        gs.screen(fleet.drop(columns="metric"))


@pytest.mark.slow
def test_the_example_notebook_runs(root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(root / "scripts" / "run_notebook.py"), "--check"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_every_public_name_exists_and_others_raise_attribute_error() -> None:
    for name in gs.__all__:
        assert getattr(gs, name) is not None
    with pytest.raises(AttributeError):
        _ = gs.nothing  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def test_decisions_are_typed_objects_of_the_python_interface(tmp_path: Path) -> None:
    """What the commands plan, compare, audit and backtest do, Python does with the same names."""
    made = gs.plan("llama-3.1-8b", gpu=["h200", "h100"], gpus=2, tpot_s=0.02, price=[4.0, 3.0])
    assert made.best is not None and made.best.tpot_s <= 0.02
    compared = gs.compare(
        "mixtral-8x7b",
        {"a": {"gpu": "h200", "tp": 2}, "b": {"gpu": "h100", "tp": 4, "engine": "sglang"}},
        concurrency=[1, 8],
    )
    assert {row.metric for row in compared.rows} >= {"ttft_s", "tpot_s"}
    claim = gs.audit(
        "deepseek-r1", gpu="h200", gpus=8, tokens_per_s=170.0, counts="total",
        prompt_tokens=3200, output_tokens=800, concurrency=1, dtype="fp8",
    )  # fmt: skip
    assert claim.passes
    table = pd.DataFrame(
        [{"model": "llama-3.1-8b", "gpu": "h200", "isl": 512, "osl": 128, "tpot_ms": 6.0,
          "batch_or_concurrency": 1}]
    )  # fmt: skip
    (row,) = gs.backtest(table)
    assert row.skipped_reason == "" and 3.0 < row.predicted["tpot_ms"] < 9.0
    table.to_csv(tmp_path / "rows.csv", index=False)
    assert gs.backtest(tmp_path / "rows.csv")[0].predicted == row.predicted
    with pytest.raises(gs.InputError, match="did you mean 'engine'"):
        gs.compare("llama-3.1-8b", {"a": {"gpu": "h200", "engin": "vllm"}, "b": {"gpu": "h100"}})


def test_estimate_takes_what_the_command_takes() -> None:
    """Beyond 128 tokens the window of gpt-oss is full; speculation, cache and rate change it."""
    plain = gs.estimate("gpt-oss-120b", gpu="h200", prompt_tokens=4096, concurrency=4)
    choices: tuple[dict[str, Any], ...] = (
        {"engine": "sglang"}, {"tp": 2}, {"kv_dtype": "fp8"}, {"cached": 0.5}, {"price": 3.0},
        {"draft_tokens": 3, "acceptance": 0.7}, {"draft_tokens": 2},
        {"token_budget": 512}, {"replicas": 2},
    )  # fmt: skip
    for options in choices:
        changed = gs.estimate(
            "gpt-oss-120b", gpu="h200", prompt_tokens=4096, concurrency=4, **options
        )
        assert changed.model_dump() != plain.model_dump(), options
    offered = gs.estimate("gpt-oss-120b", gpu="h200", prompt_tokens=4096, rate=0.5)
    assert offered.requests_per_s == pytest.approx(0.5)
    with pytest.raises(gs.InputError, match="exclude each"):
        gs.estimate("gpt-oss-120b", gpu="h200", batch=2, concurrency=4)


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"concurrency": 0}, {"concurrency": 2.5}, {"tp": "2"}, {"acceptance": 0.5},
     {"slo": (float("nan"), 1.0)}, {"batch": 4, "slo": (0.5, 0.05)}, {"draft": "ngram"},
     {"batch": 4, "max_sequences": 1}, {"engine_version": "0.12"}],
    ids=str,
)  # fmt: skip
def test_python_refuses_what_the_command_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(gs.InputError):
        gs.estimate("llama-3.1-8b", gpu="h200", **options)


def test_option_of_a_server_asks_for_a_server_as_in_the_command() -> None:
    for options in ({"max_sequences": 4}, {"num_prompts": 4}, {"slo": (0.5, 0.05)}):
        assert gs.estimate("llama-3.1-8b", gpu="h200", **options).kind == "closed"  # type: ignore[arg-type]


def test_claim_of_replicas_is_possible_and_impossible_conditions_are_refused() -> None:
    """Eight GPUs may be eight replicas, which are faster than one group of eight."""
    load: dict[str, Any] = {"prompt_tokens": 4096, "output_tokens": 128, "concurrency": 64}
    best = gs.estimate("llama-3.1-8b", gpu="l40s", replicas=8, engine="sglang", **load)
    claim = gs.audit(
        "llama-3.1-8b", gpu="l40s", gpus=8, counts="total", tokens_per_s=best.total_tokens_per_s,
        **load,
    )  # fmt: skip
    assert claim.passes
    conditions: tuple[dict[str, Any], ...] = ({"concurrency": 0}, {"gpus": -3}, {"counts": "foo"})
    for wrong in conditions:
        with pytest.raises(gs.InputError, match="at least 1|counts total or output"):
            gs.audit("llama-3.1-8b", gpu="l40s", tokens_per_s=10.0, **(load | wrong))


def test_links_and_limits_of_the_command_are_options_of_python_too() -> None:
    slow, fast = (
        gs.estimate("kimi-k2", gpu="h200", tp=16, concurrency=8, inter_node=rate)
        for rate in ("100Gb/s", "800Gb/s")
    )
    assert slow.ttft_s > 1.2 * fast.ttft_s
    made = gs.plan("llama-3.1-8b", gpu="h100", gpus=2, slo="tpot=12", cached=0.5,
                   memory_fraction=0.8, pools=False)  # fmt: skip
    assert made.launch is not None and "--gpu-memory-utilization 0.8" in made.launch
    assert made.tpot_limit_s == 0.012 and made.pools == ()
    with pytest.raises(InputError, match="inter_node: 'fast' is no rate"):
        gs.estimate("llama-3.1-8b", gpu="h100", concurrency=2, inter_node="fast")
