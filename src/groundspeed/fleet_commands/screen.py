"""``groundspeed fleet screen``: compare each GPU and node with the others of its class."""

from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver, require_writable

if TYPE_CHECKING:
    from groundspeed.fleet.screen.request import Served


def screen_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Measurements of the fleet: one store of runs (folder or URL), or CSV files and "
            "folders of profiles."
        ),
    ],
    lower_is_better: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a metric for which lower is better; repeat it for several. Not needed "
            "for times, which are recognized by name or unit."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="GPU or profile whose rates, less 10 %, are the lowest that a GPU may reach. Not "
            "given: GPUs are compared with each other only."
        ),
    ] = None,
    run: Annotated[str, typer.Option(help="Name of a run in the store. Default: the newest.")] = "",
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help=(
                "Count a finding only if it was slow again in every re-run in the store (made by "
                "fleet run --confirm). Not given: all findings count."
            ),
        ),
    ] = False,
    again: Annotated[
        list[str] | None,
        typer.Option(
            help="CSV file with a re-run of the suspects, which confirms findings as --confirm "
            "does; repeat it for several."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=(
                "Also predict what each finding costs, in tokens/s, when the fleet serves this "
                "model; needs --gpu. Not given: no cost."
            )
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="Name of the fleet's GPU, e.g. h200. Required with --model."),
    ] = None,
    tp: Annotated[int, typer.Option(help="Tensor parallel size, used with --model.")] = 8,
    engine: Annotated[
        str, typer.Option(help="Serving engine, used with --model: vllm, sglang or trtllm.")
    ] = "vllm",
    isl: Annotated[
        int, typer.Option(help="Input length: tokens in each prompt, used with --model.")
    ] = 1024,
    osl: Annotated[
        int, typer.Option(help="Output length: tokens per request, used with --model.")
    ] = 1024,
    concurrency: Annotated[
        int, typer.Option(help="Number of concurrent clients, used with --model.")
    ] = 32,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Data type of the weights, e.g. fp8, used with --model. Default: that of the "
            "checkpoint."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="NAME=COLUMN: which column of the files holds node, gpu, metric, value or unit, "
            "if it has none of the usual names; repeat it for several.",
        ),
    ] = None,
    unfold: Annotated[
        bool,
        typer.Option(
            "--unfold",
            help="Print each GPU and node by itself. Not given: one line for each incident.",
        ),
    ] = False,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Find slow GPUs and nodes by comparison with their class.

    Exit code: 0 all are OK, 1 WARN, 2 FAIL, 3 somebody could not be judged, or bad input.

    Example: groundspeed fleet screen results.csv --model llama-3.3-70b --gpu h200
    """
    from groundspeed.fleet.reading.columns import parse_map
    from groundspeed.fleet.screen.request import ScreenRequest, screen_sources
    from groundspeed.profiles.errors import InputError, one_line

    try:
        if model is None and gpu is not None:
            raise InputError("is used with --model only", where=f"--gpu {gpu}")
        served = served_by(model, gpu, tp, engine, isl, osl, concurrency, dtype)
        request = ScreenRequest(
            sources, run, lower_is_better or (), reference, confirm, again or (), served,
            profile_dir, parse_map(columns or ()),
        )  # fmt: skip
        _, screening = screen_sources(request)
        require_writable(output, force=force)
    except InputError as error:
        typer.echo(f"groundspeed: {one_line(str(error))}", err=True)
        raise typer.Exit(UNKNOWN) from error
    if as_json or output is not None:
        deliver(screening.model_dump_json(indent=1), output, force=force)
    else:
        from groundspeed.display.show_fleet import show_screening
        from groundspeed.display.terminal import make_console

        show_screening(make_console(), screening, unfold=unfold)
    raise typer.Exit(screening.exit_code)


UNKNOWN = 3
"""Exit code UNKNOWN of Nagios: nothing could be judged, or the input is bad."""


def served_by(
    model: str | None,
    gpu: str | None,
    tp: int = 8,
    engine: str = "vllm",
    isl: int = 1024,
    osl: int = 1024,
    concurrency: int = 32,
    dtype: str | None = None,
) -> "Served | None":
    """Build the deployment for the cost of findings from the options; None without a model.

    Raises
    ------
    InputError
        If a model is given without a GPU.
    """
    from groundspeed.fleet.screen.request import Served
    from groundspeed.profiles.errors import InputError

    if model is None:
        return None
    if gpu is None:
        raise InputError(
            "--model needs the name of the fleet's GPU", remedy="give --gpu, e.g. --gpu h200"
        )
    return Served(model, gpu, tp, engine, isl, osl, concurrency, dtype)
