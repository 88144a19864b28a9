"""Shared steps of the commands that measure: open a device, calibrate it, save the profile.

    running = open_running_device("cuda:0")
    profile, path = calibrate_and_save(running, "quick", profile_folder())

Measuring needs torch, pandas and scipy, from ``groundspeed[measure]``.
"""

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
    """Open a device of this machine for measuring.

    Parameters
    ----------
    name : str or None
        ``cpu``, ``cuda`` or ``cuda:N``. None: the first GPU, else the CPU.

    Raises
    ------
    InputError
        If a library for measuring is not installed, or there is no such device.
    """
    require_measuring()
    from groundspeed.calibrate.run.device import open_device

    return open_device(name)


def require_measuring() -> None:
    """Check that pandas, scipy and torch are installed, which measuring needs.

    Raises
    ------
    InputError
        If one of them is not installed.
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
    """Calibrate a device with a progress bar, and save the profile.

    The journal of raw samples is moved beside the profile only after the profile is saved, so an
    interrupted run can be continued.

    Parameters
    ----------
    running : RunningDevice
    mode : {'quick', 'standard', 'full'}
    folder : Path
        Folder for the profile and the journal.
    seed : int, default 0
        Random seed of the choice and the order of the cases.
    fresh : bool, default False
        True discards an unfinished run instead of continuing it.
    allow_busy : bool, default False
        True measures a GPU even if other processes use it.
    output : Path, optional
        File for the profile. Default: ID.json in ``folder``.
    force : bool, default False
        True replaces an existing file.
    quiet : bool, default False
        True hides the progress bar.
    dtypes : tuple of str
        Data types of the matrix multiplications; empty: those of the mode.
    lines : bool, default False
        True prints progress and the file of the profile as JSON lines, for a parent process.

    Returns
    -------
    (Profile, Path)
        The profile and its file.

    Raises
    ------
    InputError
        If the device cannot be measured, or the profile fails the physics check; a rejected
        profile is saved beside with the suffix ``.rejected``.
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
        # Keep the rejected profile for inspection. Its journal moves along, so that the next run
        # starts from the beginning.
        rejected = path.with_name(f"{profile.id}.rejected")
        save_profile(profile, rejected, force=True, check=False)
        keep_samples(journal, rejected)
        raise InputError(
            f"{error.what}; the profile is saved as {rejected}",
            where=error.where,
            remedy="measure again on an idle machine; groundspeed profile check lists all errors",
        ) from error
    keep_samples(journal, path)
    if lines:
        print(json.dumps({"profile": str(path)}), flush=True)
    return profile, path


def _print_progress_lines(done: int, total: int, case: str) -> None:
    """Print progress as one JSON line, for a parent process."""
    print(json.dumps({"done": done, "total": total, "case": case}), flush=True)


def keep_samples(journal: Path, profile: Path) -> None:
    """Move the journal of raw samples beside its profile, without overwriting an older one."""
    target = profile.with_suffix(".samples.jsonl")
    if target.exists():
        target = target.with_name(f"{profile.stem}.{journal.stat().st_mtime_ns}.samples.jsonl")
    shutil.move(journal, target)
