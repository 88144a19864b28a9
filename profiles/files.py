"""Reading files that strangers wrote, and writing files whole or not at all."""

import contextlib
import csv
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundspeed.profiles.errors import InputError

MAX_FILE_BYTES = 64 * 2**20
"""A profile is a few hundred kB; what is far larger is not one."""


def read_text(path: Path, what: str) -> str:
    """Read a small text file that a user named.

    Raises
    ------
    InputError
        If it is absent, a folder, unreadable, too large or not UTF-8.
    """
    try:
        if path.is_dir():
            raise InputError(f"is a folder, not a {what}", where=str(path))
        if not path.exists():
            raise InputError(f"no such {what}", where=str(path), remedy="check the path")
        if not path.is_file():
            raise InputError(f"is not a regular file, so no {what}", where=str(path))
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"cannot be read ({reason})", where=str(path)) from error
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"is over {MAX_FILE_BYTES // 2**20} MiB, no {what}", where=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not a text file, so no {what}", where=str(path)) from error


def parse_json_object(text: str, what: str, where: str) -> dict[str, Any]:
    """Parse JSON that must be one object with finite numbers and no key twice.

    Raises
    ------
    InputError
        If it is anything else.
    """

    def refuse_constant(name: str) -> float:
        raise ValueError(f"{name} is not a number JSON allows")

    def no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document: dict[str, Any] = {}
        for key, value in pairs:
            if key in document:
                raise ValueError(f"key '{key}' stands twice")
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
        raise InputError(f"holds a JSON {kind}, a {what} is an object", where=where)
    return document


def write_whole(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file atomically: complete under its name, or not there.

    Raises
    ------
    InputError
        If it exists (without ``force``), or the disk or the rights do not allow it.
    """
    if path.is_dir():
        raise InputError("is a folder", where=str(path), remedy="name a file")
    if path.exists() and not force:
        raise InputError("exists already", where=str(path), remedy="--force replaces it")
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
            os.link(temporary, path)  # unlike rename, it refuses to replace a file made meanwhile
            Path(temporary).unlink()
    except FileExistsError as error:
        raise InputError("exists already", where=str(path), remedy="--force replaces it") from error
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror or error})",
            where=str(path),
            remedy="free space, change the rights or name another place with -o",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV, as they come: a gigabyte of them is no matter.

    Raises
    ------
    InputError
        If it cannot be read, is empty, or is not text in columns.
    """
    try:
        file = path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error
    with file:
        try:
            reader = csv.DictReader(file)
            names = reader.fieldnames
            if not names or len(names) < 2:
                raise InputError("is no table with a line of column names", where=str(path))
            twice = [n for n, group in itertools.groupby(sorted(names)) if len(list(group)) > 1]
            if twice:
                raise InputError(f"has the column '{twice[0]}' twice", where=str(path))
            for row in reader:
                yield {k: v for k, v in row.items() if k is not None and v is not None}
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"is no table of text ({error})", where=str(path)) from error
