"""``groundspeed fleet healthcheck`` and what belongs to it: a baseline, a dashboard."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver
from groundspeed.extras import missing_library
from groundspeed.fleet_commands.run import Busy, Devices
from groundspeed.profiles.errors import InputError, one_line
from groundspeed.profiles.record import WITH_OLD_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from groundspeed.fleet.health.baseline import Baseline
    from groundspeed.fleet.health.node_health import Health

BaselineOption = Annotated[
    str | None,
    typer.Option(
        help="Baseline file, store, CSV, profile or GPU to compare with; "
        "the store's, else the profile of this GPU, if not given."
    ),
]


@dataclass(frozen=True)
class HealthRequest:
    """What every check of a loop has in common."""

    baseline: str | None
    store: str | None
    device: str | None
    allow_busy: bool
    timeout_s: float
    profile_dir: Path | None


def healthcheck_command(
    baseline: BaselineOption = None,
    store: Annotated[
        str | None,
        typer.Option(
            help=(
                "Folder or URL of a store that keeps the results, for fleet history. Not "
                "given: nothing is kept."
            )
        ),
    ] = None,
    device: Devices = None,
    allow_busy: Busy = False,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain",
            help=(
                "Slurm: drain the node if the check fails; resume it when it is well, if "
                "this check drained it."
            ),
        ),
    ] = False,
    prolog: Annotated[
        bool,
        typer.Option(
            "--prolog", help="For Slurm's Prolog: exit code 1 for FAIL, 0 for everything else."
        ),
    ] = False,
    npd: Annotated[
        bool,
        typer.Option(
            "--node-problem-detector",
            help=("For Kubernetes' node-problem-detector: exit code 1 for FAIL, 2 for UNKNOWN."),
        ),
    ] = False,
    textfile: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Also write gauges to this *.prom file, for the textfile collector of "
                "Prometheus' node_exporter."
            )
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(help="Repeat the check every so many seconds until it is stopped.", min=10),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Serve metrics to Prometheus on this port; needs --every.")
    ] = None,
    bind: Annotated[str, typer.Option(help="Address on which --port listens.")] = "127.0.0.1",
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Seconds after which one check is given up.")
    ] = 45.0,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
) -> None:
    """Check this node in seconds. Exit code: 0 OK, 1 WARN, 2 FAIL, 3 UNKNOWN.

    Example: groundspeed fleet healthcheck --baseline /shared/fleet/baseline.json --drain
    """
    from groundspeed.fleet.health.node_health import EXIT_CODES
    from groundspeed.fleet.health.report_formats import NPD_CODES, nagios_line, npd_line

    if drain and prolog:
        typer.echo(
            "groundspeed: --drain and --prolog exclude each other: Slurm drains by itself after a "
            "failed Prolog",
            err=True,
        )
        raise typer.Exit(EXIT_CODES["UNKNOWN"])
    request = HealthRequest(baseline, store, device, allow_busy, timeout_s, profile_dir)

    def check() -> "Health":
        health = _check(request)
        if drain:
            _drain_or_resume(health)
        if textfile is not None:
            _write(health, textfile)
        if as_json:
            deliver(health.model_dump_json(indent=1, context=WITH_OLD_NAMES), None, force=False)
        else:
            deliver(npd_line(health) if npd else nagios_line(health), None, force=False)
        return health

    if every is not None:
        _forever(check, every, port, bind)
    health = check()
    codes = NPD_CODES if npd else EXIT_CODES
    raise typer.Exit(int(health.state == "FAIL") if prolog else codes[health.state])


def _drain_or_resume(health: "Health") -> None:
    from groundspeed.fleet.health.drain import drain_or_resume

    try:
        if done := drain_or_resume(health):
            typer.echo(f"groundspeed: {done}", err=True)
    except InputError as error:  # the verdict stands, whatever Slurm says
        typer.echo(f"groundspeed: {one_line(str(error))}", err=True)


def _write(health: "Health", textfile: Path) -> None:
    from groundspeed.fleet.health.report_formats import write_textfile

    try:
        write_textfile(health, textfile)
    except InputError as error:  # the verdict stands
        typer.echo(f"groundspeed: {one_line(str(error))}", err=True)


def _check(request: HealthRequest) -> "Health":
    """One check; whatever goes wrong is UNKNOWN, with the reason."""
    from groundspeed.fleet.health.node_health import judge_node, unknown_health

    node = "this node"
    try:
        from groundspeed.fleet.run.node_lock import hold_node_lock
        from groundspeed.fleet.run.worker import node_name

        node = node_name()
        named = _named(request)
        with hold_node_lock(node):
            rows = _measure(request, node)
        kept, reference, against = named or _of_device(request, rows)
        return judge_node(rows, node, baseline=kept, reference=reference, against=against)
    except InputError as error:
        return unknown_health(node, one_line(str(error)))
    except ModuleNotFoundError as error:
        return unknown_health(node, missing_library(error) or str(error))
    except Exception as error:
        return unknown_health(node, f"{type(error).__name__}: {error}")


def _measure(request: HealthRequest, node: str) -> "pd.DataFrame":
    import datetime
    import tempfile

    from groundspeed.fleet.run.worker import Work, check_rows
    from groundspeed.measuring.session import require_measuring

    require_measuring()
    work = Work(request.store or "", "", "check", request.device, request.allow_busy)
    with tempfile.TemporaryDirectory() as folder:
        rows = check_rows(work, node, Path(folder), timeout_s=request.timeout_s)
    if request.store is not None:
        from groundspeed.fleet.history.store import HEALTH, Store

        now = datetime.datetime.now(datetime.UTC)
        run = f"{HEALTH}{now:%Y%m%dT%H%M%SZ}"
        Store(request.store).write_rows(run, node, rows.assign(run=run))
    return rows


def _named(request: HealthRequest) -> "tuple[Baseline | None, dict[str, float] | None, str] | None":
    """What was named to compare with, before anything is measured."""
    from groundspeed.fleet.health.baseline import baseline_of, read_baseline, reference_rates
    from groundspeed.fleet.history.sources import is_store, open_fleet

    named = request.baseline
    if named is None and request.store is not None:
        from groundspeed.fleet.history.store import BASELINE, Store

        data = Store(request.store).read(BASELINE)
        if data is not None:
            stored = read_baseline(data.decode(), request.store)
            return stored, None, stored.source
    if named is None:
        return None
    if is_store(named) or named.endswith(".csv"):
        return baseline_of(open_fleet([named]), named), None, named
    if named.endswith(".json"):
        from groundspeed.profiles.files import read_text

        text = read_text(Path(named).expanduser(), "baseline or profile")
        if '"usual"' in text[:2000]:
            stored = read_baseline(text, named)
            return stored, None, stored.source
    from groundspeed.estimator.hardware.find_hardware import find_hardware

    profile = find_hardware(named, profile_dir=request.profile_dir).profile
    if profile is None:
        raise InputError(f"'{named}' is a datasheet", where="--baseline",
                         remedy="give a profile that was measured")  # fmt: skip
    return None, reference_rates(profile), f"profile {profile.id}, less a tenth"


def _of_device(
    request: HealthRequest, rows: "pd.DataFrame"
) -> "tuple[Baseline | None, dict[str, float] | None, str]":
    """Compare with the profile of this GPU, if there is one, where the user named nothing."""
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.fleet.health.baseline import reference_rates

    device = str(rows["sku"].dropna().iloc[0])
    try:
        profile = find_hardware(device, profile_dir=request.profile_dir).profile
    except InputError:
        profile = None
    if profile is None:
        return None, None, f"no baseline was given, and no profile of '{device}' is known"
    return None, reference_rates(profile), f"profile {profile.id}, less a tenth"


def _forever(check: "Callable[[], Health]", every_s: int, port: int | None, bind: str) -> None:
    """Check again and again; Prometheus gets the newest result."""
    from groundspeed.fleet.health.report_formats import LatestHealth

    latest = LatestHealth()
    if port is not None:
        latest.serve(port, bind)
    while True:
        begun = time.monotonic()
        latest.show(check())
        time.sleep(max(0.0, every_s - (time.monotonic() - begun)))


def baseline_command(
    sources: Annotated[
        list[str], typer.Argument(help="A store, CSV files, or folders of profiles.")
    ],
    run: Annotated[str, typer.Option(help="Name of a run in a store. Default: the newest.")] = "",
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help=("Keep the baseline in the store, where health checks of its nodes look for it."),
        ),
    ] = False,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Write what is usual in a fleet: what nodes compare themselves with.

    Example: groundspeed fleet baseline /shared/fleet --keep
    """
    from groundspeed.fleet.health.baseline import baseline_of
    from groundspeed.fleet.history.sources import is_store, open_fleet

    baseline = baseline_of(open_fleet(sources, run), ", ".join(sources))
    if keep:
        if not is_store(sources[0]) or output is not None:
            raise InputError("only a store keeps a baseline", where="--keep", remedy="give -o FILE")
        from groundspeed.fleet.history.store import BASELINE, Store

        Store(sources[0]).write(baseline.model_dump_json(indent=1).encode(), BASELINE)
        kept = {"store": sources[0], "medians": len(baseline.usual)}
        say = f"{len(baseline.usual)} medians kept in {sources[0]}"
        deliver(json.dumps(kept) if as_json else say, None, force=False)
        return
    deliver(baseline.model_dump_json(indent=1, context=WITH_OLD_NAMES), output, force=force)


def dashboard_command(
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Print a Grafana dashboard of the gauges that health checks give.

    Example: groundspeed fleet dashboard -o groundspeed-dashboard.json
    """
    from groundspeed.fleet.health.dashboard import dashboard_json

    deliver(dashboard_json(), output, force=force)
