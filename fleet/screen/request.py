"""Screen what a user requests: sources, a reference, re-runs, and the cost of findings.

The command line and the Python API both use this module.

    table, screening = screen_sources(ScreenRequest(["/shared/fleet"]))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from groundspeed.fleet.screen.findings import Screening
    from groundspeed.fleet.table import FleetTable


@dataclass(frozen=True)
class Served:
    """Deployment for which the cost of findings is predicted."""

    model: str
    gpu: str
    tp: int = 8
    engine: str = "vllm"
    prompt_tokens: int = 1024
    output_tokens: int = 1024
    concurrency: int = 32
    dtype: str | None = None


@dataclass(frozen=True)
class ScreenRequest:
    """Sources and options of a screening."""

    sources: Sequence[str]
    run: str = ""
    """Name of a run in a store. Empty: the newest run that is not a confirmation."""
    lower_is_better: Sequence[str] = ()
    reference: str | None = None
    """Profile whose rates, reduced by a tenth, are the lowest acceptable values. None: no floor."""
    confirm: bool = False
    """Mark findings FLAKY that did not recur in the re-runs that the store holds."""
    again: Sequence[str] = ()
    """Sources with the measurements of re-runs, e.g. CSV files."""
    served: Served | None = None
    profile_dir: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column of the files for names used here, e.g. ``{"value": "rate"}``."""


def screen_sources(request: ScreenRequest) -> "tuple[FleetTable, Screening]":
    """Read the sources of a request and screen them.

    Returns
    -------
    FleetTable, Screening

    Raises
    ------
    InputError
        If a source cannot be read or a name is unknown.
    """
    from groundspeed.fleet.history.sources import open_fleet, open_reruns, screen_again
    from groundspeed.fleet.screen.screen_table import screen

    table = open_fleet(request.sources, request.run, request.columns)
    reached, said = reference_of(request, table)
    screening = screen(table, lower_is_better=request.lower_is_better, reference=reached)
    screening = screening.model_copy(update={"notes": (*screening.notes, *said)})
    reruns = [open_fleet([path], columns=request.columns) for path in request.again]
    if request.confirm and not reruns:
        reruns = open_reruns(request.sources[0], request.run)
        if not reruns:
            raise InputError(
                "there is no re-run of this run",
                where=request.sources[0],
                remedy=_how_to_confirm(table, screening),
            )
    if reruns:
        screening = screen_again(
            table, screening, reruns, lower_is_better=request.lower_is_better, reference=reached
        )
    if request.served is not None:
        screening = with_costs(screening, request.served, request.profile_dir)
    return table, screening


def screen_dataframe(frame: "pd.DataFrame", request: ScreenRequest) -> "Screening":
    """Screen a DataFrame that has the columns of a fleet CSV.

    Raises
    ------
    InputError
        If a column is missing or no measurement is left to judge.
    """
    from groundspeed.fleet.screen.screen_table import screen
    from groundspeed.fleet.table import clean_fleet

    table = clean_fleet(frame, "the table")
    reached, said = reference_of(request, table)
    screening = screen(table, lower_is_better=request.lower_is_better, reference=reached)
    screening = screening.model_copy(update={"notes": (*screening.notes, *said)})
    if request.served is not None:
        screening = with_costs(screening, request.served, request.profile_dir)
    return screening


def reference_of(
    request: ScreenRequest, table: "FleetTable"
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the rates of the reference in the units of a table, and what was not compared.

    Both are empty without a reference.

    Raises
    ------
    InputError
        If the reference is unknown, or none of its rates can be compared.
    """
    if request.reference is None:
        return {}, ()
    from groundspeed.fleet.achieved.reference import reference_rates_for
    from groundspeed.fleet.health.baseline import reference_rates

    hardware = find_hardware(request.reference, profile_dir=request.profile_dir)
    if hardware.profile is None:
        raise InputError(
            f"'{request.reference}' has only a datasheet",
            where="--reference",
            remedy="give the name of a measured profile",
        )
    rates, notes = reference_rates_for(
        table, reference_rates(hardware.profile), hardware.profile.id
    )
    if not rates:
        raise InputError(
            f"nothing can be compared: {'; '.join(notes)}",
            where="--reference",
            remedy="name metrics like matmul_bfloat16, hbm_read or pcie_h2d, with their units",
        )
    return rates, notes


def with_costs(
    screening: "Screening", served: Served, profile_dir: Path | None = None
) -> "Screening":
    """Return the screening with the predicted cost added to each conclusive finding."""
    from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
    from groundspeed.estimator.serving.workload import Workload
    from groundspeed.fleet.screen.cost import cost_of
    from groundspeed.fleet.screen.screen_table import summed_up

    options = ServerOptions(tp=served.tp, dtype=served.dtype, engine=served.engine)
    server = build_server(served.model, served.gpu, options, profile_dir=profile_dir)
    workload = Workload(served.prompt_tokens, served.output_tokens, served.concurrency)
    findings = tuple(
        f
        if f.verdict == "INCONCLUSIVE" or f.loss_fraction is None
        else f.model_copy(update={"cost": cost_of(f, server, workload)})
        for f in screening.findings
    )
    return summed_up(screening.model_copy(update={"findings": findings}))


def _how_to_confirm(table: "FleetTable", screening: "Screening") -> str:
    """Return an instruction for the user: which units to measure again, with which control."""
    from groundspeed.fleet.screen.confirm import control, suspects

    def text(unit: tuple[str, int | str | None]) -> str:
        return unit[0] if unit[1] is None else f"{unit[0]} gpu {unit[1]}"

    again = [text(unit) for unit in suspects(screening)]
    best = control(table, screening)
    beside = f" with {text(best)} as control" if best is not None else ""
    if not again:
        return "there are no suspects: leave out --confirm"
    return (
        f"measure {', '.join(again)} twice{beside} and give the tables with --again "
        "(or: groundspeed fleet run --confirm)"
    )
