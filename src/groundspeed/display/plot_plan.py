"""Plot the Pareto front of a plan: tokens/s per GPU over tokens/s per user."""

from pathlib import Path
from typing import TYPE_CHECKING

from groundspeed.display.plots import INK, LINES, save_figure
from groundspeed.display.show_plan import deployment_name
from groundspeed.estimator.decisions.plan_records import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_plan(plan: Plan, path: Path, *, force: bool = False) -> None:
    """Plot the Pareto front of a plan to a PNG or SVG file.

    Raises
    ------
    InputError
        If the file cannot be written, or matplotlib is missing.
    """
    save_figure(lambda axes: _draw(axes, plan), path, force=force)


def _draw(axes: "Axes", plan: Plan) -> None:
    front = sorted((p for p in plan.points if p.on_front), key=lambda p: p.tokens_per_s_per_user)
    names = list(dict.fromkeys(deployment_name(p) for p in front))
    axes.plot(
        [p.tokens_per_s_per_user for p in front], [p.tokens_per_s_per_gpu for p in front],
        color=INK, linewidth=0.8, alpha=0.5,
    )  # fmt: skip
    for i, name in enumerate(names):
        mine = [p for p in front if deployment_name(p) == name]
        axes.scatter(
            [p.tokens_per_s_per_user for p in mine], [p.tokens_per_s_per_gpu for p in mine],
            color=LINES[i % len(LINES)], s=28, label=name, zorder=3,
        )  # fmt: skip
    if plan.tpot_limit_s is not None:
        axes.axvline(1.0 / plan.tpot_limit_s, color=INK, linestyle=":", linewidth=1.0)
        axes.annotate("TPOT limit", (1.0 / plan.tpot_limit_s, axes.get_ylim()[1]), fontsize=8,
                      xytext=(4, -12), textcoords="offset points", color=INK)  # fmt: skip
    if plan.best is not None:
        axes.scatter(
            [plan.best.tokens_per_s_per_user], [plan.best.tokens_per_s_per_gpu], s=160,
            facecolors="none", edgecolors=INK, linewidths=1.4, label="chosen", zorder=4,
        )  # fmt: skip
    axes.set_xscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("output tokens per second per user")
    axes.set_ylabel("output tokens per second per GPU")
    axes.set_title(
        f"{plan.model}, {plan.prompt_tokens} in / {plan.output_tokens} out", loc="left",
        fontsize=10, color=INK,
    )  # fmt: skip
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
