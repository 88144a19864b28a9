"""What a user states about a live server, read and checked."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from groundspeed.engine_fit.calibrate_server import Request
from groundspeed.estimator.deployment.build_server import ServerOptions
from groundspeed.profiles.errors import InputError

LEAST_S, MOST_S = 5.0, 86_400.0


def live_request(
    server: str,
    gpu: str | None,
    model: str | None,
    engine: str | None,
    ways: tuple[int, int, int, int],
    dtype: str | None,
    kv_dtype: str | None,
    token_budget: int | None,
    budget: str,
    name: str | None,
    fresh: bool,
    profile_dir: Path | None,
) -> Request:
    """Return a request about a live server.

    Raises
    ------
    InputError
        If an option is missing or impossible.
    """
    if gpu is None:
        raise InputError(
            "the device of the server is needed", where="--gpu",
            remedy="give a GPU such as h200-sxm, or the profile that groundspeed calibrate wrote",
        )  # fmt: skip
    tp, pp, ep, dp = ways
    return Request(
        url=parse_url(server), gpu=gpu, model=model, engine=engine,
        options=ServerOptions(
            tp=tp, pp=pp, ep=ep, dp=dp, dtype=dtype, kv_dtype=kv_dtype, token_budget=token_budget
        ),
        budget_s=parse_time(budget), name=parse_name(name), fresh=fresh, profile_dir=profile_dir,
    )  # fmt: skip


def parse_url(text: str) -> str:
    """Return the root of a server without a path at its end.

    >>> parse_url("127.0.0.1:8000/v1/")
    'http://127.0.0.1:8000'
    """
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError as error:
        raise InputError(f"'{text}' is no address ({error})", where="--server") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"'{text}' is no address of a server", where="--server",
            remedy="give one such as http://127.0.0.1:8000",
        )  # fmt: skip
    path = re.sub(r"/v1/?$", "", parts.path).rstrip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def parse_time(text: str) -> float:
    """Return a time in seconds.

    >>> parse_time("3m"), parse_time("90s"), parse_time("45")
    (180.0, 90.0, 45.0)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)?\s*", text)
    scale = {"s": 1.0, None: 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
    seconds = float(match[1]) * scale[match[2]] if match else 0.0
    if not LEAST_S <= seconds <= MOST_S:
        raise InputError(
            f"'{text}' is no time from 5 s to 24 h", where="--budget", remedy="give 90s or 3m"
        )
    return seconds


def parse_name(text: str | None) -> str | None:
    """Return a name that can be a file's.

    Raises
    ------
    InputError
        If it has other characters.
    """
    if text is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", text):
        raise InputError(
            f"'{text[:60]}' is no name of a file", where="--name",
            remedy="use letters, digits, dots and dashes",
        )  # fmt: skip
    return text
