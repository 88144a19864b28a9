"""The Python API of a notebook: typed results that show themselves.

    import groundspeed as gs

    profile = gs.load_profile("h200")            # a file, an id, or a GPU
    profile                                      # in a notebook: its tables
    profile.to_pandas()                          # every measured point
    profile.plot()                               # the roofline
    gs.estimate_server("llama-3.1-8b", gpu="h200", concurrency=[1, 8, 64]).plot()
    gs.screen("fleet.csv").to_pandas()

Each result is the object that the command line works with, and can do three things more.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from groundspeed.api import find_hardware, find_server
from groundspeed.estimator import Prediction, Workload, find_model, predict
from groundspeed.estimator.workload import ServingPrediction
from groundspeed.fleet.findings import Finding, Screening
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record
from groundspeed.profiles.schema import Profile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from rich.console import Console

    from groundspeed.screening import Served

WIDTH = 110
"""Characters of a table in a notebook."""

PRE = (
    '<pre style="font-family:ui-monospace,Menlo,Consolas,monospace;line-height:1.35;'
    'overflow-x:auto;white-space:pre">{code}</pre>'
)


def _html(show: "Callable[[Console], None]") -> str:
    """What a terminal would show, as HTML; every name in it is escaped."""
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
    """A profile in a notebook."""

    def _repr_html_(self) -> str:
        from groundspeed.show import show_profile

        return _html(lambda console: show_profile(console, self))

    def to_pandas(self) -> "pd.DataFrame":
        """Every measured point: operation, regime, case, time and its interval, telemetry."""
        import pandas as pd

        rows = []
        for curve in self.curves:
            for p in curve.points:
                rows.append(
                    {
                        "operation": curve.operation, **curve.regime, "backend": curve.backend,
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
        """The roofline with every measured point; for a profile of links, their bandwidth."""
        from groundspeed.plots import draw_profile

        found = _axes(axes)
        draw_profile(found, self)
        return found


class StaticEstimate(Prediction):
    """A static batch in a notebook."""

    def _repr_html_(self) -> str:
        from groundspeed.show import show_breakdown, show_predictions

        def show(console: "Console") -> None:
            show_predictions(console, [(self.hardware, self)])
            show_breakdown(console, self)

        return _html(show)

    def to_pandas(self) -> "pd.DataFrame":
        """One row a number: value and interval."""
        import pandas as pd

        names = ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s", "total_tokens_per_s")
        found = {n: getattr(self, n) for n in names}
        rows = {n: {"value": e.value, "low": e.low, "high": e.high} for n, e in found.items() if e}
        return pd.DataFrame.from_dict(rows, orient="index")

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Where the time of a decode step goes (of the prefill, for a single token)."""
        from groundspeed.plots import draw_parts

        found = _axes(axes)
        draw_parts(found, self)
        return found


