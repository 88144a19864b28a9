"""Read untrusted files with clear error messages, and write files atomically."""

import contextlib
import csv
import gzip
import itertools
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundspeed.profiles.errors import InputError

MAX_FILE_BYTES = 64 * 2**20
"""[bytes] Largest file that is read. A profile has a few hundred kB."""


def user_path(name: str) -> Path:
    """Return the path of a name in which ``~`` stands for a home folder.

    Raises
    ------
    InputError
        If there is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise InputError("is in the home folder of an unknown user", where=name) from error


def read_text(path: Path, what: str) -> str:
    """Read a small text file given by the user.

    Parameters
    ----------
    path : Path
    what : str
        Kind of file for error messages, e.g. ``profile``.

    Raises
    ------
    InputError
        If the file is absent, a folder, unreadable, too large or not UTF-8.
    """
    try:
        if path.is_dir():
            raise InputError(f"is a folder, not a {what}", where=str(path))
        if not path.exists():
            raise InputError(f"no such {what}", where=str(path), remedy="check the path")
        if not path.is_file():
            raise InputError(f"is not a regular file, as a {what} must be", where=str(path))
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"cannot be read ({reason})", where=str(path)) from error
    if len(data) > MAX_FILE_BYTES:
        limit = f"{MAX_FILE_BYTES // 2**20} MiB"
        raise InputError(f"is over {limit}, too large for a {what}", where=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not a text file (UTF-8) like a {what}", where=str(path)) from error


def parse_json_object(
    text: str, what: str, where: str, *, infinity: bool = False
) -> dict[str, Any]:
    """Parse JSON text that must be one object with finite numbers and without duplicate keys.

    Parameters
    ----------
    text : str
    what : str
        Kind of file for error messages, e.g. ``profile``.
    where : str
        Path for error messages.
    infinity : bool
        Accept ``Infinity``, which Python writes and JSON does not allow. Default: refuse it.

    Raises
    ------
    InputError
        If the text is not such an object.
    """

    def refuse_constant(name: str) -> float:
        if infinity and name in ("Infinity", "-Infinity"):
            return float(name)
        raise ValueError(f"JSON does not allow the number {name}")

    def no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document: dict[str, Any] = {}
        for key, value in pairs:
            if key in document:
                raise ValueError(f"key '{key}' appears twice")
            document[key] = value
        return document

    try:
        document = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=no_twice)
    except RecursionError as error:
        raise InputError(f"is nested too deeply for a {what}", where=where) from error
    except ValueError as error:
        raise InputError(f"is not a {what} in JSON ({error})", where=where) from error
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise InputError(f"holds a JSON {kind}, but a {what} must be a JSON object", where=where)
    return document


def write_whole(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file atomically: either the complete file appears under its name, or nothing does.

    Parameters
    ----------
    path : Path
    data : bytes
    force : bool, default False
        Whether an existing file is replaced.

    Raises
    ------
    InputError
        If the file exists (without ``force``), or the disk or permissions do not allow writing.
    """
    if path.is_dir():
        raise InputError("is a folder", where=str(path), remedy="give the path of a file")
    if path.exists() and not force:
        raise InputError("exists already", where=str(path), remedy="give --force to replace it")
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        if force:
            Path(temporary).replace(path)
        else:
            os.link(temporary, path)  # unlike a rename, link fails if a file was created meanwhile
            Path(temporary).unlink()
    except FileExistsError as error:
        raise InputError(
            "exists already", where=str(path), remedy="give --force to replace it"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror or error})",
            where=str(path),
            remedy="free disk space, change permissions, or give another path with -o",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file one by one, so that files of gigabytes need little memory.

    A name that ends in ``.gz`` is decompressed.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, or is not a CSV table.
    """
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        file = opened(path, "rt", newline="", encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error
    with file:
        try:
            reader = csv.DictReader(file)
            names = reader.fieldnames
            if not names or len(names) < 2:
                raise InputError("is not a CSV table with a line of column names", where=str(path))
            twice = [n for n, group in itertools.groupby(sorted(names)) if len(list(group)) > 1]
            if twice:
                raise InputError(f"has the column '{twice[0]}' twice", where=str(path))
            for row in reader:
                yield {k: v for k, v in row.items() if k is not None and v is not None}
        except (csv.Error, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"is not a CSV table ({error})", where=str(path)) from error
