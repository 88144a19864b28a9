"""``groundspeed profile``: list, show, check, import and compare profiles."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver, folder_of
from groundspeed.profiles.record import WITH_OLD_NAMES

profile_app = typer.Typer(
    help="List, show, check, import and compare profiles.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[
    str,
    typer.Argument(
        help="Profile: its file or id, or the name of a GPU (h200), which selects the newest "
        "profile of that GPU."
    ),
]


@profile_app.command("list")
def list_command(
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """List your measured profiles and the datasheets that ship with groundspeed.

    Example: groundspeed profile list
    """
    from groundspeed.profiles.datasheet import load_datasheets
    from groundspeed.profiles.errors import InputError
    from groundspeed.profiles.schema import Profile
    from groundspeed.profiles.store import list_profiles

    profiles = list_profiles(folder_of(profile_dir))
    sheets = load_datasheets()
    if as_json or output is not None:
        document = {
            "profiles": [
                {
                    "path": str(path),
                    "id": p.id,
                    "device": p.device.name,
                    "date_utc": p.environment.date_utc,
                }
                if isinstance(p, Profile)
                else {"path": str(path), "error": str(p)}
                for path, p in profiles
            ],
            "datasheets": [
                {
                    "id": s.id,
                    "name": s.name,
                    "peak_flops_per_s": {d: q.value for d, q in s.peak_flops_per_s.items()},
                    "memory_bytes": s.memory_bytes.value if s.memory_bytes else None,
                    "memory_bandwidth_bytes_per_s": s.memory_bandwidth_bytes_per_s.value
                    if s.memory_bandwidth_bytes_per_s
                    else None,
                }
                for s in sheets.values()
            ],
        }
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    from groundspeed.display.terminal import make_console, make_table, plain, shown

    console = make_console()
    table = make_table("measured profile", "device", "mode", "date")
    for path, p in profiles:
        if isinstance(p, InputError):
            table.add_row(plain(path.name), plain(p.what), "unusable", "")
        else:
            table.add_row(p.id, plain(p.device.name), p.mode, p.environment.date_utc)
    if profiles:
        console.print(table)
    else:
        console.print("no measured profile yet; make one with: groundspeed calibrate --quick")
    console.print()
    table = make_table("datasheet", "bf16 dense", "memory", "bandwidth", "highest clock")
    for s in sheets.values():
        peak = s.peak_flops_per_s.get("bfloat16")
        table.add_row(
            s.id,
            shown(peak.value, "FLOP/s") if peak else "",
            shown(s.memory_bytes.value, "bytes") if s.memory_bytes else "",
            shown(s.memory_bandwidth_bytes_per_s.value, "bytes/s")
            if s.memory_bandwidth_bytes_per_s
            else "",
            f"{s.max_clock_hz.value / 1e6:.0f} MHz" if s.max_clock_hz else "",
        )
    console.print(table)


@profile_app.command("show")
def show_command(
    name: Name,
    profile_dir: ProfileDir = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also plot the roofline to this .png or .svg file.")
    ] = None,
    datasheet: Annotated[
        bool,
        typer.Option(
            "--datasheet",
            "--sheet",
            help="Show the vendor's datasheet even if there is a profile. (Old name: --sheet.) Not "
            "given: the profile if there is one.",
        ),
    ] = False,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Show the numbers of a profile or a datasheet, each with its source.

    Example: groundspeed profile show h200
    """
    from groundspeed.estimator.hardware.find_hardware import find_hardware

    hardware = find_hardware(name, profile_dir=profile_dir)
    if datasheet:
        from groundspeed.profiles.errors import InputError

        if hardware.spec is None:
            raise InputError(f"no datasheet of '{name}' is known")
        hardware = replace(hardware, known=None, reason=f"datasheet {hardware.spec.id}")
    record = hardware.profile or hardware.spec
    if record is None:
        raise AssertionError("find_hardware returns a profile, a datasheet or both")
    if plot is not None:
        from groundspeed.display.plots import save_roofline
        from groundspeed.profiles.errors import InputError

        if hardware.profile is None:
            raise InputError(f"'{name}' is a datasheet: it has no measured points to plot")
        save_roofline(hardware.profile, plot, force=force)
    if as_json or output is not None:
        text = record.model_dump_json(indent=1, exclude_none=True, context=WITH_OLD_NAMES)
        deliver(text, output, force=force)
        return
    from groundspeed.display.show_profile import show_datasheet, show_profile
    from groundspeed.display.terminal import make_console, plain

    console = make_console()
    console.print(plain(hardware.reason), style="dim")
    if hardware.profile is not None:
        show_profile(console, hardware.profile)
    elif hardware.spec is not None:
        show_datasheet(console, hardware.spec)
    if plot is not None:
        console.print(plain(f"roofline written to {plot}"))


