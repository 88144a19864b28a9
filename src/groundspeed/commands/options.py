"""Options that several commands share, and where their output goes."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import write_whole
from groundspeed.profiles.store import profile_folder

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document instead of text; its keys carry the units."
    ),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write to this file instead of printing.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")]
ProfileDir = Annotated[
    Path | None,
    typer.Option(
        "--profile-dir",
        help="Folder of measured profiles. Default: $XDG_DATA_HOME/groundspeed/profiles.",
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help=(
            "Device: cpu, cuda:N, all GPUs (all), or a list (cuda:0,cuda:1). Default: "
            "the first GPU, else the CPU."
        ),
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print neither progress nor remarks.")]


def folder_of(profile_dir: Path | None) -> Path:
    """The folder of measured profiles."""
    folder = profile_dir or profile_folder()
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, not a folder", where=str(folder))
    return folder


def require_writable(output: Path | None, *, force: bool) -> None:
    """Find out before minutes of measuring whether the result can be written.

    Raises
    ------
    InputError
        If the file exists (without ``force``), or its folder does not take files.
    """
    if output is None:
        return
    if output.exists() and not force:
        raise InputError("exists already", where=str(output), remedy="--force replaces it")
    trial = output.with_name(f".{output.name}.trial")
    write_whole(trial, b"", force=True)
    trial.unlink(missing_ok=True)


def deliver(text: str, output: Path | None, *, force: bool) -> None:
    """Print a document, or write it to a file."""
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    else:
        if re.match(r"[a-z0-9]+:/[^/]", str(output)):
            raise InputError("is a URL, not a file", where=str(output), remedy="give a path")
        write_whole(output, (text.rstrip("\n") + "\n").encode(), force=force)


def numbers(text: str, option: str) -> list[int]:
    """Parse a list like ``64,128,256``.

    Raises
    ------
    InputError
        If a part is not a positive whole number.
    """
    values = []
    for part in text.split(","):
        if not part.strip().isdigit() or int(part) < 1:
            raise InputError(
                f"'{part.strip()}' is not a positive whole number",
                where=option,
                remedy="give numbers like 64,128,256",
            )
        values.append(int(part))
    return values
