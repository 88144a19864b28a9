"""Journal of a run: every measurement is on disk before the next one begins.

Each entry is one line of JSON, synced to the disk. A killed run leaves at most an incomplete last
line, which is removed when the journal is opened; all earlier lines are used. The first line
identifies the run (device, plan, versions), and a journal of another run is never continued.

The journal also notes when a case begins. A case that has killed its process or the device would
kill every resumed run again, so it is skipped: at once if the device was seen to be lost, and after
two beginnings without an end otherwise (one end may have been the user's).

    with Journal(path, fingerprint) as journal:
        journal.append(entry)
"""

import contextlib
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record
from groundspeed.profiles.schema import Point

BEGUN, ENDED, BLAMED = "begun", "ended", "blamed"
"""Keys of the marks in a journal; an entry has none of them."""

MOST_BEGINNINGS = 2
"""Beginnings without an end after which a case is not tried again."""


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
        self._begun: Counter[str] = Counter()
        self._blamed: dict[str, str] = {}
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
                self._take(line)
        self.resumed = bool(self.entries)

    def _take(self, line: str) -> None:
        """Read one line: a mark, or an entry, which ends what its key has begun."""
        document = json.loads(line)
        if BEGUN in document:
            self._begun[document[BEGUN]] += 1
        elif ENDED in document:
            self._begun.pop(document[ENDED], None)
        elif BLAMED in document:
            self._blamed[document[BLAMED]] = document["error"]
        else:
            entry = Entry.model_validate_json(line)
            self.entries[entry.key] = entry
            self._begun.pop(entry.key, None)

    def begin(self, key: str) -> None:
        """Note that a case begins."""
        self._mark({BEGUN: key})

    def end(self, key: str) -> None:
        """Note that a case has ended without a measurement, and without harm."""
        self._begun.pop(key, None)
        self._mark({ENDED: key})

    def blame(self, key: str, error: str) -> None:
        """Note that the device was lost during a case."""
        self._blamed[key] = error
        self._mark({BLAMED: key, "error": error})

    def reason_to_skip(self, key: str) -> str | None:
        """Return why a case must not be measured again; None if it may."""
        if key in self._blamed:
            return f"skipped, because the GPU was lost during it ({self._blamed[key]})"
        if self._begun[key] >= MOST_BEGINNINGS:
            return f"skipped, because {self._begun[key]} runs ended during it"
        return None

    def _mark(self, mark: dict[str, str]) -> None:
        try:
            # A mark must survive the process, not the machine: it is not worth a sync of the disk.
            self._write(json.dumps(mark), sync=False)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"the journal cannot be written ({error.strerror or error})",
            where=str(self.path),
            remedy="free disk space, then run the same command again: it resumes",
        )

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
            raise self._unwritable(error) from error
        self.entries[entry.key] = entry
        self._begun.pop(entry.key, None)

    def _write(self, line: str, *, sync: bool = True) -> None:
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if sync:
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
