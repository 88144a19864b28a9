"""Measure the links between a few ranks in seconds, as a program whose ranks a test can kill.

Usage: python tiny_links.py FOLDER RANKS TIMEOUT_S     (starts the ranks)
       RANK=.. WORLD_SIZE=.. MASTER_ADDR=.. MASTER_PORT=.. python tiny_links.py FOLDER 0 TIMEOUT_S
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundspeed.calibrate.links.launcher_environment import find_rank_info
from groundspeed.calibrate.links.link_cases import Settings
from groundspeed.calibrate.links.local_ranks import run_ranks
from groundspeed.calibrate.links.rank_main import LinkRequest, ReportedElsewhereError, measure_links
from groundspeed.calibrate.run.runner import Progress
from groundspeed.profiles import InputError

TINY = Settings(
    (1024, 4096, 16384, 65536), 65536, passes=4, samples=3, sample_s=1e-4, budget_s=0.02
)


@contextmanager
def pids(title: str) -> Iterator[Progress]:
    """Print each progress report as a line; stands in for the progress bar."""
    yield lambda done, total, name: print(done, total, name, flush=True)


def main(folder: Path, ranks: int, timeout_s: float) -> int:
    """Measure the links, write ``profile.json``, and print any error as one line."""
    request = LinkRequest("cpu", folder / "links.jsonl", "tiny_links", 0, timeout_s, TINY)
    try:
        if ranks:
            profile = run_ranks(ranks, request, pids)
        else:
            rank_info = find_rank_info(os.environ)
            assert rank_info is not None
            with pids("") as progress:
                profile = measure_links(rank_info, request, progress)
    except ReportedElsewhereError:
        return 2
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if profile is not None:
        (folder / "profile.json").write_text(profile.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