@profile_app.command("check")
def check_command(
    file: Annotated[Path, typer.Argument(help="File of the profile to check.")],
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Check a profile for physically impossible values. Exit code 1: there are some.

    Example: groundspeed profile check my-h200.json
    """
    from groundspeed.profiles.store import load_profile
    from groundspeed.profiles.validation import check_profile

    profile = load_profile(file, check=False)
    violations = check_profile(profile)
    errors = sum(v.severity == "error" for v in violations)
    if as_json or output is not None:
        document = {
            "profile": profile.id,
            "errors": errors,
            "violations": [v.model_dump(mode="json") for v in violations],
        }
        deliver(json.dumps(document, indent=1), output, force=force)
    else:
        from groundspeed.display.show_profile import show_violations
        from groundspeed.display.terminal import make_console

        console = make_console()
        show_violations(console, violations)
        console.print(
            f"{errors} errors, {len(violations) - errors} warnings"
            if violations
            else "no physically impossible values found"
        )
    raise typer.Exit(1 if errors else 0)


@profile_app.command("import")
def import_command(
    tool: Annotated[
        str,
        typer.Argument(
            help="Tool that wrote the file: aiconfigurator, mamf, superbench, babelstream, csv, "
            "nccl-tests, rccl-tests, nvbandwidth, rocm-bandwidth-test, transferbench, "
            "p2pbandwidthlatencytest, perftest or hipblaslt-bench."
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Output file of the tool. Not given: the installed aiconfigurator package."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Name of the GPU, e.g. h200. Needed if the file does not contain it."),
    ] = None,
    op: Annotated[
        str | None,
        typer.Option(
            help="Operation or collective, e.g. all_reduce. Needed if the file does not contain it."
        ),
    ] = None,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Import measurements of another tool into a profile.

    Example: groundspeed profile import nccl-tests all_reduce.txt
    """
    import shlex
    import sys

    from groundspeed.calibrate.importers import IMPORTERS, ImportRequest, import_profile
    from groundspeed.profiles.errors import InputError, did_you_mean
    from groundspeed.profiles.files import read_text
    from groundspeed.profiles.store import save_profile
    from groundspeed.profiles.validation import check_profile

    if tool not in IMPORTERS:
        raise InputError(f"unknown tool '{tool}'", remedy=did_you_mean(tool, IMPORTERS))
    if tool == "aiconfigurator":
        from groundspeed.calibrate.importers.aiconfigurator import systems_folder

        request = ImportRequest(file or systems_folder(), "", tool, device, op)
    elif file is None:
        raise InputError(f"{tool} needs a file", remedy=f"groundspeed profile import {tool} FILE")
    else:
        request = ImportRequest(file, read_text(file, f"output of {tool}"), tool, device, op)
    command = "groundspeed " + shlex.join(sys.argv[1:])
    profile = import_profile(request, IMPORTERS[tool], command)
    path = output or folder_of(profile_dir) / f"{profile.id}.json"
    save_profile(profile, path, force=force)
    if as_json:
        text = profile.model_dump_json(indent=1, exclude_none=True, context=WITH_OLD_NAMES)
        deliver(text, None, force=False)
        return
    from groundspeed.display.show_profile import show_profile
    from groundspeed.display.terminal import make_console, plain

    console = make_console()
    show_profile(console, profile)
    for violation in check_profile(profile):  # errors were refused when it was saved
        console.print(plain(f"warning: {violation.where}: {violation.what}"), style="yellow")
    console.print(plain(f"\nprofile written to {path}"))


@profile_app.command("diff")
def diff_command(
    first: Name,
    second: Name,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Compare the rates of two profiles, and mark differences beyond their 90 % intervals.

    Example: groundspeed profile diff monday.json tuesday.json
    """
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.profiles.difference import compare_profiles
    from groundspeed.profiles.errors import InputError

    profiles = []
    for name in (first, second):
        hardware = find_hardware(name, profile_dir=profile_dir)
        if hardware.profile is None:
            raise InputError(f"'{name}' is a datasheet; diff compares measured profiles only")
        profiles.append(hardware.profile)
    comparison = compare_profiles(*profiles)
    if as_json or output is not None:
        deliver(comparison.model_dump_json(indent=1), output, force=force)
        return
    from groundspeed.display.show_profile import show_comparison
    from groundspeed.display.terminal import make_console

    show_comparison(make_console(), comparison)
