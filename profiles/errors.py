"""The exception for bad user input, and suggestions for misspelt names.

A user who gives bad input sees one line that says what is wrong, where, and what to do. The
exception stores these three parts; the command line prints them and exits with code 2.

>>> raise InputError("unknown GPU 'h2000'", remedy="did you mean 'h200'?")
Traceback (most recent call last):
    ...
groundspeed.profiles.errors.InputError: unknown GPU 'h2000': did you mean 'h200'?
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Raised for input that cannot be used, or a request that this machine cannot fulfil.

    Parameters
    ----------
    what : str
        The problem.
    where : str, optional
        The file, option or field with the problem. If not given, the message starts with ``what``.
    remedy : str, optional
        What the user can do. If not given, the message ends after ``what``.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        prefix = f"{where}: " if where else ""
        suffix = f": {remedy}" if remedy else ""
        super().__init__(one_line(f"{prefix}{what}{suffix}"))


class PhysicsError(Exception):
    """Raised if a prediction would break physics: an error of this program, not of its user.

    The message holds the inputs, so it is a bug report by itself. The command line exits with 70.
    """

    def __init__(self, what: str) -> None:
        super().__init__(one_line(what))


def one_line(text: str, *, limit: int = 600) -> str:
    """Make a text safe to print on one line: replace control characters and limit its length."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint that suggests similar known names, or lists all names if none is similar.

    Examples
    --------
    >>> did_you_mean("h2000", ["h100-sxm", "h200-sxm", "h20"])
    "did you mean 'h20' or 'h200-sxm'?"
    >>> did_you_mean("xyz", ["h100-sxm", "h20"])
    'known: h100-sxm, h20'
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name.lower(), (n.lower() for n in names), n=3, cutoff=0.5)
    if close:
        meant = [next(n for n in names if n.lower() == c) for c in close]
        return "did you mean " + " or ".join(f"'{m}'" for m in meant) + "?"
    return f"known: {', '.join(names)}"
