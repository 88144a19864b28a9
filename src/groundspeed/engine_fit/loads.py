"""Loads, what came of them, and the journal in which every request is kept as it ends.

The journal has one JSON object a line: first what was measured on what, then each request with its
load, then the end of each load. A calibration that was killed finds its finished loads there and
continues; of a load that was cut off nothing is used, because its last requests ran with fewer
beside them, but nothing is deleted.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from groundspeed.engine_fit.client import Answered, Asked
from groundspeed.profiles.errors import InputError


@dataclass(frozen=True)
class LoadSpec:
    """A closed loop of clients with requests of one size, or an open loop of mean lengths."""

    concurrency: int
    prompt_tokens: int
    output_tokens: int
    requests: int
    rate_per_s: float | None = None
    """[1/s] Arrivals of an open loop, whose lengths are means; None: a closed loop."""

    def asked(self, seed: int) -> list[Asked]:
        """Return its requests; no two loads of a calibration have the same prompts."""
        return [
            Asked(self.prompt_tokens, self.output_tokens, seed * 100_003 + i)
            for i in range(self.requests)
        ]

    def __str__(self) -> str:
        return f"{self.concurrency} x {self.prompt_tokens} + {self.output_tokens}"


@dataclass(frozen=True)
class Observation:
    """What a load showed, with standard errors of the logarithms."""

    load: LoadSpec
    ttft_s: float
    tpot_s: float | None
    output_tokens_per_s: float
    ttft_error: float
    tpot_error: float
    itl_p99_s: float | None = None
    tokens_a_chunk: float = 1.0
    failed: int = 0


MOST_FAILED = 0.05
"""Largest share of requests that may fail in a load that is used."""


def require_whole(load: LoadSpec, answers: Sequence[Answered]) -> None:
    """Reject a load of which requests are missing, failed, or have other lengths.

    Raises
    ------
    InputError
        If it was not what was asked for: its times would be of another load.
    """
    good = [a for a in answers if not a.error]
    failed = load.requests - len(good)
    if failed > MOST_FAILED * load.requests:
        reason = next((a.error for a in answers if a.error), "they were not sent")
        raise InputError(
            f"{failed} of {load.requests} requests of the load {load} failed: {reason}"
        )
    short = next((a for a in good if a.tokens != a.output_tokens), None)
    if short is not None:
        raise InputError(
            f"an answer has {short.tokens} tokens instead of {short.output_tokens}: the server "
            "does not follow ignore_eos and max_tokens"
        )


def observe(load: LoadSpec, answers: Sequence[Answered]) -> Observation:
    """Summarize the requests of a load.

    Raises
    ------
    InputError
        If no request was answered.
    """
    good = [a for a in answers if not a.error]
    if not good:
        raise InputError(f"no request of the load {load} was answered: {answers[0].error}")
    ttft = np.array([a.ttft_s for a in good])
    tpot = np.array([t for a in good if (t := a.tpot_s) is not None and t > 0.0])
    gaps = np.array([g for a in good for g in a.gaps_s])
    span = max(a.last_s for a in good) - min(a.sent_s for a in good)
    return Observation(
        load,
        ttft_s=float(ttft.mean()),
        tpot_s=float(tpot.mean()) if tpot.size else None,
        output_tokens_per_s=sum(a.tokens for a in good) / max(span, 1e-9),
        ttft_error=_error(ttft),
        tpot_error=_error(tpot),
        itl_p99_s=float(np.quantile(gaps, 0.99)) if gaps.size else None,
        tokens_a_chunk=sum(a.tokens for a in good) / max(sum(a.chunks for a in good), 1),
        failed=len(answers) - len(good),
    )


LEAST_ERROR = 0.01
"""Least standard error of a mean: clocks, and drifts of the machine within minutes."""


def _error(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    if values.size < 2:
        return 0.1
    own = float(values.std(ddof=1) / values.mean() / values.size**0.5)
    return max(own, LEAST_ERROR)


class Journal:
    """The requests of a calibration, in a file that is written as they end.

    Parameters
    ----------
    path : Path
    head : dict
        What is measured on what; a journal of something else is not continued.
    fresh : bool
        Whether an existing journal is put aside and a new one begun.

    Raises
    ------
    InputError
        If the file cannot be written, or is a journal of something else.
    """

    def __init__(self, path: Path, head: dict[str, object], *, fresh: bool = False) -> None:
        self.path = path
        self.finished: dict[int, tuple[LoadSpec, list[Answered]]] = {}
        self.seen = -1
        """Highest number of a load, finished or cut off."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and fresh:
                path.replace(_put_aside(path))
            if path.exists():
                self._read(head)
            self._file = path.open("a", encoding="utf-8")
            if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
                self._file.write("\n")  # a killed run may have left half a line
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from error
        if path.stat().st_size == 0:
            self._write({"head": head})

    def _read(self, head: dict[str, object]) -> None:
        try:
            self._read_lines(head)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"is no journal of a calibration ({type(error).__name__}: {error})",
                where=str(self.path), remedy="give --fresh to begin anew",
            ) from error  # fmt: skip

    def _read_lines(self, head: dict[str, object]) -> None:
        current: dict[int, list[Answered]] = {}
        for line in _lines(self.path):
            self.seen = max(self.seen, int(line.get("load", -1)))
            if "head" in line and line["head"] != json.loads(json.dumps(head)):
                raise InputError(
                    "is a journal of another server, model or device",
                    where=str(self.path),
                    remedy="give another --name, or --fresh to begin anew",
                )
            if "request" in line:
                current.setdefault(line["load"], []).append(_answered(line["request"]))
            if "finished" in line:
                spec = LoadSpec(**line["finished"])
                if answers := current.get(line["load"], []):
                    self.finished[line["load"]] = (spec, answers)

    @property
    def next_load(self) -> int:
        """Number of the next load; that of one that was cut off is not used again."""
        return self.seen + 1

    def request(self, load: int, answer: Answered) -> None:
        """Keep a request that has ended."""
        self.seen = max(self.seen, load)
        self._write({"load": load, "request": asdict(answer)})

    def end(self, load: int, spec: LoadSpec, answers: Sequence[Answered]) -> None:
        """Keep that a load has ended, and make sure that it is on the disk."""
        self._write({"load": load, "finished": asdict(spec)})
        os.fsync(self._file.fileno())
        self.finished[load] = (spec, list(answers))

    def observations(self) -> list[Observation]:
        """Return what the finished loads showed, in their order."""
        return [observe(*self.finished[i]) for i in sorted(self.finished)]

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._file.close()


def _put_aside(path: Path) -> Path:
    """Return a name that is not taken for a journal that is put aside."""
    number = 1
    while (free := path.with_suffix(f"{path.suffix}.old{number}")).exists():
        number += 1
    return free


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue  # the last line of a killed run may be cut off
            if isinstance(found, dict):
                yield found


def _answered(value: dict[str, Any]) -> Answered:
    known = {f.name for f in fields(Answered)}
    kept: dict[str, Any] = {k: v for k, v in value.items() if k in known}
    kept["gaps_s"] = tuple(kept.get("gaps_s", ()))
    return Answered(**kept)
