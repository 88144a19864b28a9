"""One check of a node at a time.

Schedulers start a health check by the clock, whether or not the last one has ended. Two at once
would each find the other's work on the GPU, and a node that is slow enough would drown in them.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundspeed.fleet.node_names import file_name
from groundspeed.profiles.errors import InputError


@contextmanager
def hold_node_lock(node: str) -> Iterator[None]:
    """Hold the node's lock, which the system releases however the process ends.

    Raises
    ------
    InputError
        If another process holds it, or it cannot be made.
    """
    # Prefer /run, where only root may write: no other user can create the lock file in advance.
    folder = Path("/run") if os.access("/run", os.W_OK) else Path(tempfile.gettempdir())
    path = folder / f"groundspeed-{os.getuid()}-{file_name(node)}.lock"
    try:  # not through a link that somebody has laid there
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InputError(f"cannot be locked ({error.strerror})", where=str(path)) from error
    try:
        if os.fstat(lock).st_uid != os.getuid():
            raise InputError("is another user's file", where=str(path), remedy="remove it")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError("another check of this node has not ended") from error
        yield
    finally:
        os.close(lock)
