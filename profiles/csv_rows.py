"""Tables from strangers, read a row at a time."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from groundspeed.profiles.errors import InputError


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
