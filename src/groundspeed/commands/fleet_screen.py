"""``groundspeed fleet screen``: judge every unit against its own kind."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver

if TYPE_CHECKING:
    from groundspeed.fleet.findings import Screening
    from groundspeed.fleet.table import FleetTable


def screen_command(
    sources: Annotated[
        list[str], typer.Argument(help="CSV files, folders of profiles, or a store of runs.")
    ],
    lower_is_better: Annotated[
        list[str] | None, typer.Option(help="A metric that should be low; repeat.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Profile whose rates, less a tenth, are floors.")
    ] = None,
    run: Annotated[str, typer.Option(help="Of a store; the newest if not given.")] = "",
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Count only what fell again in re-runs of suspects.")
    ] = False,
    again: Annotated[
        list[str] | None, typer.Option(help="Table with a re-run of the suspects; repeat.")
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
            _Asked(sources, run, again or [], confirm=confirm),
            lower_is_better or [], reference, profile_dir,
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
    raise typer.Exit(exit_code(told))


UNKNOWN = 3
"""Nagios: neither fine nor not."""


def exit_code(told: "Screening") -> int:
    """As Nagios has them: 0 fine, 1 WARN, 2 FAIL, 3 nothing could be judged."""
    if told.fail or told.warn:
        return 2 if told.fail else 1
    return 0 if told.judged else UNKNOWN


@dataclass(frozen=True)
class _Asked:
    sources: list[str]
    run: str
    again: list[str]
    confirm: bool


def _screen(
    asked: _Asked,
    lower_is_better: list[str],
    reference: str | None,
    profile_dir: Path | None,
    cost: tuple[str | None, str | None, int, str, int, int, int, str | None],
) -> "Screening":
    from groundspeed.api import find_hardware
    from groundspeed.fleet.baseline import reference_rates
    from groundspeed.fleet.screen import screen
    from groundspeed.fleet.sources import open_fleet, open_reruns, screen_again
    from groundspeed.profiles.errors import InputError

    reached: dict[str, float] = {}
    if reference is not None:
        found = find_hardware(reference, profile_dir=profile_dir)
        if found.profile is None:
            raise InputError(f"'{reference}' is a data sheet", where="--reference",
                             remedy="give a profile that was measured")  # fmt: skip
        reached = reference_rates(found.profile)
    table = open_fleet(asked.sources, asked.run)
    told = screen(table, lower_is_better=lower_is_better, reference=reached)
    reruns = [open_fleet([path]) for path in asked.again]
    if asked.confirm and not reruns:
        reruns = open_reruns(asked.sources[0], asked.run)
        if not reruns:
            raise InputError("has not been measured again", where=asked.sources[0],
                             remedy=_how_to_confirm(table, told))  # fmt: skip
    if reruns:
        told = screen_again(table, told, reruns)
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


def _how_to_confirm(table: "FleetTable", told: "Screening") -> str:
    """Which units to measure again, with which control."""
    from groundspeed.fleet.confirm import control, suspects

    def text(unit: tuple[str, int | None]) -> str:
        return unit[0] if unit[1] is None else f"{unit[0]} gpu {unit[1]}"

    again = [text(unit) for unit in suspects(told)]
    best = control(table, told)
    beside = f" with {text(best)} as control" if best is not None else ""
    if not again:
        return "there are no suspects: leave out --confirm"
    return (
        f"measure {', '.join(again)} twice{beside} and give the tables with --again "
        "(or: groundspeed fleet run --confirm)"
    )
