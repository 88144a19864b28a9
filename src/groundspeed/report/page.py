"""What a report is made of, and the one file it becomes.

Text from profiles and tables is a stranger's: templates escape it, and what goes into the script is
JSON in which no ``<`` is left, so that no name can end the element it stands in.
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
"""One of plotly's traces; what hovers is in ``text``."""

DIGITS = 4
"""Significant digits of plotted numbers: finer than any screen, a third of the file."""


LEGEND_ROW, LEGEND_COLUMNS = 22, 3
"""Pixels of a row of names, and how many a row usually holds."""


LONG_NAME, MOST_NAMES = 32, 60
"""Characters of a name on an axis, and how many names one takes where some are longer."""

MANY_DECADES = 2.5
"""Decades of a logarithmic axis beyond which only powers of ten are labelled."""


@dataclass(frozen=True)
class Axis:
    """One axis of a plot."""

    title: str
    log: bool = False
    unit: str = ""
    """Shown behind the number: ``FLOP/s``; SI prefixes are put in front of it."""
    share: bool = False
    """The number is a fraction, shown in per cent."""
    names: bool = False
    """Names, in their order, also where they look like numbers."""


@dataclass(frozen=True)
class Figure:
    """A plot, what it is of, and the same facts in words."""

    name: str
    """Identifier of its HTML element."""
    title: str
    says: str
    """What one sees in it: read by those who do not see it."""
    traces: Sequence[Trace]
    x: Axis
    y: Axis
    height: int = 420
    stacked: bool = False
    """Bars stand on each other."""

    @property
    def drawn_height(self) -> int:
        """[px] Height with room for the legend above the plot."""
        named = sum(t.get("showlegend", True) is not False for t in self.traces)
        return self.height + (LEGEND_ROW * -(-named // LEGEND_COLUMNS) if named > 1 else 0)


@dataclass(frozen=True)
class Table:
    """Facts in rows; the first column names them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    filtered: bool = False
    """Offer a field to filter rows with."""
    words: Sequence[int] = ()
    """Columns that hold text, from zero."""
    marks: Sequence[str] = ()
    """A class for each row: a verdict."""


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    intro: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    """Shown as large numbers under the title."""
    sections: Sequence[Section]
    warnings: Sequence[str] = field(default_factory=tuple)


def numbers(values: Array) -> list[float | None]:
    """Numbers for a plot: four digits, None where there is none."""
    rounded = []
    for value in np.asarray(values, dtype=np.float64):
        rounded.append(float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None)
    return rounded


def render(page: Page) -> str:
    """The file.

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
        raise ValueError(f"two figures of one name among {names}")
    return environment.get_template("page.html.j2").render(
        page=page,
        version=__version__,
        css=Markup(source("page.css")),
        script=Markup(source("page.js")),
        plotly=Markup(source("plotly-cartesian.min.js")) if figures else "",
        figures=Markup(as_script({f.name: _drawn(f) for f in figures})),
    )


def as_script(value: object) -> str:
    r"""JSON that can stand in a script element, whatever strings are in it.

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
            layout["dtick"] = 1  # a line a decade
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
    """Plotly reads a little HTML in its texts: strangers' names must not be any."""
    if isinstance(value, str):
        return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if isinstance(value, dict):
        return {k: v if k in OURS else _escaped(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(v) for v in value]
    return value


OURS = ("hovertemplate",)
"""Keys of a trace that we write ourselves, with plotly's own markup."""
