"""Start the ranks of one node through torchrun's API, and say what became of them.

torch.distributed.elastic starts the processes, gives each its place, and stops all when one fails.
What it cannot say is what the one was doing; the ranks write that down (see ``rendezvous``).
"""

import json
import logging
import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

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
STOP_S = 5
"""Time that ranks are given to stop by themselves when one has failed."""

LONGEST_END_S = 50
"""After an operation is given up, no process is left after this: three seconds to report in, and
the half minute that torch's agent gives a process that does not react before it kills it."""


def run_ranks(count: int, request: LinkRequest, bar: ProgressBar) -> Profile:
    """Measure the links between processes of this machine.

    Parameters
    ----------
    count : int
    request : LinkRequest
    bar : callable
        Opens a progress bar; rank 0 does.

    Raises
    ------
    InputError
        Naming rank, host and operation, if one is killed, hangs or fails.
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
            shutdown_timeout=STOP_S,
        )
        try:
            elastic_launch(config, run_rank)(replace(request, folder=folder), bar)
        except ChildFailedError as error:
            raise _explain_failure(error, folder) from error
        return Profile.model_validate_json((folder / "profile.json").read_bytes())


def run_rank(request: LinkRequest, bar: ProgressBar) -> None:
    """One process; everything it has to say goes into the folder."""
    if request.folder is None:
        raise AssertionError("ranks that are started here have a folder")
    rank_info = find_rank_info(os.environ)
    if rank_info is None:
        raise AssertionError("the launcher gives each process a place")
    try:
        if rank_info.rank == 0:
            with bar(f"links of {rank_info.world_size} ranks") as progress:
                profile = measure_links(rank_info, request, progress)
        else:
            profile = measure_links(rank_info, request, silent)
    except ReportedElsewhereError:
        os._exit(FAILED)  # an ordinary exit would wait for the connections that are broken
    except Exception as error:
        report = request.folder / f"failure{rank_info.rank}.txt"
        report.write_text(failed(error))
        os._exit(FAILED)
    if profile is not None:
        write_whole(request.folder / "profile.json", profile.model_dump_json().encode(), force=True)


def _explain_failure(error: ChildFailedError, folder: Path) -> InputError:
    """One line that names the rank, the host and the operation."""
    remedy = "what was measured is kept: run the same command again and it continues"
    for rank, failure in sorted(error.failures.items()):
        if failure.exitcode < 0:
            note = folder / f"rank{rank}.json"
            doing = json.loads(note.read_text())["doing"] if note.exists() else "starting"
            return InputError(
                f"rank {rank} on {socket.gethostname()} was killed by {failure.signal_name()} "
                f"in {doing}",
                remedy=remedy,
            )
    reports = sorted(folder.glob("failure*.txt"))
    explanation = (
        reports[0].read_text() if reports else f"a rank ended without a word ({error.name})"
    )
    return InputError(explanation, remedy=remedy)
