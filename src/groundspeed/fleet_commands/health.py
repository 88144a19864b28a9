"""``groundspeed fleet healthcheck``, and the commands for its baseline and its dashboard."""

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
        help="Values to compare with: a baseline file, store, CSV file, profile or GPU name. "
        "Default: the baseline in --store, else the profile of this GPU, less 10 %."
    ),
]


@dataclass(frozen=True)
class HealthRequest:
    """The options of a health check; ``--every`` uses the same ones for each repetition."""

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
                "Folder or URL of a store in which the results are saved, for fleet history. Not "
                "given: they are not saved."
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
                "Slurm: drain the node if the result is FAIL; resume it if the result is OK and "
                "groundspeed had drained it. Not given: Slurm is not changed."
            ),
        ),
    ] = False,
    prolog: Annotated[
        bool,
        typer.Option(
            "--prolog", help="For a Slurm prolog: exit code 1 for FAIL, 0 for every other result."
        ),
    ] = False,
    npd: Annotated[
        bool,
        typer.Option(
            "--node-problem-detector",
            help="For the node-problem-detector of Kubernetes: exit code 0 for OK and WARN, 1 for "
            "FAIL, 2 for UNKNOWN; at most 80 characters of output.",
        ),
    ] = False,
    textfile: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Also write Prometheus gauges to this *.prom file, for the textfile collector of "
                "node_exporter. Not given: no file."
            )
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            help="Repeat the check with this period in seconds, until the program is stopped. Not "
            "given: one check.",
            min=10,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="TCP port on which Prometheus can read the newest result; needs --every. Not "
            "given: no port is opened."
        ),
    ] = None,
    bind: Annotated[
        str, typer.Option(help="Address on which --port listens; 0.0.0.0 for all interfaces.")
    ] = "127.0.0.1",
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            help="Time limit of one check, in seconds; a device that takes longer has no result.",
        ),
    ] = 45.0,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
) -> None:
    """Check the devices of this node in seconds. Exit code: 0 OK, 1 WARN, 2 FAIL, 3 UNKNOWN.

    Example: groundspeed fleet healthcheck --baseline /shared/fleet/baseline.json --drain
    """
    from groundspeed.fleet.health.node_health import EXIT_CODES
    from groundspeed.fleet.health.report_formats import NPD_CODES, nagios_line, npd_line

    if drain and prolog:
        typer.echo(
            "groundspeed: --drain and --prolog cannot be combined: Slurm itself drains a node "
            "whose prolog fails: leave out --drain",
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
    except InputError as error:  # a failure of Slurm does not change the result of the check
        typer.echo(f"groundspeed: {one_line(str(error))}", err=True)


def _write(health: "Health", textfile: Path) -> None:
    from groundspeed.fleet.health.report_formats import write_textfile

    try:
        write_textfile(health, textfile)
    except InputError as error:  # a file that cannot be written does not change the result
        typer.echo(f"groundspeed: {one_line(str(error))}", err=True)


def _check(request: HealthRequest) -> "Health":
    """Make one check. Any error gives the state UNKNOWN with the reason, never an exception."""
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
    """Read what ``--baseline`` names, else the baseline in the store, before anything is measured.

    Returns
    -------
    (Baseline or None, dict of str to float or None, str) or None
        A baseline or the reference rates of a profile, and its description. None if nothing is
        named and the store has no baseline.

    Raises
    ------
    InputError
        If the named baseline cannot be read, or only a datasheet is known.
    """
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
        from groundspeed.profiles.files import read_text, user_path

        text = read_text(user_path(named), "baseline or profile")
        if '"usual"' in text[:2000]:
            stored = read_baseline(text, named)
            return stored, None, stored.source
    from groundspeed.estimator.hardware.find_hardware import find_hardware

    profile = find_hardware(named, profile_dir=request.profile_dir).profile
    if profile is None:
        raise InputError(f"only a datasheet of '{named}' is known", where="--baseline",
                         remedy="give a baseline or a measured profile")  # fmt: skip
    return None, reference_rates(profile), f"profile {profile.id}, less 10 %"


def _of_device(
    request: HealthRequest, rows: "pd.DataFrame"
) -> "tuple[Baseline | None, dict[str, float] | None, str]":
    """Return the reference rates from the profile of this GPU, if there is one."""
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.fleet.health.baseline import reference_rates

    device = str(rows["sku"].dropna().iloc[0])
    try:
        profile = find_hardware(device, profile_dir=request.profile_dir).profile
    except InputError:
        profile = None
    if profile is None:
        return None, None, f"no baseline was given, and there is no profile of '{device}'"
    return None, reference_rates(profile), f"profile {profile.id}, less 10 %"


def _forever(check: "Callable[[], Health]", every_s: int, port: int | None, bind: str) -> None:
    """Repeat the check until the program is stopped; Prometheus reads the newest result."""
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
        list[str],
        typer.Argument(
            help="Measurements of the fleet: one store of runs (folder or URL), or CSV files and "
            "folders of profiles."
        ),
    ],
    run: Annotated[str, typer.Option(help="Name of a run in the store. Default: the newest.")] = "",
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Save the baseline in the store, where health checks with --store find it. Not "
            "given: print it or write it to --output.",
        ),
    ] = False,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Write the medians and spreads of a fleet, with which health checks compare a node.

    Example: groundspeed fleet baseline /shared/fleet --keep
    """
    from groundspeed.fleet.health.baseline import baseline_of
    from groundspeed.fleet.history.sources import is_store, open_fleet

    baseline = baseline_of(open_fleet(sources, run), ", ".join(sources))
    if keep:
        if not is_store(sources[0]) or output is not None:
            raise InputError(
                "works only with a store and without --output",
                where="--keep",
                remedy="give -o FILE without --keep",
            )
        from groundspeed.fleet.history.store import BASELINE, Store

        Store(sources[0]).write(baseline.model_dump_json(indent=1).encode(), BASELINE)
        kept = {"store": sources[0], "medians": len(baseline.usual)}
        say = f"baseline of {len(baseline.usual)} medians saved in {sources[0]}"
        deliver(json.dumps(kept) if as_json else say, None, force=False)
        return
    deliver(baseline.model_dump_json(indent=1, context=WITH_OLD_NAMES), output, force=force)


def dashboard_command(
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Print a Grafana dashboard for the gauges that health checks export to Prometheus.

    Example: groundspeed fleet dashboard -o groundspeed-dashboard.json
    """
    from groundspeed.fleet.health.dashboard import dashboard_json

    deliver(dashboard_json(), output, force=force)
