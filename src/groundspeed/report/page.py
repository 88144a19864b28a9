"""Define the parts of a report (page, section, figure, table, axis) and render it as one HTML file.

Text from profiles and tables is untrusted. The templates escape it, and data for the script is
JSON with every ``<`` escaped, so that no name can close the script element.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np

from groundspeed import __version__
from groundspeed.profiles.operations import Array

Trace = Mapping[str, Any]
"""A plotly trace; its ``text`` is shown when the pointer is over a point."""

DIGITS = 4
"""Significant digits of plotted numbers: finer than a screen shows, a third of the file size."""


LEGEND_ROW, LEGEND_COLUMNS = 22, 3
"""Height [px] of a row of the legend, and the number of names that a row usually holds."""


LONG_NAME, MOST_NAMES = 32, 60
"""Longest name on an axis [characters], and the most names on an axis that has longer ones."""

MANY_DECADES = 2.5
"""Decades of a logarithmic axis beyond which only powers of ten are labelled."""


@dataclass(frozen=True)
class Axis:
    """One axis of a plot."""

    title: str
    log: bool = False
    unit: str = ""
    """Unit shown after each number with an SI prefix, e.g. ``FLOP/s``. Default: none."""
    share: bool = False
    """True if the values are fractions, which are shown in per cent."""
    names: bool = False
    """True if the values are names: they keep their order, and are not read as numbers."""


@dataclass(frozen=True)
class Figure:
    """A plot with its title and caption."""

    name: str
    """Identifier of its HTML element."""
    title: str
    says: str
    """Caption that describes the plot; screen readers read it instead of the plot."""
    traces: Sequence[Trace]
    x: Axis
    y: Axis
    height: int = 420
    stacked: bool = False
    """True if bars are stacked."""

    @property
    def drawn_height(self) -> int:
        """[px] Height with room for the legend above the plot."""
        named = sum(t.get("showlegend", True) is not False for t in self.traces)
        return self.height + (LEGEND_ROW * -(-named // LEGEND_COLUMNS) if named > 1 else 0)


@dataclass(frozen=True)
class Table:
    """A table; the first column holds the row headings."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    filtered: bool = False
    """True if the table has an input field that filters its rows."""
    words: Sequence[int] = ()
    """Indices of columns that hold text, counted from 0; the others are right-aligned."""
    marks: Sequence[str] = ()
    """CSS class of each row, e.g. its verdict. Default: none."""


@dataclass(frozen=True)
class Section:
    """A section of a report: heading, introduction, figures, tables and lines of text."""

    title: str
    intro: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A report: title, key figures, warnings and sections."""

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    """(name, value) of the key figures, shown in large type under the title."""
    sections: Sequence[Section]
    warnings: Sequence[str] = field(default_factory=tuple)


def numbers(values: Array) -> list[float | None]:
    """Round values to four significant digits for a plot; NaN and infinity become None."""
    rounded = []
    for value in np.asarray(values, dtype=np.float64):
        rounded.append(float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None)
    return rounded


def render(page: Page) -> str:
    """Render a report as the text of an HTML file.

    Raises
    ------
    ModuleNotFoundError
        If jinja2 is not installed.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def source(name: str) -> str:
        return (resources.files("groundspeed.report") / name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    figures = [f for section in page.sections for f in section.figures]
    names = [f.name for f in figures]
    if len(set(names)) != len(names):
        raise ValueError(f"two figures have the same name: {names}")
    return environment.get_template("page.html.j2").render(
        page=page,
        version=__version__,
        css=Markup(source("page.css")),
        script=Markup(source("page.js")),
        plotly=Markup(source("plotly-cartesian.min.js")) if figures else "",
        figures=Markup(as_script({f.name: _drawn(f) for f in figures})),
    )


def as_script(value: object) -> str:
    r"""Encode a value as JSON that is safe inside a script element, whatever strings it holds.

    >>> as_script("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _drawn(figure: Figure) -> dict[str, Any]:
    return {
        "data": [_escaped(dict(trace)) for trace in figure.traces],
        "layout": {
            "height": figure.drawn_height,
            "showlegend": sum(t.get("showlegend", True) is not False for t in figure.traces) > 1,
            **({"barmode": "stack"} if figure.stacked else {}),
            "xaxis": _axis(figure.x, [t.get("x", ()) for t in figure.traces]),
            "yaxis": _axis(figure.y, [t.get("y", ()) for t in figure.traces]),
        },
    }


def _axis(axis: Axis, values: Sequence[Sequence[Any]]) -> dict[str, Any]:
    layout: dict[str, Any] = {"title": {"text": axis.title}, "type": "log" if axis.log else "-"}
    if axis.share:
        layout["tickformat"] = ".3~%"
    elif axis.unit:
        layout |= {"tickformat": "~s", "ticksuffix": axis.unit, "exponentformat": "SI"}
    if axis.log:
        known = [v for part in values for v in part if isinstance(v, int | float) and v > 0]
        decades = np.log10(max(known) / min(known)) if known else 0.0
        if decades > MANY_DECADES:
            layout["dtick"] = 1  # one grid line per decade
    if axis.names:
        layout["type"] = "category"
        every = list(dict.fromkeys(v for part in values for v in part))
        if any(len(name) > LONG_NAME for name in every):
            chosen = every[:: -(-len(every) // MOST_NAMES)]
            layout["tickvals"] = [_escaped(name) for name in chosen]
            layout["ticktext"] = [_escaped(_short(name)) for name in chosen]
    return layout


def _short(name: str) -> str:
    return name if len(name) <= LONG_NAME else name[: LONG_NAME - 1] + "…"


def _escaped(value: Any) -> Any:  # noqa: ANN401
    """Escape text for plotly, which interprets some HTML tags in names and labels."""
    if isinstance(value, str):
        return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if isinstance(value, dict):
        return {k: v if k in OURS else _escaped(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(v) for v in value]
    return value


OURS = ("hovertemplate",)
"""Keys of a trace that are not escaped: this program writes them, with plotly's markup."""
