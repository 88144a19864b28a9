"""``groundspeed fleet``: which of many GPUs, nodes and links are slow."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.fleet_run import (
    check_device_command,
    daemonset_command,
    export_command,
    run_command,
    work_command,
)
from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver

if TYPE_CHECKING:
    from groundspeed.fleet.findings import Screening

fleet_app = typer.Typer(
    help="Find the GPU, node or link that is slower than its kind, why, and what it costs.",
    no_args_is_help=True,
)


@fleet_app.callback()
def _fleet() -> None:
    """Find the GPU, node or link that is slower than its kind, why, and what it costs."""


fleet_app.command("run")(run_command)
fleet_app.command("export")(export_command)
fleet_app.command("daemonset")(daemonset_command)
fleet_app.command("work", hidden=True)(work_command)
fleet_app.command("check-device", hidden=True)(check_device_command)


@fleet_app.command("screen")
def screen_command(
    paths: Annotated[list[Path], typer.Argument(help="CSV files, or folders of profiles.")],
    lower_is_better: Annotated[
        list[str] | None, typer.Option(help="A metric that should be low; repeat.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Profile whose rates, less a tenth, are floors.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Say what findings cost when serving this model.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="The fleet's GPU, for the cost.")] = None,
    tp: Annotated[int, typer.Option(help="Tensor parallel, for the cost.")] = 8,
    engine: Annotated[str, typer.Option(help="For the cost.")] = "vllm",
    isl: Annotated[int, typer.Option(help="Prompt tokens, for the cost.")] = 1024,
    osl: Annotated[int, typer.Option(help="Output tokens, for the cost.")] = 1024,
    concurrency: Annotated[int, typer.Option(help="Clients, for the cost.")] = 32,
    dtype: Annotated[str | None, typer.Option(help="Of the weights, for the cost.")] = None,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Judge every unit against its own kind. Exit code: 0 fine, 1 WARN, 2 FAIL, 3 cannot say.

    Example: groundspeed fleet screen results.csv --model llama-3.3-70b --gpu h200
    """
    from groundspeed.profiles.errors import InputError, one_line

    try:
        told = _screen(
            paths, lower_is_better or [], reference, profile_dir,
            (model, gpu, tp, engine, isl, osl, concurrency, dtype),
        )  # fmt: skip
    except InputError as error:
        typer.echo(f"groundspeed: {one_line(str(error))}", err=True)
        raise typer.Exit(UNKNOWN) from error
    if as_json or output is not None:
        deliver(told.model_dump_json(indent=1), output, force=force)
    else:
        from groundspeed.show_fleet import show_screening
        from groundspeed.terminal import make_console

        show_screening(make_console(), told)
    raise typer.Exit(2 if told.fail else 1 if told.warn else 0)


UNKNOWN = 3
"""Nagios: neither fine nor not."""

FLOOR = 0.9
"""Of the reference's rate: a tenth less is more than any healthy fleet shows."""


def _screen(
    paths: list[Path],
    lower_is_better: list[str],
    reference: str | None,
    profile_dir: Path | None,
    cost: tuple[str | None, str | None, int, str, int, int, int, str | None],
) -> "Screening":
    from groundspeed.api import find_hardware
    from groundspeed.fleet.screen import screen
    from groundspeed.fleet.table import read_fleet
    from groundspeed.profiles.errors import InputError

    floors: dict[str, float] = {}
    if reference is not None:
        found = find_hardware(reference, profile_dir=profile_dir)
        if found.profile is None:
            raise InputError(f"'{reference}' is a data sheet", where="--reference",
                             remedy="give a profile that was measured")  # fmt: skip
        floors = {r.quantity.replace(" ", "_"): FLOOR * r.value for r in found.profile.rates}
    told = screen(read_fleet(paths), lower_is_better=lower_is_better, floors=floors)
    model, gpu, tp, engine, isl, osl, concurrency, dtype = cost
    if model is None:
        return told
    if gpu is None:
        raise InputError("the cost of a finding needs the fleet's GPU", remedy="give --gpu h200")
    from groundspeed.estimator import find_model
    from groundspeed.estimator.deployment import Deployment
    from groundspeed.estimator.engine import find_engine
    from groundspeed.estimator.serving import Server
    from groundspeed.estimator.workload import ServingWorkload
    from groundspeed.fleet.cost import cost_of

    hardware = find_hardware(gpu, profile_dir=profile_dir)
    rocm = hardware.spec is not None and hardware.spec.vendor == "amd"
    server = Server(
        find_model(model),
        Deployment(tp=tp, dtype=dtype),
        find_engine(engine, platform="rocm" if rocm else "cuda"),
        hardware.best,
    )
    workload = ServingWorkload(isl, osl, concurrency)
    findings = tuple(
        f
        if f.verdict == "INCONCLUSIVE"
        else f.model_copy(update={"cost": cost_of(f, server, workload)})
        for f in told.findings
    )
    return told.model_copy(update={"findings": findings})
