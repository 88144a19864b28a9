"""Read traces in the formats that people have.

- A table with the columns ``arrival_s``, ``isl`` and ``osl``, or those of BurstGPT
  (``Timestamp``, ``Request tokens``, ``Response tokens``).
- JSON lines of Mooncake and aiperf: ``timestamp`` [ms], ``input_length``, ``output_length``,
  ``hash_ids``; turns of a session (``session_id``) without a timestamp are sent ``delay`` [ms]
  after the answer to the turn before, with all that was said before in front of them.
- JSON lines of Alibaba's Bailian: ``timestamp`` [s], ``chat_id``, ``parent_chat_id``.
- The detailed result of ``vllm bench serve --save-detailed``: ``input_lens``, ``output_lens`` and
  ``start_times`` [s] of every request.

The size of a block is not written in a trace; it follows from the lengths and numbers of blocks.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from groundspeed.estimator.traffic.trace import Trace, TraceRequest
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import read_rows

SESSION_BLOCK = 16
"""[tokens] Size of the blocks that stand for the history of a session."""

TABLES = (("arrival_s", "isl", "osl"), ("Timestamp", "Request tokens", "Response tokens"))
"""Columns of tables: arrival [s], prompt tokens, output tokens."""

REMEDY = (
    "give a CSV table with arrival_s, isl and osl, JSON lines with timestamp, input_length and "
    "output_length (Mooncake, aiperf, Bailian), or the JSON of vllm bench serve --save-detailed"
)

Item = Mapping[str, Any]


def read_trace(path: Path) -> Trace:
    """Read the requests of a trace, by arrival.

    Raises
    ------
    InputError
        If the format is not known, or a request lacks a length or an arrival.
    """
    if path.suffix in (".csv", ".gz", ".tsv", ".txt"):
        return _ordered(_of_table(path), str(path))
    items = _items(path)
    if len(items) == 1 and "input_lens" in items[0]:
        return _ordered(_of_vllm(items[0], str(path)), str(path))
    if items and "chat_id" in items[0]:
        return _of_lines(items, str(path), unit_s=1.0)
    if any("session_id" in i for i in items):
        return _of_sessions(items, str(path))
    return _of_lines(items, str(path), unit_s=1e-3)


def _items(path: Path) -> list[Item]:
    """Return the objects of a file of JSON lines, or the one of a JSON file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=str(path)) from error
    try:
        whole = json.loads(text)
        found = whole if isinstance(whole, list) else [whole]
    except ValueError:
        found = []
        for line, each in enumerate(text.splitlines(), start=1):
            if not each.strip():
                continue
            try:
                found.append(json.loads(each))
            except ValueError as error:
                raise InputError(
                    f"is not JSON ({error})", where=f"{path}, line {line}", remedy=REMEDY
                ) from error
    if not found or not all(isinstance(item, dict) for item in found):
        raise InputError("has no requests", where=str(path), remedy=REMEDY)
    return found


def _of_table(path: Path) -> list[TraceRequest]:
    requests = []
    for line, row in enumerate(read_rows(path), start=2):
        names = next((t for t in TABLES if t[0] in row), TABLES[0])
        where = f"{path}, line {line}"
        try:
            arrival, isl, osl = (float(row[name]) for name in names)
        except (KeyError, ValueError) as error:
            raise InputError(
                f"every row needs a number in {', '.join(names[:2])} and {names[2]} ({error})",
                where=where,
                remedy=REMEDY,
            ) from error
        if osl > 0.0 or names is TABLES[0]:  # in BurstGPT, what failed has no answer
            requests.append(_request(arrival, isl, osl, where))
    return requests


def _of_vllm(item: Item, where: str) -> list[TraceRequest]:
    columns = [item.get(name) for name in ("start_times", "input_lens", "output_lens")]
    if not all(isinstance(c, list) and c for c in columns):
        raise InputError(
            "lacks start_times, input_lens or output_lens", where=where,
            remedy="run vllm bench serve with --save-result --save-detailed",
        )  # fmt: skip
    try:
        starts, prompts, outputs = ([float(v) for v in c] for c in columns if c is not None)
    except (TypeError, ValueError) as error:
        raise InputError(f"has lengths that are no numbers ({error})", where=where) from error
    first = min(starts)
    return [
        _request(t - first, isl, osl, f"{where}, request {i}")
        for i, (t, isl, osl) in enumerate(zip(starts, prompts, outputs, strict=False), start=1)
        if osl  # a request that failed has no output
    ]


