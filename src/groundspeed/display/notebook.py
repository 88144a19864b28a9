"""Results of the Python API, with tables, DataFrames and plots for a notebook.

Each class extends the object that the command line works with: a notebook shows its tables as
HTML, ``to_pandas`` returns a DataFrame and ``plot`` draws it with matplotlib.

    profile = groundspeed.load_profile("h200")   # in a notebook: its tables
    profile.to_pandas()                          # every measured point
    profile.plot()                               # the roofline
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from groundspeed.estimator import Prediction
from groundspeed.fleet.screen.findings import Finding, Screening
from groundspeed.profiles.record import Record
from groundspeed.profiles.schema import Profile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from rich.console import Console

WIDTH = 110
"""[characters] Width of a table in a notebook."""

PRE = (
    '<pre style="font-family:ui-monospace,Menlo,Consolas,monospace;line-height:1.35;'
    'overflow-x:auto;white-space:pre">{code}</pre>'
)


def _html(show: "Callable[[Console], None]") -> str:
    """Return the terminal output of ``show`` as HTML, in which all text is escaped."""
    import io

    from rich.console import Console

    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), highlight=False, force_jupyter=False
    )
    show(console)
    return console.export_html(inline_styles=True, code_format=PRE)


def _axes(axes: "Axes | None") -> "Axes":
    if axes is not None:
        return axes
    import matplotlib.pyplot as plt

    made: Axes = plt.subplots(figsize=(9.0, 5.6), layout="constrained")[1]
    return made


class MeasuredProfile(Profile):
    """A profile with tables, a DataFrame and a plot for a notebook."""

    def _repr_html_(self) -> str:
        from groundspeed.display.show_profile import show_profile

        return _html(lambda console: show_profile(console, self))

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per point: operation, config key, case, time and interval, telemetry."""
        import pandas as pd

        rows = []
        for curve in self.curves:
            for p in curve.points:
                rows.append(
                    {
                        "operation": curve.operation, **curve.config_key, "backend": curve.backend,
                        "cache": curve.cache, "origin": curve.origin, **p.case,
                        "time_us": 1e6 * p.time_s, "low_us": 1e6 * p.low_s,
                        "high_us": 1e6 * p.high_s, "flops": p.flops, "bytes": p.bytes,
                        "clock_mhz": p.clock_mhz, "power_w": p.power_w,
                        "temperature_c": p.temperature_c, "valid": p.valid,
                        "tags": " ".join(p.tags),
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the roofline with every measured point; for a profile of links, bus bandwidths."""
        from groundspeed.display.plots import draw_profile

        drawn = _axes(axes)
        draw_profile(drawn, self)
        return drawn


class Estimate(Prediction):
    """A prediction, with tables, a DataFrame and a plot for a notebook."""

    def _repr_html_(self) -> str:
        from groundspeed.display.show_serving import show_batch, show_memory, show_parts

        def show(console: "Console") -> None:
            show_batch(console, [(self.hardware, self)])
            console.print()
            show_parts(console, self)
            show_memory(console, self)

        return _html(show)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per predicted quantity: its value and its 90 % interval."""
        import pandas as pd

        slow, fast = self.rate_factors
        rows = {
            "ttft_s": (self.ttft_s, self.ttft_low_s, self.ttft_high_s),
            "tpot_s": (self.tpot_s, self.tpot_low_s, self.tpot_high_s),
            "e2e_s": (self.e2e_s, self.e2e_low_s, self.e2e_high_s),
        }
        for name in ("output_tokens_per_s", "total_tokens_per_s"):
            value = float(getattr(self, name))
            rows[name] = (value, value * slow, value * fast)
        kept = {name: row for name, row in rows.items() if row[0] is not None}
        return pd.DataFrame.from_dict(kept, orient="index", columns=["value", "low", "high"])

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the time of a decode step by operator; with one output token, of the prefill."""
        from groundspeed.display.plots import draw_parts

        drawn = _axes(axes)
        draw_parts(drawn, self)
        return drawn


class Estimates(Record):
    """Predictions over concurrency, with tables and plots for a notebook."""

    predictions: tuple[Prediction, ...]

    def _repr_html_(self) -> str:
        from groundspeed.display.show_serving import show_serving

        return _html(lambda console: show_serving(console, [self._column()], {}))

    def _column(self) -> tuple[str, tuple[Prediction, ...]]:
        return self.predictions[0].hardware, self.predictions

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per concurrency."""
        import pandas as pd

        keys = (
            "concurrency", "ttft_s", "ttft_low_s", "ttft_high_s", "tpot_s", "tpot_low_s",
            "tpot_high_s", "e2e_s", "output_tokens_per_s", "total_tokens_per_s",
            "requests_per_s", "saturated",
        )  # fmt: skip
        return pd.DataFrame([{k: getattr(p, k) for k in keys} for p in self.predictions])

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw throughput over latency, with 90 % intervals."""
        from groundspeed.display.plot_serving import draw_serving

        drawn = _axes(axes)
        draw_serving(drawn, [self._column()], {})
        return drawn


class FleetScreening(Screening):
    """A fleet screening, with its table, a DataFrame and a plot for a notebook."""

    def _repr_html_(self) -> str:
        from groundspeed.display.show_fleet import show_screening

        return _html(lambda console: show_screening(console, self))

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per finding."""
        import pandas as pd

        rows = [f.model_dump() for f in self.findings]
        return pd.DataFrame(rows, columns=list(Finding.model_fields))

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the loss of each flagged unit, coloured by verdict."""
        from groundspeed.display.plots import draw_findings

        drawn = _axes(axes)
        draw_findings(drawn, self)
        return drawn
