"""The Python API: the functions that ``import groundspeed as gs`` offers.

    import groundspeed as gs

    profile = gs.load_profile("h200")            # a file, an id, or a GPU
    gs.estimate("qwen2.5-32b", gpu="h20").plot()
    gs.estimate_server("llama-3.1-8b", gpu="h200", concurrency=[1, 8, 64]).plot()
    gs.screen("fleet.csv").to_pandas()

Every result is a typed object that shows itself in a notebook
(:mod:`groundspeed.display.notebook`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from groundspeed.display.notebook import (
    FleetScreening,
    MeasuredProfile,
    ServerEstimate,
    StaticEstimate,
)
from groundspeed.estimator import Workload, find_model, predict
from groundspeed.estimator.hardware.find_hardware import find_hardware, find_server
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from groundspeed.fleet.screen.request import Served

__all__ = [
    "estimate",
    "estimate_server",
    "find_hardware",
    "load_profile",
    "run_calibration",
    "screen",
]


def load_profile(name: str | Path) -> MeasuredProfile:
    """Load a profile: a file, the id of one you measured, or the newest of a GPU.

    Raises
    ------
    InputError
        If there is none.
    """
    hardware = find_hardware(str(name))
    if hardware.profile is None:
        raise InputError(f"'{name}' is a datasheet: nothing was measured")
    return MeasuredProfile.model_construct(**dict(hardware.profile))


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
    from groundspeed.measuring.session import calibrate_and_save, open_running_device
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
    from groundspeed.estimator.serving.workload import ServingWorkload

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
    from groundspeed.fleet.screen.request import ScreenRequest, screen_dataframe, screen_sources

    if isinstance(source, str | Path):
        sources: Sequence[str] = [str(source)]
    elif isinstance(source, Sequence):
        sources = [str(s) for s in source]
    else:
        request = ScreenRequest(
            (), lower_is_better=lower_is_better, reference=reference, served=served
        )
        return FleetScreening.model_construct(**dict(screen_dataframe(source, request)))
    _, screening = screen_sources(
        ScreenRequest(sources, lower_is_better=lower_is_better, reference=reference, served=served)
    )
    return FleetScreening.model_construct(**dict(screening))
