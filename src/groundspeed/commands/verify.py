"""``groundspeed verify``: predict a model, run it, and show the error of the prediction."""

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
    refuse_others,
    require_writable,
)
from groundspeed.measuring.session import open_running_device
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from groundspeed.calibrate.run.device import RunningDevice
    from groundspeed.estimator import Model
    from groundspeed.profiles.schema import Profile


LIVE = "A live server"
LIVE_BUDGET = "2m"
PROMPTS, BATCHES, OUTPUT = "64,128,256,512", "1,4", 16


def verify_command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: a shipped name (qwen2.5-0.5b), a Hugging Face name or the path of a "
            "config.json."
        ),
    ],
    profile: Annotated[
        str | None,
        typer.Option(
            help="Id or file of the profile to predict from. Default: the newest profile of this "
            "device."
        ),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            help="Prompt lengths in tokens, separated by commas; each is run with each batch size."
        ),
    ] = PROMPTS,
    batches: Annotated[
        str, typer.Option(help="Batch sizes (numbers of sequences), separated by commas.")
    ] = BATCHES,
    output_tokens: Annotated[
        int, typer.Option("--osl", help="Output length: tokens generated for each sequence.")
    ] = OUTPUT,
    layers: Annotated[
        int | None,
        typer.Option(
            help="Run and predict only this many layers of the model (1 to all), to save time and "
            "memory. Default: all."
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Seconds to measure each phase (prefill, decode) of each case.")
    ] = 1.0,
    dtype: Annotated[
        str, typer.Option(help="Data type of weights, activations and KV cache.")
    ] = "bfloat16",
    weights: Annotated[
        str | None,
        typer.Option(
            help="Data type of the weights of attention and dense MLPs: fp8_row (a scale for each "
            "row, inputs quantized for each token). Default: that of --dtype."
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Verify predictions of this live server instead, e.g. http://127.0.0.1:8000.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Device that the server runs on, or its profile. Needed with --server.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    engine_profile: Annotated[
        str | None,
        typer.Option(
            help="Engine profile to predict from. Default: the constants of published rows.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    tp: Annotated[int, typer.Option(help="Its tensor parallel size.", rich_help_panel=LIVE)] = 1,
    budget: Annotated[
        str, typer.Option(help="Time for the load, e.g. 90s or 3m.", rich_help_panel=LIVE)
    ] = LIVE_BUDGET,
    device: Device = None,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run a model with random weights and compare the measured times with the prediction.

    All predictions are made and hashed before the model is created. Exit code 1: fewer than four
    of five measured values lie inside the predicted 90 % interval.

    Example: groundspeed verify qwen2.5-0.5b --prompts 64,256 --batches 1,4
    """
    from groundspeed.estimator import find_model

    here = {
        "--profile": profile, "--prompts": prompts != PROMPTS, "--batches": batches != BATCHES,
        "--osl": output_tokens - OUTPUT, "--layers": layers, "--seconds": seconds != 1.0,
        "--dtype": dtype != "bfloat16", "--weights": weights, "--device": device,
    }  # fmt: skip
    live = {
        "--gpu": gpu, "--engine-profile": engine_profile, "--tp": tp - 1,
        "--budget": budget != LIVE_BUDGET,
    }  # fmt: skip
    refuse_others(server is not None, here, live)
    require_writable(output, force=force)
    if server is not None:
        from groundspeed.engine_fit.command import verify_live
        from groundspeed.engine_fit.options import live_request

        asked = live_request(
            server, gpu, model, None, (tp, 1, 1, 1), None, None, None, budget, None, True,
            profile_dir,
        )  # fmt: skip
        passed = verify_live(
            asked, engine_profile, output=output, force=force, as_json=as_json, quiet=quiet
        )
        raise typer.Exit(0 if passed else 1)
    shape = find_model(model)
    if layers is not None:
        if not 1 <= layers <= shape.layers:
            raise InputError(
                f"{shape.id} has {shape.layers} layers, not {layers}",
                where="--layers",
                remedy=f"give a number from 1 to {shape.layers}",
            )
        shape = first_layers(shape, layers)
    cases = [(b, p) for b in numbers(batches, "--batches") for p in numbers(prompts, "--prompts")]
    running = open_running_device(device)
    known = _profile(profile, running, profile_dir)
    from groundspeed.display.show_verification import show_verification
    from groundspeed.display.terminal import make_console, progress_bar
    from groundspeed.verify.verification import VerifyRequest, verify

    request = VerifyRequest(shape, known, running, cases, output_tokens, seconds, dtype, weights)
    with progress_bar(f"verifying {shape.id}", quiet=quiet or as_json) as progress:
        result = verify(request, progress)
    if as_json or output is not None:
        deliver(result.model_dump_json(indent=1), output, force=force)
    else:
        show_verification(make_console(), result)
    raise typer.Exit(0 if result.passed else 1)


def first_layers(model: "Model", layers: int) -> "Model":
    """Return a model with fewer layers; those with experts are the last ones."""
    changes: dict[str, object] = {"layers": layers}
    if model.experts is not None:
        mixtures = max(0, layers - model.mlp_layers)
        experts = model.experts.model_copy(update={"layers": mixtures})
        changes["experts"] = experts if mixtures else None
    if model.windowed_layers:
        changes["windowed_layers"] = min(model.windowed_layers, layers)
    return model.model_copy(update=changes)


def _profile(name: str | None, running: "RunningDevice", profile_dir: "Path | None") -> "Profile":
    from groundspeed.estimator.hardware.find_hardware import find_hardware, measured_profiles

    if name is not None:
        profile = find_hardware(name, profile_dir=profile_dir).profile
        if profile is None:
            raise InputError(
                f"'{name}' is a datasheet, but verify needs a measured profile",
                where="--profile",
                remedy="make one with: groundspeed calibrate",
            )
        return profile
    here = (running.device.name, running.device.compute_units)
    own = [
        p for p in measured_profiles(profile_dir) if (p.device.name, p.device.compute_units) == here
    ]
    if not own:
        raise InputError(
            f"there is no profile of {running.device.name} yet",
            remedy="make one with: groundspeed calibrate --quick",
        )
    return own[-1]
