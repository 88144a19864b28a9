"""``groundspeed run``: calibrate, predict a model, run it and compare, in one command."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import (
    Device,
    Force,
    Json,
    Output,
    ProfileDir,
    Quiet,
    deliver,
    folder_of,
    require_writable,
)
from groundspeed.measuring.session import calibrate_and_save, open_running_device
from groundspeed.profiles.record import WITH_OLD_NAMES

if TYPE_CHECKING:
    from rich.console import Console

    from groundspeed.calibrate.run.device import RunningDevice
    from groundspeed.profiles.schema import Profile
    from groundspeed.verify.verification import Verification

CASES = {"cpu": ((1, 64), (1, 256), (4, 128)), "gpu": ((1, 512), (1, 4096), (16, 1024))}
"""(batch, prompt tokens) of the cases that are predicted and then run, by kind of device."""

MODELS = {"cpu": "qwen2.5-0.5b", "gpu": "qwen2.5-7b"}
"""Default model by kind of device."""


def run_command(
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to predict and run (with random weights). Default: qwen2.5-0.5b on a "
            "CPU, qwen2.5-7b on a GPU."
        ),
    ] = None,
    device: Device = None,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure this machine, predict a model on it, run the model and show the prediction error.

    Example: groundspeed run
    """
    from groundspeed.display.terminal import make_console, plain, progress_bar
    from groundspeed.estimator import find_model

    require_writable(output, force=force)
    running = open_running_device(device)
    kind = "cpu" if running.device.kind == "cpu" else "gpu"
    shape = find_model(model or MODELS[kind])
    folder = folder_of(profile_dir)
    silent = quiet or as_json or output is not None
    console = make_console()
    if not silent:
        _introduce(console, running)
    profile, path = calibrate_and_save(running, "quick", folder, quiet=silent)
    roofline = path.with_suffix(".png")
    from groundspeed.display.plots import save_roofline
    from groundspeed.profiles.errors import InputError

    drawn = f"roofline {roofline}"
    try:
        save_roofline(profile, roofline)
    except InputError as error:  # a plot that fails must not stop the comparison
        drawn = f"roofline not drawn: {error}"
    if not silent:
        _achieved(console, profile)
        console.print(plain(f"profile  {path}"), style="dim", soft_wrap=True)
        console.print(plain(drawn), style="dim", soft_wrap=True)
        console.print()
    from groundspeed.verify.verification import VerifyRequest, verify

    request = VerifyRequest(shape, profile, running, CASES[kind])
    with progress_bar(f"running {shape.id}", quiet=silent) as progress:
        result = verify(request, progress)
    if as_json or output is not None:
        document = {
            "profile_path": str(path),
            "roofline": drawn,
            "profile": profile.model_dump(mode="json", exclude_none=True, context=WITH_OLD_NAMES),
            "verification": result.model_dump(mode="json"),
        }
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    _predicted(console, result)


def _introduce(console: "Console", running: "RunningDevice") -> None:
    from groundspeed.display.show_profile import show_device_line

    show_device_line(console, running.device, running.datasheet)


def _achieved(console: "Console", profile: "Profile") -> None:
    from groundspeed.display.show_profile import show_rates, show_warnings

    console.print()
    show_rates(console, profile)
    show_warnings(console, profile)


def _predicted(console: "Console", result: "Verification") -> None:
    from groundspeed.display.show_verification import machine_remark, show_run

    show_run(console, result)
    console.print(machine_remark(result), style="dim")
    console.print(f"\n{result.cases[0].limits}")
