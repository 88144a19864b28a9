"""Start the ranks of one node through torchrun's API, and report a failed rank.

torch.distributed.elastic starts the processes, gives each its rank, and stops all when one fails.
It cannot tell which operation the failed rank was running. Each rank therefore writes its
heartbeats to a file (see ``rendezvous``), from which the error message is made.

    profile = run_ranks(8, request, bar)
"""

import json
import logging
import os
import socket
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from groundspeed.calibrate.links.launcher_environment import find_rank_info
from groundspeed.calibrate.links.rank_main import (
    LinkRequest,
    ReportedElsewhereError,
    failed,
    measure_links,
    silent,
)
from groundspeed.calibrate.run.runner import ProgressBar
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import write_whole
from groundspeed.profiles.schema import Profile

FAILED = 2
"""Exit code of a rank that failed."""
STOP_S = 5
"""[s] Time that the ranks have to stop by themselves after one has failed."""

LONGEST_END_S = 50
"""[s] Longest time until all processes have ended after an operation has timed out: three seconds
in which the ranks report, and the half minute after which torch's agent kills a process that does
not react."""


def run_ranks(count: int, request: LinkRequest, bar: ProgressBar) -> Profile:
    """Start the ranks on this machine and measure the links between them.

    Parameters
    ----------
    count : int
        Number of ranks.
    request : LinkRequest
        Device, journal, command, seed and timeout.
    bar : callable
        Opens a progress bar; only rank 0 calls it.

    Returns
    -------
    Profile
        The profile of the links.

    Raises
    ------
    InputError
        If a rank is killed, hangs or fails. The message names the rank, its host and the operation.
    """
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="groundspeed-ranks-") as name:
        folder = Path(name)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=f"groundspeed-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            monitor_interval=0.1,
            **_where_known(LaunchConfig, shutdown_timeout=STOP_S),
        )
        try:
            elastic_launch(config, run_rank)(replace(request, folder=folder), bar)
        except ChildFailedError as error:
            raise _explain_failure(error, folder) from error
        return Profile.model_validate_json((folder / "profile.json").read_bytes())


def _where_known(config: type, **settings: int) -> dict[str, Any]:
    """Return the settings that the installed torch has; it got ``shutdown_timeout`` in 2.12."""
    known = {field.name for field in fields(config)}
    return {name: value for name, value in settings.items() if name in known}


def run_rank(request: LinkRequest, bar: ProgressBar) -> None:
    """Run one rank; its profile or its error message is written to the folder of the request."""
    if request.folder is None:
        raise AssertionError("ranks that run_ranks starts have a folder")
    rank_info = find_rank_info(os.environ)
    if rank_info is None:
        raise AssertionError("the launcher sets the rank of each process")
    try:
        if rank_info.rank == 0:
            with bar(f"links of {rank_info.world_size} ranks") as progress:
                profile = measure_links(rank_info, request, progress)
        else:
            profile = measure_links(rank_info, request, silent)
    except ReportedElsewhereError:
        os._exit(FAILED)  # a normal exit would wait for the broken connections
    except Exception as error:
        report = request.folder / f"failure{rank_info.rank}.txt"
        report.write_text(failed(error))
        os._exit(FAILED)
    if profile is not None:
        write_whole(request.folder / "profile.json", profile.model_dump_json().encode(), force=True)


def _explain_failure(error: ChildFailedError, folder: Path) -> InputError:
    """Make a one-line error that names the rank, its host and the operation."""
    remedy = "completed measurements are kept: run the same command again to resume"
    for rank, failure in sorted(error.failures.items()):
        if failure.exitcode < 0:
            note = folder / f"rank{rank}.json"
            doing = json.loads(note.read_text())["doing"] if note.exists() else "start-up"
            return InputError(
                f"rank {rank} on {socket.gethostname()} was killed by {failure.signal_name()} "
                f"during {doing}",
                remedy=remedy,
            )
    reports = sorted(folder.glob("failure*.txt"))
    explanation = (
        reports[0].read_text() if reports else f"a rank exited with no error message ({error.name})"
    )
    return InputError(explanation, remedy=remedy)
