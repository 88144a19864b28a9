"""The Python API: results have an HTML view for notebooks, a DataFrame and a plot."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import groundspeed as gs
from groundspeed.fleet.screen.simulated_fleet import Fault, simulate_fleet
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
