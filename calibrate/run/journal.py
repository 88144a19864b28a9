"""Journal of a run: every measurement is on disk before the next one begins.

Each entry is one line of JSON, synced to the disk. A killed run leaves at most an incomplete last
line, which is removed when the journal is opened; all earlier lines are used. The first line
identifies the run (device, plan, versions), and a journal of another run is never continued.

    with Journal(path, fingerprint) as journal:
        journal.append(entry)
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record
from groundspeed.profiles.schema import Point


class Entry(Record):
    """Measured case with its raw samples."""

    key: str
    point: Point
    samples_s: tuple[float, ...]


class Journal:
    """Entries of one run, stored in a file.

    Parameters
    ----------
    path : Path
        Path of the journal. Its folder is created if needed.
    fingerprint : dict
        Identifies the run. A journal is continued only if its fingerprint is equal.
    fresh : bool, default False
        Whether to delete existing entries.

    Raises
    ------
    InputError
        If the file cannot be written or is in use by another process.
    """

    def __init__(self, path: Path, fingerprint: dict[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.resumed = False
        head = json.dumps({"journal": 1, **fingerprint}, sort_keys=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(path)
            if fresh:
                self._file.truncate(0)
            self._file.seek(0)
            self._read(self._file.read(), head)
        except OSError as error:
            raise InputError(
                f"the journal cannot be written ({error.strerror or error})",
                where=str(path),
                remedy="free disk space, change the permissions, or give another --profile-dir",
            ) from error

    def _read(self, data: bytes, head: str) -> None:
        complete = data[: data.rfind(b"\n") + 1]
        lines = complete.decode("utf-8", errors="replace").splitlines()
        if not lines or lines[0] != head:
            if lines:  # a journal of another run is kept under another name
                self.path.replace(self.path.with_name(f"{self.path.name}.{os.getpid()}.old"))
                self._file.close()
                self._file = _open_locked(self.path)
            else:
                self._file.truncate(0)
            self._write(head)
            return
        self._file.truncate(len(complete))
        for line in lines[1:]:
            with contextlib.suppress(ValueError):  # the case of a damaged line is measured again
                entry = Entry.model_validate_json(line)
                self.entries[entry.key] = entry
        self.resumed = bool(self.entries)

    def append(self, entry: Entry) -> None:
        """Append an entry, and return when it is on the disk.

        Raises
        ------
        InputError
            If the disk is full or cannot be written any more.
        """
        try:
            self._write(entry.model_dump_json(exclude_none=True))
        except OSError as error:
            raise InputError(
                f"the journal cannot be written ({error.strerror or error})",
                where=str(self.path),
                remedy="free disk space, then run the same command again: it resumes",
            ) from error
        self.entries[entry.key] = entry

    def _write(self, line: str) -> None:
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _open_locked(path: Path) -> BinaryIO:
    """Open a journal for appending, locked against other running processes."""
    file = path.open("a+b")
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InputError(
            "another calibration of this device is running",
            where=str(path),
            remedy="wait until it ends, or give another --profile-dir",
        ) from error
    return file
