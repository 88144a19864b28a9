"""Allow only one check of a node at a time.

Schedulers start health checks at fixed intervals, whether or not the last one has ended. Two checks
at once would disturb each other on the GPU, and on a slow node they would pile up.

    with hold_node_lock("n1"):
        ...
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
    """Hold the lock of a node; the system releases it even if the process is killed.

    Raises
    ------
    InputError
        If another process holds the lock, or the lock file cannot be opened.
    """
    # Prefer /run, where only root may write: no other user can create the lock file in advance.
    folder = Path("/run") if os.access("/run", os.W_OK) else Path(tempfile.gettempdir())
    path = folder / f"groundspeed-{os.getuid()}-{file_name(node)}.lock"
    try:  # O_NOFOLLOW: no symbolic link of another user
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InputError(f"cannot be locked ({error.strerror})", where=str(path)) from error
    try:
        if os.fstat(lock).st_uid != os.getuid():
            raise InputError("belongs to another user", where=str(path), remedy="remove it")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError("another check of this node is still running") from error
        yield
    finally:
        os.close(lock)
