"""What every command that measures needs: a device, a progress bar, a profile on the disk."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from groundspeed.calibrate.run.device import RunningDevice
    from groundspeed.profiles.schema import Profile


def open_running_device(name: str | None) -> "RunningDevice":
    """Open a device, or say what is missing to measure at all.

    Raises
    ------
    InputError
        If a library for measuring is not installed, or there is no such device.
    """
    require_measuring()
    from groundspeed.calibrate.run.device import open_device

    return open_device(name)


def require_measuring() -> None:
    """Say which library for measuring is missing.

    Raises
    ------
    InputError
        If one is not installed.
    """
    try:
        import pandas  # noqa: F401
        import scipy  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"measuring needs {error.name}, which is not installed",
            remedy="pip install 'groundspeed[measure]'",
        ) from error


def calibrate_and_save(
    running: "RunningDevice",
    mode: str,
    folder: Path,
    *,
    seed: int = 0,
    fresh: bool = False,
    allow_busy: bool = False,
    output: Path | None = None,
    force: bool = False,
    quiet: bool = False,
    dtypes: tuple[str, ...] = (),
    lines: bool = False,
) -> "tuple[Profile, Path]":
    """Calibrate with a progress bar, and write the profile.

    The journal is deleted only when the profile is on the disk.
    """
    from groundspeed.calibrate.design.measurement_plan import MODES, only_dtypes
    from groundspeed.calibrate.run.campaign import Request, calibrate, journal_path
    from groundspeed.display.terminal import progress_bar
    from groundspeed.profiles.store import save_profile
    from groundspeed.profiles.validation import check_profile

    journal = journal_path(folder, running, MODES[mode])
    command = "groundspeed " + shlex.join(sys.argv[1:])
    chosen = only_dtypes(MODES[mode], dtypes)
    request = Request(running, chosen, journal, command, seed, fresh, allow_busy, dtypes)
    with progress_bar(f"calibrating {running.device.name}", quiet=quiet or lines) as progress:
        profile = calibrate(
            request,
            _print_progress_lines if lines else progress,
            lambda plan: None if quiet or lines else typer.echo(plan.summary(), err=True),
        )
    path = output or folder / f"{profile.id}.json"
    try:
        save_profile(profile, path, force=force)
    except InputError as error:
        if not any(v.severity == "error" for v in check_profile(profile)):
            raise
        # Kept for a look, and out of the way: the next run measures afresh.
        rejected = path.with_name(f"{profile.id}.rejected")
        save_profile(profile, rejected, force=True, check=False)
        keep_samples(journal, rejected)
        raise InputError(
            f"{error.what}; kept as {rejected}",
            where=error.where,
            remedy="measure again in a quieter moment; groundspeed profile check says all of it",
        ) from error
    keep_samples(journal, path)
    if lines:
        print(json.dumps({"profile": str(path)}), flush=True)
    return profile, path


def _print_progress_lines(done: int, total: int, case: str) -> None:
    """Progress for another process to read."""
    print(json.dumps({"done": done, "total": total, "case": case}), flush=True)


def keep_samples(journal: Path, profile: Path) -> None:
    """Move the raw samples beside the profile they belong to; nothing is overwritten."""
    target = profile.with_suffix(".samples.jsonl")
    if target.exists():
        target = target.with_name(f"{profile.stem}.{journal.stat().st_mtime_ns}.samples.jsonl")
    shutil.move(journal, target)
