"""Measure the links of a simulated machine, with few sizes, as ``calibrate --ranks`` does.

Usage: python sim_links.py FOLDER RANKS TIMEOUT_S
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundspeed.calibrate.links.link_cases import Settings
from groundspeed.calibrate.links.local_ranks import run_ranks
from groundspeed.calibrate.links.rank_main import LinkRequest
from groundspeed.calibrate.run.runner import Progress
from groundspeed.profiles import InputError

FEW = Settings((4096, 2**20, 2**26), 2**26, passes=1, samples=3, sample_s=1e-3, budget_s=0.02)


@contextmanager
def silent(title: str) -> Iterator[Progress]:
    """Report no progress; stands in for the progress bar."""
    yield lambda done, total, name: None


def main(folder: Path, ranks: int, timeout_s: float) -> int:
    """Measure, and print the profile, or any error as one line."""
    request = LinkRequest("cuda", folder / "links.jsonl", "sim_links", 0, timeout_s, FEW)
    try:
        profile = run_ranks(ranks, request, silent)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(profile.model_dump(mode="json")))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
