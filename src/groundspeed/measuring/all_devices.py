"""Calibrate several devices of a node at the same time.

Each device gets its own process, progress bar and profile. All run at once, as they do in
production; afterwards one device is measured alone, and its difference is noted in the profiles.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
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
"""Command line of this program, for child processes."""

SILENCE_S = 600.0
"""[s] Longest time without a report of progress before a process is stopped. The longest step, the
fit of the laws at the end of a full calibration, takes about a minute."""

LOOK_S = 0.5
"""[s] Time between two looks at the processes."""

KILL_S = 10.0
"""[s] Time to wait for a killed process. One that waits inside a broken driver outlives a kill."""


@dataclass
class Worker:
    """The process that calibrates one device, and what it has reported."""

    device: str
    process: subprocess.Popen[str]
    profile: Path | None = None
    """File of its profile; None while it runs, and if it failed."""
    case: str = "start-up"
    """The case that it works on."""
    heard_s: float = field(default_factory=time.monotonic)
    """[s] Time of its last report."""
    last_error_line: list[str] = field(default_factory=list)
    """The last lines of its stderr, at most five."""

    @property
    def failure_reason(self) -> str:
        """The last line of its stderr."""
        said = self.last_error_line[-1] if self.last_error_line else "it printed no error"
        return said.removeprefix("groundspeed: ")


def devices_of(name: str) -> list[str]:
    """Parse ``all`` (all GPUs) or a list such as ``cuda:0,cuda:1`` to the names of devices.

    Raises
    ------
    InputError
        If there is no GPU, or a device is named more than once.
    """
    if name == "all":
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise InputError("no GPU here", where="--device all", remedy="give --device cpu")
        return [f"cuda:{i}" for i in range(count)]
    names = [part.strip() for part in name.split(",")]
    twice = {n for n in names if names.count(n) > 1}
    if twice or "" in names:
        what = f"'{twice.pop()}' twice" if twice else "an empty name"
        raise InputError(
            f"the list has {what}", where="--device", remedy="give a list such as cuda:0,cuda:1"
        )
    return names


def calibrate_together(
    devices: Sequence[str],
    arguments: Sequence[str],
    folder: Path,
    *,
    quiet: bool,
    silence_s: float = SILENCE_S,
) -> "list[Profile]":
    """Calibrate several devices at the same time, then one of them alone.

    Parameters
    ----------
    devices : sequence of str
        Names such as ``cuda:0``.
    arguments : sequence of str
        Further options of ``groundspeed calibrate``, the same for each device.
    folder : Path
        Folder in which the profiles are saved.
    quiet : bool
        True hides the progress bars.
    silence_s : float
        [s] Longest time without progress before a device is taken to hang.

    Returns
    -------
    list of Profile
        The saved profiles, in the order of the devices.

    Raises
    ------
    InputError
        If a device could not be measured; the profiles of the others are saved all the same.
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
        _listen(workers, bars, silence_s)
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


def _listen(workers: list[Worker], bars: "ReportProgress", silence_s: float) -> None:
    """Read the output of all processes until they have ended, and update the progress bars."""

    def follow(worker: Worker) -> None:
        if worker.process.stdout is None:
            raise AssertionError("workers are started with a pipe")
        for line in worker.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if "profile" in event:
                worker.profile = Path(event["profile"])
            else:
                worker.case, worker.heard_s = event["case"], time.monotonic()
                bars(worker.device, event["done"], event["total"], event["case"])

    def remember(worker: Worker) -> None:
        if worker.process.stderr is None:
            raise AssertionError("workers are started with a pipe")
        for line in worker.process.stderr:
            worker.last_error_line = [*worker.last_error_line, line.strip()][-5:]

    threads = [
        threading.Thread(target=f, args=(w,), daemon=True)
        for w in workers
        for f in (follow, remember)
    ]
    for thread in threads:
        thread.start()
    at_work = list(workers)
    try:
        while at_work := [w for w in at_work if w.process.poll() is None]:
            for worker in [w for w in at_work if time.monotonic() - w.heard_s > silence_s]:
                at_work.remove(worker)
                _stop_silent(worker, silence_s)
            time.sleep(LOOK_S)
    finally:
        for worker in at_work:  # needed for errors only: Ctrl-C reaches the workers too
            worker.process.terminate()
            worker.process.wait(KILL_S)
        for thread in threads:
            thread.join(timeout=KILL_S)
        for pipe in [p for w in workers for p in (w.process.stdout, w.process.stderr)]:
            if pipe is not None:
                pipe.close()


def _stop_silent(worker: Worker, silence_s: float) -> None:
    """Kill a process that has reported nothing for too long: its device hangs without an error."""
    worker.process.kill()
    with suppress(subprocess.TimeoutExpired):
        worker.process.wait(KILL_S)
    worker.last_error_line = [
        f"no progress for {silence_s:.0f} s at {worker.case}: the device hangs without an error; "
        "see the driver's log"
    ]


def _note_contention(device: str, first: Path, paths: list[Path]) -> None:
    """Measure the first device alone, and add a warning for each difference to all profiles."""
    from groundspeed.profiles.store import load_profile, save_profile

    command = [*PROGRAM, "compare-isolated", str(first), "--device", device]
    command += ["--others", str(len(paths) - 1)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    notes = (
        json.loads(finished.stdout)
        if finished.returncode == 0
        else [f"the effect of measuring devices together is not known: {finished.stderr.strip()}"]
    )
    for path in paths:
        profile = load_profile(path)
        told_notes = (*profile.warnings, *notes)
        save_profile(profile.model_copy(update={"warnings": told_notes}), path, force=True)


def compare_isolated_command(
    profile: Annotated[
        Path, typer.Argument(help="Profile of the device, measured together with others.")
    ],
    others: Annotated[int, typer.Option(help="Number of other devices measured at the same time.")],
    device: Device = None,
    profile_dir: ProfileDir = None,
) -> None:
    """Measure the best cases of a profile again on one device; print the differences as JSON.

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
