"""The Python API: the functions that ``import groundspeed as gs`` offers.

    import groundspeed as gs

    profile = gs.load_profile("h200")            # a file, a profile id or a GPU name
    gs.estimate("qwen2.5-32b", gpu="h20").plot()
    gs.estimate_server("llama-3.1-8b", gpu="h200", concurrency=[1, 8, 64]).plot()
    gs.screen("fleet.csv").to_pandas()

Every result is a typed object that a notebook displays as a table
(:mod:`groundspeed.display.notebook`). Errors are raised as :class:`groundspeed.InputError`.
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
    """Load a profile by file, id or GPU name.

    Parameters
    ----------
    name : str or Path
        Path of a profile file, id of a profile you measured, or name of a GPU (``h200``). A GPU
        name loads the newest profile measured on that GPU, else the profile that ships for it.

    Raises
    ------
    InputError
        If there is no such profile, or only a datasheet of the GPU is known.
    """
    hardware = find_hardware(str(name))
    if hardware.profile is None:
        raise InputError(f"only a datasheet of '{name}' is known, not a profile")
    return MeasuredProfile.model_construct(**dict(hardware.profile))


def run_calibration(
    device: str | None = None,
    mode: Literal["quick", "standard", "full"] = "quick",
    *,
    folder: Path | None = None,
    quiet: bool = False,
) -> MeasuredProfile:
    """Measure a device of this machine and save its profile.

    Parameters
    ----------
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:N``. Default: the first GPU, else the CPU.
    mode : {'quick', 'standard', 'full'}, default 'quick'
        How much to measure: ``quick`` takes about a minute, ``full`` about 15 minutes.
    folder : Path, optional
        Folder to save the profile in. Default: ``$XDG_DATA_HOME/groundspeed/profiles``.
    quiet : bool, default False
        True hides the progress bar.

    Raises
    ------
    InputError
        If the device cannot be measured, or the profile fails the physics check.
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
    """Predict the latency and throughput of a static batch on one device.

    Parameters
    ----------
    model : str
        Shipped name (``qwen2.5-32b``), hub name or path of a ``config.json``.
    gpu : str
        Name of a GPU (``h20``), or id or file of a profile. The newest profile of a GPU is used,
        else its datasheet.
    prompt_tokens, output_tokens : int, default 1024
        Input and output length of each sequence.
    batch : int, default 1
        Number of sequences.
    dtype : str, default 'bfloat16'
        Data type of the weights.
    profile_dir : Path, optional
        Folder of measured profiles. Default: ``$XDG_DATA_HOME/groundspeed/profiles``.

    Raises
    ------
    InputError
        If a name is unknown or the workload is impossible.
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
    """Predict a server under a closed loop: each client sends its next request after an answer.

    Parameters
    ----------
    model, gpu : str
        As in :func:`estimate`.
    concurrency : sequence of int, default (1, 4, 16, 64)
        Numbers of clients; one prediction is made for each.
    prompt_tokens, output_tokens : int, default 1024
        Input and output length of each request.
    tp : int, default 1
        Tensor parallel size.
    dtype : str, optional
        Data type of the weights. Default: that of the checkpoint.
    engine : str, default 'vllm'
        ``vllm``, ``sglang``, ``trtllm`` or ``bare`` (no engine).
    profile_dir : Path, optional
        Folder of measured profiles. Default: ``$XDG_DATA_HOME/groundspeed/profiles``.

    Raises
    ------
    InputError
        If a name is unknown or the model does not fit into the memory.
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
    """Find the GPUs and nodes of a fleet that are slower than the others of their class.

    Parameters
    ----------
    source : str, Path, sequence of str or DataFrame
        CSV files, folders of profiles, a store of runs (folder or URL), or a table with the
        columns ``node``, ``gpu``, ``metric`` and ``value``.
    lower_is_better : sequence of str
        Names of metrics for which a lower value is better. Not needed for times, which are
        recognized by their name or unit.
    reference : str, optional
        GPU or profile whose rates, less 10 %, are the lowest that a GPU may reach. Default: GPUs
        are compared with each other only.
    served : Served, optional
        Deployment for which the cost of each finding is predicted. Default: no cost.

    Raises
    ------
    InputError
        If the source cannot be read or holds nothing that can be judged.
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