class ServerEstimate(Record):
    """A server over concurrency, in a notebook."""

    predictions: tuple[ServingPrediction, ...]

    def _repr_html_(self) -> str:
        from groundspeed.show_serving import show_serving

        return _html(lambda console: show_serving(console, [self._column()], {}))

    def _column(self) -> tuple[str, tuple[ServingPrediction, ...]]:
        return self.predictions[0].hardware, self.predictions

    def to_pandas(self) -> "pd.DataFrame":
        """One row a concurrency."""
        import pandas as pd

        keys = (
            "concurrency", "ttft_s", "ttft_low_s", "ttft_high_s", "tpot_s", "tpot_low_s",
            "tpot_high_s", "e2e_s", "output_tokens_per_s", "total_tokens_per_s",
            "requests_per_s", "saturated",
        )  # fmt: skip
        return pd.DataFrame([{k: getattr(p, k) for k in keys} for p in self.predictions])

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Throughput over latency, with intervals."""
        from groundspeed.plot_serving import draw_serving

        found = _axes(axes)
        draw_serving(found, [self._column()], {})
        return found


class FleetScreening(Screening):
    """A screening in a notebook."""

    def _repr_html_(self) -> str:
        from groundspeed.show_fleet import show_screening

        return _html(lambda console: show_screening(console, self))

    def to_pandas(self) -> "pd.DataFrame":
        """One row a finding."""
        import pandas as pd

        rows = [f.model_dump() for f in self.findings]
        return pd.DataFrame(rows, columns=list(Finding.model_fields))

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """What each unit loses, by verdict."""
        from groundspeed.plots import draw_findings

        found = _axes(axes)
        draw_findings(found, self)
        return found


def load_profile(name: str | Path) -> MeasuredProfile:
    """Load a profile: a file, the id of one you measured, or the newest of a GPU.

    Raises
    ------
    InputError
        If there is none.
    """
    found = find_hardware(str(name))
    if found.profile is None:
        raise InputError(f"'{name}' is a data sheet: nothing was measured")
    return MeasuredProfile.model_construct(**dict(found.profile))


def run_calibration(
    device: str | None = None,
    mode: Literal["quick", "standard", "full"] = "quick",
    *,
    folder: Path | None = None,
    quiet: bool = False,
) -> MeasuredProfile:
    """Measure a device of this machine and keep the profile.

    Parameters
    ----------
    device : str, optional
        ``cpu``, ``cuda:0``; the best there is if not given.
    mode : {'quick', 'standard', 'full'}
    folder : Path, optional
        Where profiles are kept; the user's data folder if not given.
    quiet : bool

    Raises
    ------
    InputError
        If it cannot be measured, or breaks physics.
    """
    from groundspeed.commands.measuring import calibrate_and_save, open_running_device
    from groundspeed.profiles.store import profile_folder

    running = open_running_device(device)
    profile, _ = calibrate_and_save(running, mode, folder or profile_folder(), quiet=quiet)
    return MeasuredProfile.model_construct(**dict(profile))


def estimate(
    model: str,
    *,
    gpu: str,
    prompt_tokens: int = 1024,
    output_tokens: int = 1024,
    batch: int = 1,
    dtype: str = "bfloat16",
    profile_dir: Path | None = None,
) -> StaticEstimate:
    """Predict a static batch of a model on a device.

    Parameters
    ----------
    model : str
        Shipped name, hub name or path of a ``config.json``.
    gpu : str
        A GPU, an id of a profile, or its file.
    prompt_tokens, output_tokens, batch : int
    dtype : str, default 'bfloat16'
    profile_dir : Path, optional

    Raises
    ------
    InputError
        If a name is unknown or the workload impossible.
    """
    hardware = find_hardware(gpu, profile_dir=profile_dir).best
    workload = Workload(
        batch=batch, prompt_tokens=prompt_tokens, output_tokens=output_tokens, dtype=dtype
    )
    return StaticEstimate.model_construct(**dict(predict(find_model(model), hardware, workload)))


def estimate_server(
    model: str,
    *,
    gpu: str,
    concurrency: Sequence[int] = (1, 4, 16, 64),
    prompt_tokens: int = 1024,
    output_tokens: int = 1024,
    tp: int = 1,
    dtype: str | None = None,
    engine: str = "vllm",
    profile_dir: Path | None = None,
) -> ServerEstimate:
    """Predict a server under a closed loop of clients.

    Parameters
    ----------
    model, gpu : str
        As :func:`estimate`.
    concurrency : sequence of int
        Clients.
    prompt_tokens, output_tokens : int
    tp : int
        Tensor parallel.
    dtype : str, optional
        Of the weights; the checkpoint's if not given.
    engine : str
    profile_dir : Path, optional

    Raises
    ------
    InputError
        If a name is unknown or it does not fit.
    """
    from groundspeed.estimator.workload import ServingWorkload

    server = find_server(model, gpu, tp=tp, dtype=dtype, engine=engine, profile_dir=profile_dir)
    return ServerEstimate(
        predictions=tuple(
            server.predict(ServingWorkload(prompt_tokens, output_tokens, clients))
            for clients in concurrency
        )
    )


def screen(
    source: "str | Path | Sequence[str] | pd.DataFrame",
    *,
    lower_is_better: Sequence[str] = (),
    reference: str | None = None,
    served: "Served | None" = None,
) -> FleetScreening:
    """Judge every unit of a fleet against its own kind.

    Parameters
    ----------
    source : str, Path, sequence of str or DataFrame
        CSV, folder of profiles, store, or a table with ``node``, ``gpu``, ``metric``, ``value``.
    lower_is_better : sequence of str
        Metrics that should be low.
    reference : str, optional
        Profile whose rates, less a tenth, are floors.
    served : Served, optional
        The deployment to price findings in.

    Raises
    ------
    InputError
        If nothing can be judged from it.
    """
    from groundspeed.screening import Question, ask, ask_table

    if isinstance(source, str | Path):
        sources: Sequence[str] = [str(source)]
    elif isinstance(source, Sequence):
        sources = [str(s) for s in source]
    else:
        question = Question((), lower_is_better=lower_is_better, reference=reference, served=served)
        return FleetScreening.model_construct(**dict(ask_table(source, question)))
    _, told = ask(
        Question(sources, lower_is_better=lower_is_better, reference=reference, served=served)
    )
    return FleetScreening.model_construct(**dict(told))
