"""Calibrate all devices of a node at once: a process each, one bar each, one profile each."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundspeed.commands.options import Device, ProfileDir, folder_of
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from groundspeed.display.terminal import ReportProgress
    from groundspeed.profiles.schema import Profile

PROGRAM = (sys.executable, "-P", "-m", "groundspeed")


@dataclass
class Worker:
    """The process of one device, and its last line of output."""

    device: str
    process: subprocess.Popen[str]
    profile: Path | None = None
    last_error_line: list[str] = field(default_factory=list)

    @property
    def failure_reason(self) -> str:
        """Last line of its error output."""
        said = self.last_error_line[-1] if self.last_error_line else "it said nothing"
        return said.removeprefix("groundspeed: ")


def devices_of(name: str) -> list[str]:
    """The devices that ``all`` or a list like ``cuda:0,cuda:1`` names.

    Raises
    ------
    InputError
        If there is no GPU, or one is named twice.
    """
    if name == "all":
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise InputError("no GPU here", where="--device all", remedy="measure --device cpu")
        return [f"cuda:{i}" for i in range(count)]
    names = [part.strip() for part in name.split(",")]
    twice = {n for n in names if names.count(n) > 1}
    if twice or "" in names:
        what = f"'{twice.pop()}' twice" if twice else "an empty name"
        raise InputError(f"{what} in a list of devices", where="--device")
    return names


def calibrate_together(
    devices: Sequence[str], arguments: Sequence[str], folder: Path, *, quiet: bool
) -> "list[Profile]":
    """Calibrate several devices at the same time, then one of them alone.

    Parameters
    ----------
    devices : sequence of str
    arguments : sequence of str
        Of ``groundspeed calibrate``, for each of them.
    folder : Path
        Where profiles go.
    quiet : bool

    Returns
    -------
    list of Profile
        In the order of the devices, on the disk already.

    Raises
    ------
    InputError
        If a device could not be measured; the others have been, and their profiles are kept.
    """
    from groundspeed.display.terminal import progress_bars
    from groundspeed.profiles.store import load_profile

    common = ["--profile-dir", str(folder), *arguments, "--lines"]
    workers = [
        Worker(
            device,
            subprocess.Popen(
                [*PROGRAM, "calibrate", "--device", device, *common],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ),
        )
        for device in devices
    ]
    with progress_bars([w.device for w in workers], quiet=quiet) as bars:
        _listen(workers, bars)
    failed = [w for w in workers if w.profile is None]
    finished = [(w.device, w.profile) for w in workers if w.profile is not None]
    if len(finished) > 1:
        _note_contention(*finished[0], [path for _, path in finished])
    if failed:
        reasons = "; ".join(f"{w.device}: {w.failure_reason}" for w in failed)
        kept = ", ".join(path.name for _, path in finished) or "none"
        raise InputError(
            f"{len(failed)} of {len(workers)} devices could not be measured ({reasons})",
            where=str(folder),
            remedy=f"profiles written: {kept}",
        )
    return [load_profile(path) for _, path in finished]


def _listen(workers: list[Worker], bars: "ReportProgress") -> None:
    """Follow all processes until they have ended."""

    def follow(worker: Worker) -> None:
        if worker.process.stdout is None:
            raise AssertionError("workers are started with a pipe")
        for line in worker.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if "profile" in event:
                worker.profile = Path(event["profile"])
            else:
                bars(worker.device, event["done"], event["total"], event["case"])

    def remember(worker: Worker) -> None:
        if worker.process.stderr is None:
            raise AssertionError("workers are started with a pipe")
        for line in worker.process.stderr:
            worker.last_error_line = [*worker.last_error_line, line.strip()][-5:]

    threads = [threading.Thread(target=f, args=(w,)) for w in workers for f in (follow, remember)]
    for thread in threads:
        thread.start()
    try:
        for worker in workers:
            worker.process.wait()
    finally:
        for worker in workers:  # Ctrl-C reaches them too; this is for every other way out
            if worker.process.poll() is None:
                worker.process.terminate()
        for thread in threads:
            thread.join()


def _note_contention(device: str, first: Path, paths: list[Path]) -> None:
    """Measure the first device alone, and write into all profiles what was different."""
    from groundspeed.profiles.store import load_profile, save_profile

    command = [*PROGRAM, "compare-isolated", str(first), "--device", device]
    command += ["--others", str(len(paths) - 1)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    notes = (
        json.loads(finished.stdout)
        if finished.returncode == 0
        else [f"what measuring together changed is not known: {finished.stderr.strip()}"]
    )
    for path in paths:
        profile = load_profile(path)
        told_notes = (*profile.warnings, *notes)
        save_profile(profile.model_copy(update={"warnings": told_notes}), path, force=True)


def compare_isolated_command(
    profile: Annotated[Path, typer.Argument(help="The device's profile, measured together.")],
    others: Annotated[int, typer.Option(help="How many were measured at the same time.")],
    device: Device = None,
    profile_dir: ProfileDir = None,
) -> None:
    """Measure a profile's best cases again, alone; prints what differs as JSON.

    Example: groundspeed compare-isolated h200-gpu0.json --others 7 --device cuda:0
    """
    from groundspeed.calibrate.design.measurement_plan import MODES
    from groundspeed.calibrate.run.campaign import Request, journal_path
    from groundspeed.calibrate.run.isolation import compare_isolated
    from groundspeed.measuring.session import open_running_device
    from groundspeed.profiles.store import load_profile

    running = open_running_device(device)
    mode = MODES["quick"]
    journal = journal_path(folder_of(profile_dir), running, mode)
    request = Request(running, mode, journal, "compare-isolated")
    typer.echo(json.dumps(compare_isolated(request, load_profile(profile), others)))
