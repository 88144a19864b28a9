"""Draw plots with matplotlib: rooflines, bus bandwidth, time by operator, losses in a fleet.

A roofline plot shows achieved rate over arithmetic intensity for every measured point.

    save_roofline(profile, Path("h200.png"))
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groundspeed.display.show_links import curve_name, size_name
from groundspeed.display.terminal import shown
from groundspeed.profiles.busbw import busbw
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import write_whole
from groundspeed.profiles.laws import law_time
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.summary import WINNER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from groundspeed.estimator import Prediction
    from groundspeed.fleet.screen.findings import Screening

COLOURS = {"bfloat16": "#1f77b4", "float16": "#d95f02", "float32": "#2a9d4a"}
MARKERS = {"matmul": "o", "attention_prefill": "^", "attention_decode": "v"}
INK = "#30343b"
LINES = ("#1f77b4", "#d95f02", "#2a9d4a", "#8a5bb0", "#b8860b", "#c0395b")
MOST_FINDINGS, FEWEST_BARS = 25, 8
STYLES = ("-", "--", "-.", ":")


def save_roofline(profile: Profile, path: Path, *, force: bool = False) -> None:
    """Draw a profile's roofline to a PNG or SVG file.

    Raises
    ------
    InputError
        If the file name does not end in .png or .svg, matplotlib is missing, or the file cannot
        be written.
    """
    save_figure(lambda axes: draw_profile(axes, profile), path, force=force)


def draw_profile(axes: "Axes", profile: Profile) -> None:
    """Draw the roofline of a profile, or the bus bandwidths of a profile of links.

    Raises
    ------
    InputError
        If the profile has no points to draw.
    """
    (_draw_busbw if profile.mode == "links" else _draw_roofline)(axes, profile)


def draw_parts(axes: "Axes", prediction: "Prediction") -> None:
    """Draw the time of a decode step, or else of the prefill, by operator; the longest on top."""
    parts = sorted(prediction.decode_parts or prediction.prefill_parts, key=lambda p: p.time_s)
    axes.barh([p.group for p in parts], [p.time_s for p in parts], color=LINES[0])
    axes.xaxis.set_major_formatter(lambda time, _: shown(time, "s"))
    step = "decode step" if prediction.decode_parts else "prefill"
    axes.set_title(f"{prediction.model} on {prediction.hardware}: time of one {step}", color=INK)
    axes.spines[["top", "right"]].set_visible(False)


def draw_findings(axes: "Axes", screening: "Screening") -> None:
    """Draw the loss of each flagged unit in its worst metric, the largest loss on top."""
    judged = [f for f in screening.findings if f.loss_fraction is not None][:MOST_FINDINGS]
    colours = {"FAIL": "#b3261e", "WARN": "#d9922e", "FLAKY": "#85898f"}
    names = [f.unit for f in judged]
    places = list(range(len(judged), 0, -1))
    losses = [100.0 * (f.loss_fraction or 0.0) for f in judged]
    axes.barh(places, losses, color=[colours.get(f.verdict, INK) for f in judged])
    axes.set_ylim(min(0, len(judged) - FEWEST_BARS) + 0.4, len(judged) + 0.6)
    labels = [f"{n}  {f.metric}" for n, f in zip(names, judged, strict=True)]
    axes.set_yticks(places, [label.replace("$", r"\$") for label in labels], fontsize=8)
    axes.set_xlabel("loss relative to the median of its class [%]")
    axes.set_title(
        f"{screening.fail} FAIL, {screening.warn} WARN in {screening.gpus:,} GPUs", color=INK
    )
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(draw: "Callable[[Axes], None]", path: Path, *, force: bool = False) -> None:
    """Save a plot to a PNG or SVG file; ``draw`` draws it into empty axes.

    Raises
    ------
    InputError
        If the file name does not end in .png or .svg, matplotlib is missing, or the file cannot
        be written.
    """
    if path.suffix not in (".png", ".svg"):
        raise InputError("the name of a plot file must end in .png or .svg", where=str(path))
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "plots need matplotlib, which is not installed",
            remedy="pip install 'groundspeed[measure]'",
        ) from error
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=150)
    write_whole(path, buffer.getvalue(), force=force)


def _draw_busbw(axes: "Axes", profile: Profile) -> None:
    """Draw bus bandwidth over size: one colour per collective, one line style per rank count."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    curves = [c for c in profile.curves if c.operation == "collective"]
    if not curves:
        raise InputError(f"profile {profile.id} has no collectives to draw")
    ops = list(dict.fromkeys(c.config_key["op"] for c in curves))
    worlds = sorted({int(c.config_key["world_size"]) for c in curves})
    for curve in curves:
        op, ranks = curve.config_key["op"], int(curve.config_key["world_size"])
        points = sorted((p for p in curve.points if p.valid), key=lambda p: p.bytes)
        if not points:
            continue
        sizes = np.array([p.bytes for p in points])
        rates = np.array([busbw(op, ranks, p.bytes, p.time_s) for p in points])
        colour = LINES[ops.index(op) % len(LINES)]
        style = STYLES[worlds.index(ranks) % len(STYLES)]
        axes.plot(sizes, rates, "o", color=colour, markersize=4, alpha=0.8, markeredgewidth=0)
        law = profile.law("collective", **curve.config_key)
        if law is not None:
            fine = np.geomspace(sizes[0], sizes[-1], 200)
            prediction = law_time(law, {"bytes": fine})
            fitted = np.array(
                [busbw(op, ranks, b, t) for b, t in zip(fine, prediction.time_s, strict=True)]
            )
            axes.plot(fine, fitted, style, color=colour, linewidth=1.2, label=curve_name(curve))
    wire = profile.datasheet.scaleup_bandwidth_bytes_per_s if profile.datasheet else None
    if wire is not None:
        axes.axhline(wire.value, color=INK, linewidth=1.0, linestyle=":")
    axes.set_xlabel("message size (as defined by nccl-tests)")
    axes.set_ylabel("bus bandwidth")
    axes.yaxis.set_major_formatter(lambda rate, _: shown(rate, "bytes/s"))
    axes.xaxis.set_major_formatter(lambda size, _: size_name(size))
    axes.set_title(
        f"{profile.device.name} (points: measured; lines: fitted law)", fontsize=10, color=INK
    )
    axes.grid(which="major", color="#d8dbe0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="lower right", ncols=max(1, len(worlds)))


def _draw_roofline(axes: "Axes", profile: Profile) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    lowest, highest = np.inf, 0.0
    for curve in profile.curves:
        ours = curve.origin == "measured" and curve.backend != "torch"
        if curve.operation not in MARKERS or ours:
            continue
        points = [p for p in curve.points if p.valid and WINNER not in p.tags and p.flops > 0]
        if not points:
            continue
        intensity = np.array([p.flops / p.bytes for p in points])
        rate = np.array([p.flops / p.time_s for p in points])
        lowest, highest = min(lowest, intensity.min()), max(highest, intensity.max())
        dtype = curve.config_key["dtype"]
        axes.plot(
            intensity,
            rate,
            MARKERS[curve.operation],
            color=COLOURS.get(dtype, INK),
            markersize=5,
            alpha=0.7,
            markeredgewidth=0,
            label=f"{curve.operation.replace('_', ' ')} {' '.join(curve.config_key.values())}",
        )
    if highest == 0.0:
        raise InputError(f"profile {profile.id} has no valid points with FLOPs to draw")
    span = np.geomspace(lowest / 1.5, highest * 1.5, 200)
    for law in profile.laws:
        values = law.values()
        if law.operation != "matmul":
            continue
        roof = np.minimum(values["compute_flops_per_s"], span * values["bandwidth_bytes_per_s"])
        colour = COLOURS.get(law.config_key["dtype"], INK)
        axes.plot(span, roof, color=colour, linewidth=1.5)
        label = shown(values["compute_flops_per_s"], "FLOP/s")
        axes.annotate(
            label, (span[-1], roof[-1]), (-4, 4), textcoords="offset points",
            ha="right", fontsize=8, color=colour,
        )  # fmt: skip
    datasheet = profile.datasheet
    if datasheet is not None and datasheet.memory_bandwidth_bytes_per_s is not None:
        for dtype, peak in datasheet.peak_flops_per_s.items():
            if dtype in COLOURS:
                roof = np.minimum(peak.value, span * datasheet.memory_bandwidth_bytes_per_s.value)
                axes.plot(span, roof, color=COLOURS[dtype], linewidth=1.0, linestyle=":")
    axes.set_xlabel("arithmetic intensity [FLOP/byte]")
    axes.set_ylabel("achieved rate")
    axes.yaxis.set_major_formatter(lambda rate, _: shown(rate, "FLOP/s"))
    axes.xaxis.set_major_formatter(lambda intensity, _: f"{intensity:g}")
    lines = "fitted matmul roofline" + (", dotted: datasheet" if datasheet else "")
    axes.set_title(
        f"{profile.device.name} (points: measured; lines: {lines})", fontsize=10, color=INK
    )
    axes.grid(which="major", color="#d8dbe0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