def _of_lines(items: Sequence[Item], where: str, unit_s: float) -> Trace:
    requests, place, parents = [], {}, []
    for line, item in enumerate(items, start=1):
        arrival, isl, osl = _fields(item, f"{where}, line {line}", "timestamp")
        request = _request(arrival * unit_s, isl, osl, f"{where}, line {line}")
        try:
            blocks = tuple(int(b) for b in item.get("hash_ids") or ())
            place[item.get("chat_id")] = line - 1
        except (TypeError, ValueError) as error:
            raise InputError(
                f"hash_ids must be whole numbers and chat_id a name ({error})",
                where=f"{where}, line {line}",
            ) from error
        requests.append(request._replace(blocks=blocks))
        parents.append(item.get("parent_chat_id"))
    order = sorted(range(len(requests)), key=lambda i: requests[i].arrival_s)
    new = {old: i for i, old in enumerate(order)}
    found = []
    for old in order:
        before = place.get(parents[old]) if parents[old] not in (None, -1) else None
        known = before is not None and new[before] < new[old]
        found.append(requests[old]._replace(before=new[before] if known else -1))  # type: ignore[index]
    return Trace(tuple(found), block_size(found, where))


def _of_sessions(items: Sequence[Item], where: str) -> Trace:
    """Read turns whose prompts follow all that was said before in their session."""
    fresh: Callable[[], int] = count().__next__
    last: dict[object, int] = {}
    history: dict[object, tuple[int, tuple[int, ...]]] = {}
    requests: list[TraceRequest] = []
    for line, item in enumerate(items, start=1):
        at = f"{where}, line {line}"
        session = item.get("session_id", ("alone", line))
        before = last.get(session, -1)
        waits = before >= 0 and "timestamp" not in item
        name = "delay" if waits else "timestamp"
        arrival, isl, osl = _fields({"timestamp": 0.0, "delay": 0.0, **item}, at, name)
        said, blocks = history.get(session, (0, ()))
        request = _request(arrival * 1e-3, said + isl, osl, at)
        need = -(-request.prompt_tokens // SESSION_BLOCK)
        # A block that the answer before filled in part is a new one.
        kept = blocks[: said // SESSION_BLOCK]
        own = kept + tuple(fresh() for _ in range(need - len(kept)))
        last[session] = len(requests)
        whole = request.prompt_tokens + request.output_tokens
        answer = tuple(fresh() for _ in range(whole // SESSION_BLOCK - len(own)))
        history[session] = (whole, (own + answer)[: whole // SESSION_BLOCK])
        requests.append(request._replace(blocks=own, before=before, waits=waits))
    return Trace(tuple(requests), SESSION_BLOCK)


def _fields(item: Item, where: str, arrival: str) -> tuple[float, float, float]:
    names = (arrival, "input_length", "output_length")
    try:
        return tuple(float(item[n]) for n in names)  # type: ignore[return-value]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"a request needs numbers in {', '.join(names)} ({error})", where=where, remedy=REMEDY
        ) from error


def _request(arrival: float, isl: float, osl: float, where: str) -> TraceRequest:
    if not (math.isfinite(arrival) and 0.0 <= arrival < 1e9 and 1 <= isl < 1e9 and 1 <= osl < 1e9):
        raise InputError(
            f"an arrival must be at least 0 s and both lengths at least 1 token, not {arrival:g}, "
            f"{isl:g} and {osl:g}",
            where=where,
        )
    return TraceRequest(arrival, int(isl), int(osl))


def _ordered(requests: Iterable[TraceRequest], where: str) -> Trace:
    found = tuple(sorted(requests))
    if not found:
        raise InputError("has no requests", where=where, remedy=REMEDY)
    return Trace(found)


def block_size(requests: Sequence[TraceRequest], where: str) -> int:
    """Return the number of tokens of a block that fits the length of every prompt; 0: no blocks.

    A prompt of ``n`` blocks of ``B`` tokens has more than ``(n - 1) B`` and at most ``n B`` tokens.

    Raises
    ------
    InputError
        If no size fits.
    """
    known = [(r.prompt_tokens, len(r.blocks)) for r in requests if r.blocks]
    if not known:
        return 0
    least = max(-(-tokens // n) for tokens, n in known)
    most = min(((tokens - 1) // (n - 1) for tokens, n in known if n > 1), default=least)
    power = 1 << (least - 1).bit_length()
    size = power if least <= power <= most else least
    if size > most:
        raise InputError(
            f"the numbers of hash_ids do not fit the lengths: blocks of at least {least} and at "
            f"most {most} tokens",
            where=where,
        )
    return size
