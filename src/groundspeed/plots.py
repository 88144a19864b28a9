"""The roofline with every measured point: arithmetic intensity against achieved rate."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import write_whole
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.summary import WINNER
from groundspeed.terminal import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"bfloat16": "#1f77b4", "float16": "#d95f02", "float32": "#2a9d4a"}
MARKERS = {"matmul": "o", "attention_prefill": "^", "attention_decode": "v"}
INK = "#30343b"


def save_roofline(profile: Profile, path: Path, *, force: bool = False) -> None:
    """Draw a profile's roofline to a PNG or SVG file.

    Raises
    ------
    InputError
        If the ending is another, matplotlib is missing, or the file cannot be written.
    """
    if path.suffix not in (".png", ".svg"):
        raise InputError("a plot is a .png or .svg file", where=str(path))
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "a plot needs matplotlib", remedy="pip install 'groundspeed[measure]'"
        ) from error
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure.add_subplot(), profile)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=150)
    write_whole(path, buffer.getvalue(), force=force)


def _draw(axes: "Axes", profile: Profile) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    lowest, highest = np.inf, 0.0
    for curve in profile.curves:
        if curve.operation not in MARKERS or curve.backend != "torch":
            continue
        points = [p for p in curve.points if p.valid and WINNER not in p.tags and p.flops > 0]
        if not points:
            continue
        intensity = np.array([p.flops / p.bytes for p in points])
        rate = np.array([p.flops / p.time_s for p in points])
        lowest, highest = min(lowest, intensity.min()), max(highest, intensity.max())
        dtype = curve.regime["dtype"]
        axes.plot(
            intensity,
            rate,
            MARKERS[curve.operation],
            color=COLOURS.get(dtype, INK),
            markersize=5,
            alpha=0.7,
            markeredgewidth=0,
            label=f"{curve.operation.replace('_', ' ')} {dtype}",
        )
    if highest == 0.0:
        raise InputError(f"profile {profile.id} holds no point with FLOPs to draw")
    span = np.geomspace(lowest / 1.5, highest * 1.5, 200)
    for law in profile.laws:
        values = law.values()
        if law.operation != "matmul":
            continue
        roof = np.minimum(values["compute_flops_per_s"], span * values["bandwidth_bytes_per_s"])
        colour = COLOURS.get(law.regime["dtype"], INK)
        axes.plot(span, roof, color=colour, linewidth=1.5)
        label = shown(values["compute_flops_per_s"], "FLOP/s")
        axes.annotate(
            label, (span[-1], roof[-1]), (-4, 4), textcoords="offset points",
            ha="right", fontsize=8, color=colour,
        )  # fmt: skip
    sheet = profile.datasheet
    if sheet is not None and sheet.memory_bandwidth_bytes_per_s is not None:
        for dtype, peak in sheet.peak_flops_per_s.items():
            if dtype in COLOURS:
                roof = np.minimum(peak.value, span * sheet.memory_bandwidth_bytes_per_s.value)
                axes.plot(span, roof, color=COLOURS[dtype], linewidth=1.0, linestyle=":")
    axes.set_xlabel("arithmetic intensity [FLOP/byte]")
    axes.set_ylabel("achieved rate")
    axes.yaxis.set_major_formatter(lambda rate, _: shown(rate, "FLOP/s"))
    axes.xaxis.set_major_formatter(lambda intensity, _: f"{intensity:g}")
    lines = "fitted matmul roof" + (", dotted: data sheet" if sheet else "")
    axes.set_title(
        f"{profile.device.name} (points: measured; lines: {lines})", fontsize=10, color=INK
    )
    axes.grid(which="major", color="#d8dbe0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
