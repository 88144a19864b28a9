"""``groundspeed calibrate --ranks N``: measure collectives and links between devices.

Without a launcher this process starts the ranks on this machine. Under torchrun, srun or mpirun it
is one of the ranks; rank 0 saves the profile.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from groundspeed.calibrate.links.device_wait import HungDeviceError
from groundspeed.calibrate.links.launcher_environment import RankInfo, find_rank_info
from groundspeed.calibrate.links.rank_main import (
    LinkRequest,
    ReportedElsewhereError,
    measure_links,
    silent,
)
from groundspeed.calibrate.run.runner import ProgressBar
from groundspeed.commands.options import deliver
from groundspeed.display.terminal import progress_bar
from groundspeed.profiles.errors import InputError, one_line
from groundspeed.profiles.record import WITH_OLD_NAMES
from groundspeed.profiles.schema import Profile

FAILED = 2
"""Exit code of a rank that failed."""


@dataclass(frozen=True)
class LinkOptions:
    """The options of a link measurement; the defaults are those of ``calibrate --device all``."""

    ranks: int | None
    """Number of ranks; None: that of the launcher, else one per GPU (two on a CPU)."""
    device: str | None
    """``cuda``, ``all`` or ``cpu``; None: GPUs if there are any."""
    folder: Path
    """Folder for the profile and the journal."""
    timeout_s: float
    """[s] Longest wait for a rank to join or for an operation to finish."""
    quiet: bool
    seed: int = 0
    fresh: bool = False
    """Whether an unfinished measurement is discarded instead of continued."""
    output: Path | None = None
    """File for the profile; None: ID.json in ``folder``."""
    force: bool = False


def show_links_here(options: LinkOptions, *, as_json: bool) -> None:
    """Measure the links; rank 0 saves the profile and prints it, other ranks print nothing.

    Raises
    ------
    InputError
        If the ranks cannot be started, or one of them is lost.
    """
    from groundspeed.display.show_profile import show_profile
    from groundspeed.display.terminal import make_console, plain

    result = measure_links_here(options)
    if result is None:
        return
    profile, path = result
    if as_json:
        deliver(
            profile.model_dump_json(indent=1, exclude_none=True, context=WITH_OLD_NAMES),
            None,
            force=False,
        )
        return
    console = make_console()
    show_profile(console, profile)
    console.print(plain(f"\nprofile written to {path}"))


def measure_links_here(options: LinkOptions) -> tuple[Profile, Path] | None:
    """Measure the links and save the profile.

    Returns
    -------
    (Profile, Path) or None
        The profile and its file on rank 0; None on the other ranks.

    Raises
    ------
    InputError
        If the ranks cannot be started, or one of them is lost.
    """
    from groundspeed.measuring.session import keep_samples
    from groundspeed.profiles.store import save_profile

    rank_info = find_rank_info(os.environ)
    if rank_info is not None and options.ranks not in (None, rank_info.world_size):
        raise InputError(
            f"{rank_info.launcher} started {rank_info.world_size} ranks",
            where=f"--ranks {options.ranks}",
            remedy="leave out --ranks: the launcher sets the number",
        )
    kind = _device_kind(options.device)
    count = rank_info.world_size if rank_info is not None else _count(options.ranks, kind)
    journal = options.folder / "unfinished" / f"links-{kind}-x{count}.jsonl"
    if options.fresh:
        journal.unlink(missing_ok=True)
    command = "groundspeed " + shlex.join(sys.argv[1:])
    request = LinkRequest(kind, journal, command, options.seed, options.timeout_s)
    bar = partial(progress_bar, quiet=options.quiet)
    profile = (
        _start(count, request, bar) if rank_info is None else _take_part(rank_info, request, bar)
    )
    if profile is None:
        return None
    path = options.output or options.folder / f"{profile.id}.json"
    save_profile(profile, path, force=options.force)
    keep_samples(journal, path)
    return profile, path


def _device_kind(device: str | None) -> str:
    import torch

    if device in (None, "all"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise InputError(
            f"--ranks works with cpu or cuda, not with '{device}': each rank takes one device",
            where="--device",
            remedy="give --device cpu or --device cuda",
        )
    return device


def _count(ranks: int | None, kind: str) -> int:
    """Return the number of ranks to start: the one given, else one per GPU, else two.

    Raises
    ------
    InputError
        If it is below two or above the number of GPUs.
    """
    import torch

    there = torch.cuda.device_count() if kind == "cuda" else None
    count = ranks if ranks is not None else there or 2
    if count < 2:
        raise InputError(f"links need at least 2 ranks, not {count}", where="--ranks")
    if there is not None and count > there:
        raise InputError(
            f"{count} ranks need {count} GPUs, but this machine has {there}", where="--ranks"
        )
    return count


def _start(count: int, request: LinkRequest, bar: ProgressBar) -> Profile:
    from groundspeed.calibrate.links.local_ranks import run_ranks

    return run_ranks(count, request, bar)


def _take_part(rank_info: RankInfo, request: LinkRequest, bar: ProgressBar) -> Profile | None:
    try:
        if rank_info.rank > 0:
            return measure_links(rank_info, request, silent)
        with bar(f"links of {rank_info.world_size} ranks") as progress:
            return measure_links(rank_info, request, progress)
    except (ReportedElsewhereError, InputError) as error:
        if not isinstance(error.__cause__, HungDeviceError):
            if isinstance(error, InputError):
                raise
            raise typer.Exit(FAILED) from error
        # Python's own exit would close the connections, and that waits for the device that hangs.
        if isinstance(error, InputError):
            print(f"groundspeed: {one_line(str(error))}", file=sys.stderr, flush=True)
        os._exit(FAILED)
