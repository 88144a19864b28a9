"""``groundspeed calibrate``: measure this machine and write its profile."""

import json
import os
from pathlib import Path
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
    refuse_others,
    require_writable,
)
from groundspeed.measuring.session import (
    calibrate_and_save,
    open_running_device,
    require_measuring,
)
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import WITH_OLD_NAMES

if TYPE_CHECKING:
    from groundspeed.calibrate.run.device import RunningDevice


LIVE = "A live server"
LIVE_BUDGET = "3m"


def calibrate_command(
    device: Device = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Measure the most important cases only: about a minute. Not given: the standard "
            "mode, between --quick and --full.",
        ),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Measure the largest set of cases: about 15 minutes.")
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Measure nothing; list the planned cases and the expected duration."
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Random seed of the choice and the order of the cases.")
    ] = 0,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Start again from the beginning. Not given: continue an interrupted run.",
        ),
    ] = False,
    allow_busy: Annotated[
        bool,
        typer.Option(
            "--allow-busy",
            help="Measure a GPU even if other processes use it. Not given: that is an error.",
        ),
    ] = False,
    dtypes: Annotated[
        str | None,
        typer.Option(
            help=(
                "Data types of the matrix multiplications to measure, e.g. bfloat16,fp8. Default: "
                "those of the mode that the device supports."
            ),
            show_default=False,
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            help=(
                "Measure collectives and point-to-point links between this many ranks, at least "
                "2 (on GPUs: one per GPU). Not given: measure kernels of one device."
            ),
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            help=(
                "With several ranks: seconds to wait for a rank that does not join, or for an "
                "operation that does not finish."
            )
        ),
    ] = 60.0,
    lines: Annotated[
        bool,
        typer.Option(
            "--lines",
            hidden=True,
            help="Print progress as JSON lines on stdout, for the parent process.",
        ),
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(
            help="Calibrate the engine of this live server instead, e.g. http://127.0.0.1:8000: "
            "sends load and writes an engine profile.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that the server runs, of the catalog or a config.json. Default: the name "
            "that the server gives it.",
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
    engine: Annotated[
        str | None,
        typer.Option(
            help="Engine of the server. Default: what it says itself.", rich_help_panel=LIVE
        ),
    ] = None,
    tp: Annotated[int, typer.Option(help="Its tensor parallel size.", rich_help_panel=LIVE)] = 1,
    pp: Annotated[int, typer.Option(help="Its pipeline parallel size.", rich_help_panel=LIVE)] = 1,
    ep: Annotated[int, typer.Option(help="Its expert parallel size.", rich_help_panel=LIVE)] = 1,
    dp: Annotated[
        int, typer.Option(help="Its number of attention groups.", rich_help_panel=LIVE)
    ] = 1,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Format of its weights. Default: the checkpoint's.", rich_help_panel=LIVE
        ),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        typer.Option(help="Format of its cache. Default: 16 bit.", rich_help_panel=LIVE),
    ] = None,
    token_budget: Annotated[
        int | None,
        typer.Option(
            help="Its tokens of a step. Default: what it says, else what fits its times best.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Time for the load, e.g. 90s or 3m.", rich_help_panel=LIVE)
    ] = LIVE_BUDGET,
    metrics_only: Annotated[
        bool,
        typer.Option(
            "--metrics-only",
            help="Send nothing: fit from the histograms that the server exports while its users "
            "use it, over the time of --budget.",
            rich_help_panel=LIVE,
        ),
    ] = False,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="With --metrics-only: saved pages of metrics, before and after --budget, or the "
            "address of a Prometheus server. Default: the server's own page, read twice.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead of --server: results of vllm bench serve, guidellm, aiperf or another "
            "load tool, or a table for backtest. Nothing is sent.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the engine profile. Default: engine, version and device.",
            rich_help_panel=LIVE,
        ),
    ] = None,
    profile_dir: ProfileDir = None,
    output: Output = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure this machine (matrix products, memory, attention, launches) and write a profile.

    An interrupted run continues where it stopped. With --ranks, or when started by torchrun, srun
    or mpirun, the links between devices are measured instead.

    Example: groundspeed calibrate --quick
    """
    if quick and full:
        raise InputError("--quick and --full cannot be combined", remedy="give one of them")
    here = {
        "--quick": quick, "--full": full, "--plan": plan, "--seed": seed, "--device": device,
        "--allow-busy": allow_busy, "--dtypes": dtypes, "--ranks": ranks,
    }  # fmt: skip
    live = {
        "--gpu": gpu, "--model": model, "--engine": engine, "--tp": tp - 1, "--pp": pp - 1,
        "--ep": ep - 1, "--dp": dp - 1, "--dtype": dtype, "--kv-dtype": kv_dtype,
        "--token-budget": token_budget, "--name": name, "--metrics-only": metrics_only,
        "--metrics": metrics, "--budget": budget != LIVE_BUDGET,
    }  # fmt: skip
    if server is not None and results:
        raise InputError("--server and --results exclude each other", where="--results",
                         remedy="give one of them")  # fmt: skip
    refuse_others(server is not None or bool(results), here, live)
    require_writable(output, force=force)
    if results:
        from groundspeed.engine_fit.command import calibrate_from_results
        from groundspeed.engine_fit.options import live_request

        asked = live_request(
            "localhost", gpu, model, engine, (tp, pp, ep, dp), dtype, kv_dtype, token_budget,
            budget, name, fresh, profile_dir,
        )  # fmt: skip
        calibrate_from_results(asked, results, output=output, force=force, as_json=as_json)
        return
    if server is not None:
        from groundspeed.engine_fit.command import calibrate_live
        from groundspeed.engine_fit.options import live_request

        asked = live_request(
            server, gpu, model, engine, (tp, pp, ep, dp), dtype, kv_dtype, token_budget, budget,
            name, fresh, profile_dir,
        )  # fmt: skip
        if metrics and not metrics_only:
            raise InputError("belongs to --metrics-only", where="--metrics")
        passive = tuple(metrics or ()) if metrics_only else None
        calibrate_live(
            asked, output=output, force=force, as_json=as_json, quiet=quiet, passive=passive
        )
        return
    mode = "quick" if quick else "full" if full else "standard"
    folder = folder_of(profile_dir)
    if ranks is not None or started_as_a_rank():
        from groundspeed.measuring.all_ranks import LinkOptions, show_links_here

        options = LinkOptions(
            ranks, device, folder, timeout, quiet or as_json, seed, fresh, output, force
        )
        show_links_here(options, as_json=as_json)
        return
    if device is not None and (device == "all" or "," in device):
        if output is not None or plan:
            raise InputError(
                "--output and --plan work with one device only, not with several",
                where="--device",
                remedy="give --profile-dir instead of --output, or one device",
            )
        flags = {f"--{mode}": mode != "standard", "--fresh": fresh, "--allow-busy": allow_busy}
        arguments = [name for name, on in flags.items() if on] + ["--seed", str(seed)]
        arguments += ["--dtypes", dtypes] if dtypes is not None else []
        _calibrate_devices(
            device, arguments, folder, timeout_s=timeout, as_json=as_json, quiet=quiet
        )
        return
    running = open_running_device(device)
    if plan:
        _show_plan(running, mode, folder, seed, parse_dtypes(dtypes), as_json=as_json)
        return
    profile, path = calibrate_and_save(
        running,
        mode,
        folder,
        seed=seed,
        fresh=fresh,
        allow_busy=allow_busy,
        output=output,
        force=force,
        quiet=quiet or as_json,
        dtypes=parse_dtypes(dtypes),
        lines=lines,
    )
    if lines:
        return
    if as_json:
        deliver(
            profile.model_dump_json(indent=1, exclude_none=True, context=WITH_OLD_NAMES),
            None,
            force=False,
        )
        return
    from groundspeed.display.show_profile import show_profile
    from groundspeed.display.terminal import make_console, plain

    console = make_console()
    show_profile(console, profile)
    console.print(plain(f"\nprofile written to {path}"))


def _calibrate_devices(
    name: str, options: list[str], folder: Path, *, timeout_s: float, as_json: bool, quiet: bool
) -> None:
    """Calibrate several devices at the same time and show their profiles.

    With ``--device all`` and two GPUs or more, the links between them are measured as well.
    """
    require_measuring()
    from groundspeed.measuring.all_devices import calibrate_together, devices_of

    devices = devices_of(name)
    profiles = calibrate_together(devices, options, folder, quiet=quiet or as_json)
    if name == "all" and len(devices) > 1:
        from groundspeed.measuring.all_ranks import LinkOptions, measure_links_here

        links = LinkOptions(
            len(devices), "cuda", folder, timeout_s, quiet or as_json, fresh="--fresh" in options
        )
        link_result = measure_links_here(links)
        profiles += [link_result[0]] if link_result is not None else []
    if as_json:
        documents = [
            p.model_dump(mode="json", exclude_none=True, context=WITH_OLD_NAMES) for p in profiles
        ]
        deliver(json.dumps(documents, indent=1), None, force=False)
        return
    from groundspeed.display.show_profile import show_profile
    from groundspeed.display.terminal import make_console, plain

    console = make_console()
    for profile in profiles:
        show_profile(console, profile)
        console.print(plain(f"\nprofile {profile.id} written to {folder}\n"))


def started_as_a_rank() -> bool:
    """Return whether torchrun, srun or mpirun started this process as one of several ranks."""
    require_measuring()
    from groundspeed.calibrate.links.launcher_environment import find_rank_info

    return find_rank_info(os.environ) is not None


def parse_dtypes(text: str | None) -> tuple[str, ...]:
    """Parse a list of data types such as ``bfloat16,fp8``; None gives an empty tuple.

    Raises
    ------
    InputError
        If a name is not a data type.
    """
    from groundspeed.calibrate.design.measurement_plan import matmul_kernel

    names = tuple(part.strip() for part in text.split(",")) if text is not None else ()
    for name in names:
        matmul_kernel(name)
    return tuple(dict.fromkeys(names))


def _show_plan(
    running: "RunningDevice",
    mode: str,
    folder: Path,
    seed: int,
    dtypes: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    from groundspeed.calibrate.design.measurement_plan import MODES, only_dtypes
    from groundspeed.calibrate.run.campaign import Request, journal_path, preview

    request = Request(
        running,
        only_dtypes(MODES[mode], dtypes),
        journal_path(folder, running, MODES[mode]),
        "plan",
        seed,
        dtypes=dtypes,
    )
    planned = preview(request)
    if as_json:
        document = {"mode": mode, "expected_s": planned.expected_s, "cases": list(planned.cases)}
        deliver(json.dumps(document, indent=1), None, force=False)
        return
    for case in planned.cases:
        typer.echo(case)
    typer.echo(f"{planned.summary()}; then the search for peaks, and repeats")
