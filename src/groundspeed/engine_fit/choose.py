"""Choose the next load of a calibration: the one that says most about the constants for its time.

The candidates are closed loops over concurrencies, prompt lengths and few output tokens, as far as
the server's limits and the time allow. A load with the derivatives J and the noise s shrinks the
volume of the constants' errors by

    gain = log det(1 + J C J' / s^2)

so the load with the most gain for each second is next. The first loads have one client, at a short
and at a long prompt: they show the engine itself, and whether the server works, before it is under
load. It ends when every candidate is predicted well enough, or the time is up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groundspeed.engine_fit.fit import METRICS, MODEL_ERROR, Array, Fit, Problem
from groundspeed.engine_fit.loads import LoadSpec, Observation
from groundspeed.profiles.errors import InputError

PROMPTS = (32, 128, 512, 2048, 8192, 32_768)
CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OUTPUTS = (16, 64, 128)

ROUNDS_OF_A_CLIENT = 4
"""Requests of each client in a load: the first ones meet an empty server."""
ALONE_REQUESTS = 6

LARGEST_SHARE = 0.25
"""Largest share of the time that one load may take."""

GOOD_ENOUGH = {"ttft": 0.06, "tpot": 0.02}
"""Standard deviations of the logarithms at which nothing more is to be learned."""

LEAST_LOADS = 8
"""Loads that are run in any case: whether the constants hold at other loads is not a matter of
their errors, and what is left out in turn says so."""

START_S = 0.3
"""[s] Time between two loads."""


@dataclass(frozen=True)
class Candidate:
    """A load that could be run, with what is predicted of it."""

    load: LoadSpec
    duration_s: float
    rows: dict[str, Array]


def candidates(
    problem: Problem, theta: Array, budget_s: float, longest: int | None
) -> list[Candidate]:
    """Return the loads that the server and the time allow.

    Parameters
    ----------
    problem : Problem
    theta : (N,) ndarray
        Where the derivatives are taken.
    budget_s : float
        Time of the whole calibration.
    longest : int or None
        Longest request that the server takes [tokens].

    Raises
    ------
    InputError
        If the model cannot be served as stated.
    """
    found = []
    refused: InputError | None = None
    for concurrency in CONCURRENCIES:
        if concurrency > problem.server.engine.max_sequences:
            break
        for prompt in PROMPTS:
            for output in OUTPUTS:
                if prompt + output > (longest or 1_000_000_000):
                    continue
                requests = ALONE_REQUESTS if concurrency == 1 else ROUNDS_OF_A_CLIENT * concurrency
                load = LoadSpec(concurrency, prompt, output, requests)
                try:
                    here = problem.predict(load, theta)
                    if here.duration_s > LARGEST_SHARE * budget_s or here.saturated:
                        continue
                    here, rows = problem.slopes(load, theta)
                except InputError as error:  # it does not fit the memory
                    refused = refused or error
                    continue
                found.append(Candidate(load, here.duration_s, rows))
    if not found and refused is not None:
        raise refused
    return found


def next_load(
    fitted: Fit,
    known: Sequence[Candidate],
    done: Sequence[Observation],
    left_s: float,
) -> LoadSpec | None:
    """Return the most telling load for its time, or None if there is none or none is needed."""
    tried = {o.load for o in done}
    open_ = [c for c in known if c.load not in tried]
    first = _first(open_, done)
    if first is not None:
        return first if _duration(first, known) < left_s else None
    if len(done) >= LEAST_LOADS and good_enough(fitted, known):
        return None
    best, most = None, 0.0
    # How much slower than predicted the server was so far tells how long a load will take.
    slower = np.median([o_s / max(c_s, 1e-9) for o_s, c_s in _durations(done, known)] or [1.0])
    for c in open_:
        seconds = c.duration_s * max(float(slower), 0.2) + START_S
        if seconds > left_s:
            continue
        matrix = np.array([c.rows[m] / MODEL_ERROR[m] for m in METRICS])
        inner = np.eye(len(METRICS)) + matrix @ fitted.covariance @ matrix.T
        gain = float(np.linalg.slogdet(inner)[1]) / seconds
        if gain > most:
            best, most = c.load, gain
    return best


def _first(open_: Sequence[Candidate], done: Sequence[Observation]) -> LoadSpec | None:
    """Return one of the first two loads: one client, a short prompt and a long one."""
    alone = sorted(
        (c.load for c in open_ if c.load.concurrency == 1 and c.load.output_tokens == OUTPUTS[0]),
        key=lambda load: load.prompt_tokens,
    )
    if len(done) >= 2 or not alone:
        return None
    return alone[0] if not done else alone[-1]


def _duration(load: LoadSpec, known: Sequence[Candidate]) -> float:
    return next(c.duration_s for c in known if c.load == load)


def _durations(
    done: Sequence[Observation], known: Sequence[Candidate]
) -> list[tuple[float, float]]:
    """Return the measured and the predicted time of each load that is done [s]."""
    predicted = {c.load: c.duration_s for c in known}
    found = []
    for o in done:
        if o.load in predicted and o.output_tokens_per_s > 0.0:
            tokens = o.load.requests * o.load.output_tokens
            found.append((tokens / o.output_tokens_per_s, predicted[o.load]))
    return found


def good_enough(fitted: Fit, known: Sequence[Candidate]) -> bool:
    """Return whether the constants' errors leave every candidate predicted well."""
    return all(
        float(np.sqrt(c.rows[m] @ fitted.covariance @ c.rows[m])) < GOOD_ENOUGH[m]
        for c in known
        for m in METRICS
    )
