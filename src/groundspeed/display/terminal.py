"""Format results for the terminal: numbers with units and intervals, tables, progress bars.

Results go to standard output, progress bars to stderr.

    shown(1.23e12, "FLOP/s")  # "1.23 TFLOPS"
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "FLOP/s": ((1e15, "PFLOPS"), (1e12, "TFLOPS"), (1e9, "GFLOPS")),
    "bytes/s": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s")),
    "bytes": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
    "FLOP": ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")),
    "token/s": ((1.0, "token/s"),),
    "": ((1.0, ""),),
}


COLUMNS = (
    TextColumn("[bold]{task.description}"),
    BarColumn(bar_width=30),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
    TextColumn("[dim]{task.fields[name]}"),
)
"""Columns of a progress bar."""


def scale_for(value: float, unit: str) -> tuple[float, str]:
    """Choose the unit in which a value is shown: its divisor and its name."""
    scales = SCALES[unit]
    return next((s for s in scales if abs(value) >= s[0]), scales[-1])


def digits(value: float) -> str:
    """Format a number with three significant digits, or as a whole number from 100 on.

    Only numbers below 0.0001 are shown with an exponent.
    """
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def shown(value: float, unit: str) -> str:
    """Format a value in a unit of suitable size, e.g. ``1.23 TFLOPS``."""
    divisor, name = scale_for(value, unit)
    return f"{digits(value / divisor)} {name}".rstrip()


def shown_interval(value: float, low: float, high: float, unit: str) -> str:
    """Format a value and its interval in the same unit, e.g. ``41.2 ms [39.8, 44.0]``."""
    divisor, _ = scale_for(value, unit)
    inside = f"[{digits(low / divisor)}, {digits(high / divisor)}]"
    return f"{shown(value, unit)} {inside}"


def bar(fraction: float, *, width: int = 20) -> str:
    """Draw a fraction as a bar of block characters: empty at 0, full at 1 and above."""
    eighths = round(max(0.0, min(1.0, fraction)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width, "·")


def sparkline(values: Sequence[float]) -> str:
    """Draw values as one line of block characters, on a logarithmic scale of three decades.

    >>> sparkline([1.0, 10.0, 100.0, 1000.0])
    '▁▃▆█'
    """
    highest = max(values)
    steps = [max(0.0, 1.0 + math.log10(v / highest) / 3.0) for v in values]
    return "".join("▁▂▃▄▅▆▇█"[min(7, round(7 * step))] for step in steps)


def make_console(*, stderr: bool = False) -> Console:
    """Make a console for standard output or stderr.

    In files and pipes it has no colours, and it is 100 columns wide unless COLUMNS is set.
    """
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(stderr=stderr, highlight=False, width=100)
    return console


def make_table(*columns: str, title: str | None = None) -> Table:
    """Make a table without borders: first column left-aligned, the others right-aligned.

    In a narrow terminal, cells continue on the next line: a cut name or number cannot be used.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


WIDTH_FOR_BARS = 80
"""[characters] In a narrower terminal the columns of numbers need the room of the bars."""


def with_bars(console: Console) -> bool:
    """Return whether there is room for bars beside the numbers of a table."""
    return console.width >= WIDTH_FOR_BARS


def plain(text: str) -> Text:
    """Show untrusted text as it is: markup has no effect, control characters become spaces.

    Untrusted text comes from files and other machines, e.g. device names in a profile.
    """
    return Text("".join(c if c.isprintable() else " " for c in text))


def safe(text: str) -> str:
    """Escape untrusted text for use inside a string that contains rich markup.

    Control characters become spaces.
    """
    return escape("".join(c if c.isprintable() else " " for c in text))


ReportProgress = Callable[[str, int, int, str], None]
"""Function that is called with (title of the task, cases done, all cases, name of the case)."""


@contextmanager
def progress_bars(titles: list[str], *, quiet: bool) -> Iterator[ReportProgress]:
    """Show one progress bar on stderr for each of several tasks that run at the same time.

    Yields a :data:`ReportProgress`.
    """
    console = make_console(stderr=True)
    if quiet or not console.is_terminal:
        if not quiet:
            console.print(f"calibrating {', '.join(titles)} ...")
        yield lambda who, done, total, name: None
        return
    with Progress(*COLUMNS, console=console, transient=True) as progress:
        tasks = {title: progress.add_task(title, total=None, name="") for title in titles}

        def report(who: str, done: int, total: int, name: str) -> None:
            name = name[: max(0, console.width - 80)]
            progress.update(tasks[who], completed=done, total=total or None, name=name)

        yield report


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar on stderr; yields a function (cases done, all cases, case name)."""
    console = make_console(stderr=True)
    if quiet or not console.is_terminal:
        if not quiet:
            console.print(f"{title} ...")
        yield lambda done, total, name: None
        return
    with Progress(*COLUMNS, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, name="")

        def report(done: int, total: int, name: str) -> None:
            progress.update(
                task, completed=done, total=total or None, name=name[: max(0, console.width - 80)]
            )

        yield report
