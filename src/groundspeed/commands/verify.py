"""``groundspeed verify``: predict a model, then really run it, and say how far off it was."""

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
    numbers,
    require_writable,
)
from groundspeed.measuring.session import open_running_device
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from groundspeed.calibrate.run.device import RunningDevice
    from groundspeed.profiles.schema import Profile


def verify_command(
    model: Annotated[
        str,
        typer.Argument(
            help=("Model: a shipped name (qwen2.5-0.5b), a hub name or the path of a config.json.")
        ),
    ],
    profile: Annotated[
        str | None,
        typer.Option(
            help=("Id or file of the profile to predict from. Default: the newest of this device.")
        ),
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="Prompt lengths in tokens, separated by commas.")
    ] = "64,128,256,512",
    batches: Annotated[
        str, typer.Option(help="Batch sizes in sequences, separated by commas.")
    ] = "1,4",
    output_tokens: Annotated[
        int, typer.Option("--osl", help="Output length: tokens generated for each sequence.")
    ] = 16,
    layers: Annotated[
        int | None,
        typer.Option(
            help="Run only this many layers, each of which is the same work. Default: all."
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Measuring time of each phase and case, in seconds.")
    ] = 1.0,
    dtype: Annotated[
        str, typer.Option(help="Data type of weights, activations and KV cache.")
    ] = "bfloat16",
    device: Device = None,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run a decoder of a model's shape with random weights and compare it with the prediction.

    All predictions are made and hashed before the decoder exists. Exit code 1 if fewer than four
    of five measured values lie inside the predicted 90 % interval.

    Example: groundspeed verify qwen2.5-0.5b --prompts 64,256 --batches 1,4
    """
    from groundspeed.estimator import find_model

    shape = find_model(model)
    if layers is not None:
        if not 1 <= layers <= shape.layers:
            raise InputError(f"{shape.id} has {shape.layers} layers", where="--layers")
        shape = shape.model_copy(update={"layers": layers})
    cases = [(b, p) for b in numbers(batches, "--batches") for p in numbers(prompts, "--prompts")]
    require_writable(output, force=force)
    running = open_running_device(device)
    known = _profile(profile, running, profile_dir)
    from groundspeed.display.show_verification import show_verification
    from groundspeed.display.terminal import make_console, progress_bar
    from groundspeed.verify.verification import VerifyRequest, verify

    request = VerifyRequest(shape, known, running, cases, output_tokens, seconds, dtype)
    with progress_bar(f"verifying {shape.id}", quiet=quiet or as_json) as progress:
        result = verify(request, progress)
    if as_json or output is not None:
        deliver(result.model_dump_json(indent=1), output, force=force)
    else:
        show_verification(make_console(), result)
    raise typer.Exit(0 if result.passed else 1)


def _profile(name: str | None, running: "RunningDevice", profile_dir: "Path | None") -> "Profile":
    from groundspeed.estimator.hardware.find_hardware import find_hardware, measured_profiles

    if name is not None:
        profile = find_hardware(name, profile_dir=profile_dir).profile
        if profile is None:
            raise InputError(
                f"'{name}' is a datasheet, verify needs a measured profile",
                remedy="groundspeed calibrate",
            )
        return profile
    here = (running.device.name, running.device.compute_units)
    own = [
        p for p in measured_profiles(profile_dir) if (p.device.name, p.device.compute_units) == here
    ]
    if not own:
        raise InputError(
            f"no profile of {running.device.name} yet", remedy="groundspeed calibrate --quick"
        )
    return own[-1]
