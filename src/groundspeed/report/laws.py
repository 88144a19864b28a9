"""Build the report's section on laws: their errors on held-out points and on all points."""

import numpy as np

from groundspeed.profiles.laws import Law, law_time
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.schema import Curve, Profile
from groundspeed.profiles.summary import SELECTED
from groundspeed.report.page import Axis, Figure, Section, Table, Trace, numbers

MOST_HISTOGRAMS = 8


def law_section(profile: Profile) -> Section | None:
    """Build the section; it plots the distribution of errors of laws whose points are known."""
    if not profile.laws:
        return None
    rows = [
        (
            f"{law.operation} {' '.join(law.config_key.values())}",
            str(law.points),
            f"{law.held_out.median_fraction:.1%}",
            f"{law.held_out.q90_fraction:.1%}",
            f"{np.expm1(law.held_out.log_q50):+.1%}",
            f"{np.expm1(law.held_out.log_q05):+.0%} to {np.expm1(law.held_out.log_q95):+.0%}",
            law.held_out.method,
            law.origin,
        )
        for law in profile.laws
    ]
    columns = ("law", "points", "median error", "P90 error", "bias",
               "90 % interval of a new measurement", "hold-out method", "origin")  # fmt: skip
    table = Table(columns, rows, "Errors on held-out points", filtered=len(rows) > 12)
    traces: list[Trace] = []
    for law in profile.laws:
        curve = profile.curve(law.operation, **law.config_key)
        errors = _errors(law, curve) if curve is not None else np.array([])
        if errors.size >= 5 and len(traces) < MOST_HISTOGRAMS:
            traces.append(
                {
                    "type": "violin",
                    "name": f"{law.operation} {' '.join(law.config_key.values())}",
                    "x": numbers(errors), "orientation": "h", "box": {"visible": True},
                    "points": "all", "meanline": {"visible": True}, "spanmode": "hard",
                }
            )  # fmt: skip
    figures = []
    if traces:
        figures.append(
            Figure(
                "law-errors", "Deviation of all measured points from the laws.",
                "Each dot is a measured case; right of zero it took longer than the law predicts.",
                traces, Axis("measured / law - 1", share=True), Axis(""),
                height=120 + 70 * len(traces),
            )
        )  # fmt: skip
    return Section(
        "Laws and their errors",
        "A law is a fitted function from the shape of an operation to its time. The table shows "
        "errors on held-out points; the plot shows all points, including fitted ones.",
        figures=figures,
        tables=[table],
    )


def _errors(law: Law, curve: Curve) -> np.ndarray:
    columns = OPERATIONS[law.operation].columns
    points = [
        p
        for p in curve.points
        if p.valid and not SELECTED & set(p.tags) and all(c in p.case for c in columns)
    ]
    if not points:
        return np.array([])
    cases = {c: np.array([p.case[c] for p in points]) for c in columns}
    return np.array([p.time_s for p in points]) / law_time(law, cases).time_s - 1.0
