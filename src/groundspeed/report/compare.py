"""Build the report of two profiles (of two devices, or of one on two days): the changes."""

import numpy as np

from groundspeed.display.terminal import shown
from groundspeed.profiles.difference import ProfileComparison
from groundspeed.report.page import Axis, Figure, Page, Section, Table, numbers


def comparison_page(comparison: ProfileComparison) -> Page:
    """Build the report of a comparison of two profiles."""
    beyond = [r for r in comparison.rates if r.beyond_noise]
    middle = comparison.median_change_fraction
    facts = [
        ("rates compared", str(len(comparison.rates))),
        ("changes beyond noise", str(len(beyond))),
        ("median absolute change", f"{middle:.1%}" if middle is not None else "no common rate"),
    ]
    order = sorted(comparison.rates, key=lambda r: r.change_fraction)
    trace = {
        "type": "bar", "orientation": "h", "name": "change",
        "x": numbers(np.array([r.change_fraction for r in order])),
        "y": [r.quantity for r in order],
        "marker": {"color": ["#d9722e" if r.beyond_noise else "#85898f" for r in order]},
        "hovertemplate": "%{y}: %{x:+.1%}<extra></extra>",
    }  # fmt: skip
    figure = Figure(
        "changes", "Change of each rate.",
        "Orange: the two 90 % intervals do not overlap. Grey: the change may be noise, or the "
        "noise is unknown (single published numbers).",
        [trace], Axis("second / first - 1", share=True), Axis(""),
        height=140 + 22 * len(order),
    )  # fmt: skip
    rows = [
        (
            r.quantity,
            shown(r.first, r.unit),
            shown(r.second, r.unit),
            f"{r.change_fraction:+.1%}",
            "unknown" if r.beyond_noise is None else "yes" if r.beyond_noise else "",
        )
        for r in comparison.rates
    ]
    around = [(e.what, e.first, e.second) for e in comparison.environment]
    sections = [
        Section(
            "Rates",
            figures=[figure] if order else [],
            tables=[
                Table(("rate", comparison.first, comparison.second, "change", "beyond noise"), rows)
            ],
        ),
        Section(
            "Other differences",
            "" if around else "No other difference was recorded.",
            tables=[Table(("property", comparison.first, comparison.second), around, words=(1, 2))][
                : len(around)
            ],
            lines=[f"only in one profile: {name}" for name in comparison.only_in_one],
        ),
    ]
    return Page(
        f"{comparison.first} and {comparison.second}", "Two profiles side by side", facts, sections
    )
