"""Verify an engine's constants on its live server: predict first, seal, then measure.

All loads are predicted and their predictions hashed before a request is sent. None of the loads
were used to fit the constants. Besides the errors, the result says which single constant would have
to be wrong, and by how much, to explain them best.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from groundspeed.engine_fit.calibrate_server import KEY, Request, Target, require_alone
from groundspeed.engine_fit.choose import ALONE_REQUESTS, ROUNDS_OF_A_CLIENT
from groundspeed.engine_fit.client import ServerClient, run_load
from groundspeed.engine_fit.fit import METRICS, Array, Problem, workload
from groundspeed.engine_fit.loads import LoadSpec, Observation, observe, require_whole
from groundspeed.estimator.engines.own_engine import OwnEngine
from groundspeed.estimator.serving.server import Server
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

PROMPTS = (48, 200, 900, 3000)
CONCURRENCIES = (1, 3, 6, 12, 24, 48)
OUTPUT = 32
"""Sizes that no calibration uses."""

INSIDE_SHARE = 0.8
"""Share of measured values that must lie inside the predicted 90 % interval."""

LARGEST_FACTOR = 3.0
"""Largest factor on a constant that is tried as an explanation."""

LEAST_SHARE = 0.1
"""Least share of the squared errors that a constant must explain to be named."""


class Compared(Record):
    """A quantity that was predicted, then measured."""

    predicted: float
    low: float
    high: float
    measured: float

    @property
    def error(self) -> float:
        """[1] predicted / measured - 1."""
        return self.predicted / self.measured - 1.0

    @property
    def inside(self) -> bool:
        """Whether the measured value lies inside the predicted interval."""
        return self.low <= self.measured <= self.high


class VerifiedLoad(Record):
    """One load: times in ms, rate in tokens/s."""

    concurrency: int
    prompt_tokens: int
    output_tokens: int
    requests: int
    ttft_ms: Compared
    tpot_ms: Compared | None
    output_tok_s: Compared


class Suspect(Record):
    """A constant that would explain the errors if it were wrong."""

    constant: str
    factor: float
    """Measured constant over the one that was used."""
    explains: float
    """[1] Share of the squared log errors."""


class ServerVerification(Record):
    """Predictions of a server against measurements of it."""

    url: str
    engine_profile: str | None
    sealed_sha256: str
    """Hash of all predictions, taken before the first request."""
    loads: tuple[VerifiedLoad, ...]
    ttft_median_percent: float
    tpot_median_percent: float
    inside_share: float
    suspects: tuple[Suspect, ...]

    @property
    def passed(self) -> bool:
        """Whether enough measured values lie inside their intervals."""
        return self.inside_share >= INSIDE_SHARE


def unseen_loads(
    server: Server, own: OwnEngine | None, budget_s: float, longest: int | None
) -> list[LoadSpec]:
    """Return loads that were not used for the fit, as many as the time allows.

    Raises
    ------
    InputError
        If not even the shortest fits the time.
    """
    used = {(x.concurrency, x.prompt_tokens, x.output_tokens) for x in (own.loads if own else ())}
    problem = Problem(server)
    start = np.zeros(len(problem.names))
    timed = []
    refused: InputError | None = None
    for concurrency in CONCURRENCIES:
        for prompt in PROMPTS:
            if prompt + OUTPUT > (longest or 1_000_000_000):
                continue
            if concurrency > server.engine.max_sequences or (concurrency, prompt, OUTPUT) in used:
                continue
            requests = ALONE_REQUESTS if concurrency == 1 else ROUNDS_OF_A_CLIENT * concurrency
            load = LoadSpec(concurrency, prompt, OUTPUT, requests)
            try:
                timed.append((problem.predict(load, start).duration_s, load))
            except InputError as error:  # it does not fit the memory
                refused = refused or error
                continue
    chosen, left = [], budget_s
    for seconds, load in sorted(timed, key=lambda entry: entry[0]):
        if seconds > left:
            break
        left -= seconds
        chosen.append(load)
    if not chosen and refused is not None:
        raise refused
    if not chosen:
        raise InputError("no load is short enough for the time", where="--budget",
                         remedy="give more time")  # fmt: skip
    return chosen


def verify_server(
    request: Request,
    target: Target,
    own: OwnEngine | None,
    progress: Callable[[str], None] = lambda _: None,
) -> ServerVerification:
    """Predict loads on a live server, seal the predictions, and measure them.

    Raises
    ------
    InputError
        If the server is busy, refuses or dies.
    """
    server = target.server
    if own is not None:
        server = replace(server, engine=own.applied(server.engine))
    loads = unseen_loads(server, own, request.budget_s, target.facts.max_model_len)
    predictions = [server.predict(workload(load)) for load in loads]
    sealed = hashlib.sha256(
        json.dumps([p.model_dump(mode="json") for p in predictions], sort_keys=True).encode()
    ).hexdigest()
    key = os.environ.get(KEY)
    client = ServerClient(request.url, target.served_as, target.model.vocabulary, key=key)
    require_alone(request.url, key)
    seed = int(time.time()) % 1_000_000
    warm = LoadSpec(2, 64, 8, 4)
    run_load(client, warm.asked(seed), warm.concurrency, lambda _: None)
    done: list[Observation] = []
    for number, load in enumerate(loads, start=1):
        progress(f"load {number} of {len(loads)}: {load}")
        answers = run_load(client, load.asked(seed + number), load.concurrency, lambda _: None)
        require_whole(load, answers)
        done.append(observe(load, answers))
    verified = []
    for o, p in zip(done, predictions, strict=True):
        low, high = p.rate_factors
        tpot = None
        if p.tpot_s is not None and o.tpot_s is not None:
            tpot = Compared(
                predicted=p.tpot_s * 1e3, low=(p.tpot_low_s or 0.0) * 1e3,
                high=(p.tpot_high_s or 0.0) * 1e3, measured=o.tpot_s * 1e3,
            )  # fmt: skip
        rate = p.output_tokens_per_s
        verified.append(
            VerifiedLoad(
                concurrency=o.load.concurrency, prompt_tokens=o.load.prompt_tokens,
                output_tokens=o.load.output_tokens, requests=o.load.requests,
                ttft_ms=Compared(
                    predicted=p.ttft_s * 1e3, low=p.ttft_low_s * 1e3, high=p.ttft_high_s * 1e3,
                    measured=o.ttft_s * 1e3,
                ),
                tpot_ms=tpot,
                output_tok_s=Compared(
                    predicted=rate, low=rate * low, high=rate * high,
                    measured=o.output_tokens_per_s,
                ),
            )
        )  # fmt: skip
    compared = [c for v in verified for c in (v.ttft_ms, v.tpot_ms) if c is not None]
    return ServerVerification(
        url=request.url, engine_profile=own.name if own else None, sealed_sha256=sealed,
        loads=tuple(verified),
        ttft_median_percent=_median([v.ttft_ms for v in verified]),
        tpot_median_percent=_median([v.tpot_ms for v in verified if v.tpot_ms is not None]),
        inside_share=sum(c.inside for c in compared) / len(compared),
        suspects=tuple(suspects(server, done)),
    )  # fmt: skip


def _squares(problem: Problem, done: Sequence[Observation], theta: Array) -> float:
    """Return the sum of the squared log errors of all measured times."""
    total = 0.0
    for o in done:
        here = problem.predict(o.load, theta)
        for m in METRICS:
            value, measured = here.log(m), o.ttft_s if m == "ttft" else o.tpot_s
            if value is not None and measured:
                total += (value - math.log(measured)) ** 2
    return total


def _median(compared: Sequence[Compared]) -> float:
    return float(np.median([100.0 * abs(c.error) for c in compared])) if compared else 0.0


def suspects(server: Server, done: Sequence[Observation]) -> list[Suspect]:
    """Return the constants that alone would explain the errors best, the best first.

    Each is moved to where the squares of all log errors should be least, at most by
    :data:`LARGEST_FACTOR`, and the loads are predicted anew with it.
    """
    problem = Problem(server)
    start = np.zeros(len(problem.names))
    rows, errors = [], []
    for o in done:
        here, slopes = problem.slopes(o.load, start)
        for m in METRICS:
            value, measured = here.log(m), o.ttft_s if m == "ttft" else o.tpot_s
            if value is not None and measured:
                rows.append(slopes[m])
                errors.append(value - float(np.log(measured)))
    matrix, e = np.array(rows), np.array(errors)
    whole = float(e @ e)
    found = []
    for i, name in enumerate(problem.names):
        column = matrix[:, i]
        size = float(column @ column)
        if size < 1e-9 or whole <= 0.0:
            continue
        most = math.log(LARGEST_FACTOR)
        move = float(np.clip(-float(column @ e) / size, -most, most))
        theta = start.copy()
        theta[i] = move
        explained = 1.0 - _squares(problem, done, theta) / whole
        if explained >= LEAST_SHARE:
            found.append(Suspect(constant=name, factor=math.exp(move), explains=explained))
    return sorted(found, key=lambda s: -s.explains)[:3]
