"""``groundspeed fleet screen``: judge every unit against its own kind."""

from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver, require_writable

if TYPE_CHECKING:
    from groundspeed.fleet.screen.findings import Screening
    from groundspeed.fleet.screen.request import Served


def screen_command(
    sources: Annotated[
        list[str], typer.Argument(help="CSV files, folders of profiles, or a store of runs.")
    ],
    lower_is_better: Annotated[
        list[str] | None,
        typer.Option(help="Name of a metric for which lower is better; repeat for several."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help=("GPU or profile whose rates, less 10 %, are the lowest that a GPU may reach.")
        ),
    ] = None,
    run: Annotated[str, typer.Option(help="Name of a run in a store. Default: the newest.")] = "",
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help=(
                "Count only findings that fell again in the re-runs of suspects that the "
                "store holds."
            ),
        ),
    ] = False,
    again: Annotated[
        list[str] | None,
        typer.Option(help="CSV file with a re-run of the suspects; repeat for several."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=(
                "Also show what findings cost, in tokens/s, when the fleet serves this "
                "model; needs --gpu."
            )
        ),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="GPU of the fleet, for the cost of findings.")
    ] = None,
    tp: Annotated[int, typer.Option(help="Tensor parallel size, for the cost of findings.")] = 8,
    engine: Annotated[
        str, typer.Option(help="Engine (vllm, sglang, trtllm), for the cost of findings.")
    ] = "vllm",
    isl: Annotated[
        int, typer.Option(help="Input length in tokens, for the cost of findings.")
    ] = 1024,
    osl: Annotated[
        int, typer.Option(help="Output length in tokens, for the cost of findings.")
    ] = 1024,
    concurrency: Annotated[
        int, typer.Option(help="Number of clients, for the cost of findings.")
    ] = 32,
    dtype: Annotated[
        str | None,
        typer.Option(
            help=("Data type of the weights, for the cost of findings. Default: the checkpoint's.")
        ),
    ] = None,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Judge every unit against its own kind. Exit code: 0 fine, 1 WARN, 2 FAIL, 3 cannot say.

    Example: groundspeed fleet screen results.csv --model llama-3.3-70b --gpu h200
    """
    from groundspeed.fleet.screen.request import ScreenRequest, screen_sources
    from groundspeed.profiles.errors import InputError, one_line

    try:
        served = served_by(model, gpu, tp, engine, isl, osl, concurrency, dtype)
        request = ScreenRequest(
            sources, run, lower_is_better or (), reference, confirm, again or (), served,
            profile_dir,
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

        show_screening(make_console(), screening)
    raise typer.Exit(exit_code(screening))


UNKNOWN = 3
"""Nagios: neither fine nor not."""


def exit_code(screening: "Screening") -> int:
    """Exit code as in Nagios: 0 OK, 1 WARN, 2 FAIL, 3 nothing could be judged."""
    if screening.fail or screening.warn:
        return 2 if screening.fail else 1
    return 0 if screening.judged else UNKNOWN


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
    """The deployment that options name, if they name one.

    Raises
    ------
    InputError
        If the model is named and the GPU is not.
    """
    from groundspeed.fleet.screen.request import Served
    from groundspeed.profiles.errors import InputError

    if model is None:
        return None
    if gpu is None:
        raise InputError("the cost of a finding needs the fleet's GPU", remedy="give --gpu h200")
    return Served(model, gpu, tp, engine, isl, osl, concurrency, dtype)
