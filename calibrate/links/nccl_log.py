"""Read NCCL's debug log: whether a switch reduces on the way, and which algorithms NCCL chose.

With ``NCCL_DEBUG_SUBSYS=INIT`` NCCL writes a few lines when a communicator is created and none
afterwards, so the log can be captured during timing. The algorithm of each call is logged only with
``TUNING``, at one line per call. That costs time, so these lines are read only if the user has
requested them.

    with capture_nccl_log() as path:
        ...                                  # run collectives
        nccl_log = read_nccl_log(path)
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CHANNELS = re.compile(r"NCCL INFO (\d+) coll channels,(?: \d+ collnet channels,)? (\d+) nvls")
CHOICE = re.compile(r"NCCL INFO (?:(\w+): )?(\d+) Bytes -> Algo (\w+) proto (\w+)", re.IGNORECASE)
ALGORITHMS = ("TREE", "RING", "COLLNET_DIRECT", "COLLNET_CHAIN", "NVLS", "NVLS_TREE", "PAT")
PROTOCOLS = ("LL", "LL128", "SIMPLE")
"""Names for the algorithm and protocol numbers that older NCCL versions log (nccl_common.h)."""


@dataclass(frozen=True)
class NcclLog:
    """Facts that NCCL's log states."""

    in_network_reduction: bool | None = None
    """Whether a switch reduces on the way; None if the log does not state it."""
    algorithms: dict[str, str] = field(default_factory=dict)
    """Algorithm and protocol by call: ``"AllReduce 1048576"`` (bytes) to ``"RING SIMPLE"``."""


def parse_nccl_log(text: str) -> NcclLog:
    """Read NCCL's debug lines.

    >>> parse_nccl_log("h:1:2 [0] NCCL INFO 24 coll channels, 16 nvls channels, 32 p2p channels")
    NcclLog(in_network_reduction=True, algorithms={})
    """
    switched = None
    algorithms = {}
    for line in text.splitlines():
        if match := CHANNELS.search(line):
            switched = bool(switched) or int(match[2]) > 0
        elif match := CHOICE.search(line):
            name = f"{match[1] or 'collective'} {match[2]}"
            algorithms[name] = f"{_named(match[3], ALGORITHMS)} {_named(match[4], PROTOCOLS)}"
    return NcclLog(switched, algorithms)


def _named(text: str, names: tuple[str, ...]) -> str:
    if text.isdigit():
        return names[int(text)] if int(text) < len(names) else f"number {text}"
    return text.upper()


@contextmanager
def capture_nccl_log() -> Iterator[Path | None]:
    """Make NCCL log communicator creation to a file, unless the user has set ``NCCL_DEBUG``.

    Yields
    ------
    Path or None
        Path of the log file. If the user has set ``NCCL_DEBUG``, the path in ``NCCL_DEBUG_FILE``,
        or None if that is not set or is a pattern.
    """
    if "NCCL_DEBUG" in os.environ:
        own = os.environ.get("NCCL_DEBUG_FILE", "")
        yield Path(own) if own and "%" not in own else None
        return
    with tempfile.TemporaryDirectory(prefix="groundspeed-nccl-") as folder:
        path = Path(folder) / "log"
        settings = {
            "NCCL_DEBUG": "INFO",
            "NCCL_DEBUG_SUBSYS": "INIT",
            "NCCL_DEBUG_FILE": str(path),
        }
        os.environ.update(settings)
        try:
            yield path
        finally:
            for name in settings:
                os.environ.pop(name, None)


def read_nccl_log(path: Path | None) -> NcclLog:
    """Read and parse the log; without a file, an empty result."""
    if path is None or not path.is_file():
        return NcclLog()
    return parse_nccl_log(path.read_text(encoding="utf-8", errors="replace"))
