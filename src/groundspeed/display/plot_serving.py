"""Plot throughput over latency for a range of concurrencies, with 90 % intervals.

Vendors publish the same kind of chart, without intervals.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundspeed.display.plots import INK, LINES, save_figure
from groundspeed.estimator.serving.workload import Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns = Sequence[tuple[str, Sequence[Prediction]]]


def plot_serving(
    columns: Columns,
    measured: Mapping[int, Mapping[str, float]],
    path: Path,
    *,
    force: bool = False,
) -> None:
    """Plot total tokens per second over end-to-end latency, with one point per concurrency.

    Raises
    ------
    InputError
        If the file cannot be written, or matplotlib is missing.
    """
    save_figure(lambda axes: draw_serving(axes, columns, measured), path, force=force)


def draw_serving(
    axes: "Axes", columns: Columns, measured: Mapping[int, Mapping[str, float]]
) -> None:
    """Draw total tokens per second over end-to-end latency into axes."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for colour, (name, predictions) in zip(LINES, columns, strict=False):
        x = [p.e2e_s for p in predictions]
        y = [p.total_tokens_per_s for p in predictions]
        datasheet = predictions[0].origin == "datasheet"
        axes.plot(
            x, y, color=INK if datasheet else colour, linestyle=":" if datasheet else "-",
            marker="o", markersize=3 if datasheet else 5, linewidth=1.2, label=f"{name}, predicted",
        )  # fmt: skip
        if datasheet:
            continue
        low = [p.total_tokens_per_s * p.rate_factors[0] for p in predictions]
        high = [p.total_tokens_per_s * p.rate_factors[1] for p in predictions]
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        for p in predictions:
            axes.annotate(
                str(p.concurrency), (p.e2e_s, p.total_tokens_per_s), fontsize=7, color=colour,
                xytext=(4, -9), textcoords="offset points",
            )  # fmt: skip
    _draw_measured(axes, columns, measured)
    first = columns[0][1][0]
    axes.set_xlabel("end-to-end latency of a request [s]")
    axes.set_ylabel("input + output tokens per second, all devices")
    axes.set_title(
        f"{first.model}, {first.prompt_tokens} in / {first.output_tokens} out, "
        f"{first.devices} devices, {first.engine}",
        loc="left", fontsize=10, color=INK,
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.legend(frameon=False, fontsize=8)


def _draw_measured(
    axes: "Axes", columns: Columns, measured: Mapping[int, Mapping[str, float]]
) -> None:
    output = columns[0][1][0].output_tokens
    points = [
        (row["ttft_s"] + row["tpot_s"] * (output - 1), row["total_tokens_per_s"])
        for _, row in sorted(measured.items())
        if {"ttft_s", "tpot_s", "total_tokens_per_s"} <= row.keys()
    ]
    if points:
        axes.scatter(
            [x for x, _ in points], [y for _, y in points], marker="x", s=36,
            color=INK, label="measured", zorder=3,
        )  # fmt: skip
