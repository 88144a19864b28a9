"""Options that several commands share, and the functions that print or write their results."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import write_whole
from groundspeed.profiles.store import profile_folder

Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document instead of text; units are in its keys (ttft_s: seconds).",
    ),
]
TEXT_SUFFIXES = (".txt", ".log", ".md")
"""Endings of names that promise text, which ``-o`` does not write for results."""


def _json_file(output: Path | None) -> Path | None:
    """Refuse a name that promises text before anything is computed."""
    if output is not None and output.suffix.lower() in TEXT_SUFFIXES:
        raise InputError(
            "would hold JSON, not text",
            where=str(output),
            remedy=f"name it {output.with_suffix('.json')}; to keep the text, redirect the "
            "command's output to a file instead of -o",
        )
    return output


Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="File to write the result to as JSON, instead of printing it. calibrate and profile "
        "import write the profile to it, instead of to --profile-dir.",
        callback=_json_file,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace the output file if it exists. Not given: an existing file is an error.",
    ),
]
ProfileDir = Annotated[
    Path | None,
    typer.Option(
        "--profile-dir",
        help="Folder of measured profiles. Default: $XDG_DATA_HOME/groundspeed/profiles "
        "($XDG_DATA_HOME is ~/.local/share if not set).",
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help=(
            "Device: cpu, cuda or cuda:N. calibrate also takes all (all GPUs) or a list "
            "(cuda:0,cuda:1). Default: the first GPU, else the CPU."
        ),
    ),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print neither progress bars nor remarks.")
]


def folder_of(profile_dir: Path | None) -> Path:
    """Return the folder of measured profiles: the one given, else the user's data folder.

    Raises
    ------
    InputError
        If it is a file.
    """
    folder = profile_dir or profile_folder()
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, not a folder", where=str(folder))
    return folder


def refuse_others(live: bool, here: Mapping[str, object], there: Mapping[str, object]) -> None:
    """Reject options that belong to the other use of a command.

    Parameters
    ----------
    live : bool
        Whether a live server is meant (``--server``).
    here : mapping
        Options of measuring this machine, with what was given; nothing, False or 0: not given.
    there : mapping
        Options of a live server.

    Raises
    ------
    InputError
        If one would have no effect.
    """
    for option, value in (here if live else there).items():
        if value:
            remedy = "leave it out, or leave --server out" if live else "give --server URL with it"
            raise InputError(
                f"has no effect {'with' if live else 'without'} --server", where=option,
                remedy=remedy,
            )  # fmt: skip


def require_writable(output: Path | None, *, force: bool) -> None:
    """Check that the result can be written, before minutes are spent on measuring it.

    Parameters
    ----------
    output : Path or None
        File to write. None (print the result) needs no check.
    force : bool
        True allows an existing file, which will be replaced.

    Raises
    ------
    InputError
        If the file exists (without ``force``), or no file can be written to its folder.
    """
    if output is None:
        return
    if output.exists() and not force:
        raise InputError("exists already", where=str(output), remedy="give --force to replace it")
    trial = output.with_name(f".{output.name}.trial")
    write_whole(trial, b"", force=True)
    trial.unlink(missing_ok=True)


def deliver(text: str, output: Path | None, *, force: bool) -> None:
    """Print a document if ``output`` is None, else write it to that file.

    Raises
    ------
    InputError
        If ``output`` is a URL, exists (without ``force``) or cannot be written.
    """
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    else:
        if re.match(r"[a-z0-9]+:/[^/]", str(output)):
            raise InputError("is a URL, not a file", where=str(output), remedy="give a local path")
        write_whole(output, (text.rstrip("\n") + "\n").encode(), force=force)


def numbers(text: str, option: str) -> list[int]:
    """Parse a comma-separated list of positive whole numbers such as ``64,128,256``.

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
                remedy="give a list such as 64,128,256",
            )
        values.append(int(part))
    return values
