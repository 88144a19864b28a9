"""Fit the constants of an engine to loads on a server, by comparing with the simulated scheduler.

Each constant is a multiple of what is published of the engine, with a prior on its logarithm. The
simulated scheduler predicts TTFT and TPOT of every load; Gauss-Newton moves the constants until the
logarithms of predicted and measured agree, weighted by the errors of both:

    theta <- theta - (J' W J + P)^-1 (J' W r + P theta)

The inverse is the covariance of the constants. It is what says which load to run next: the one that
shrinks the errors of all loads most for its time. Loads far off count less (Student's t), so one
disturbed by something else does not bend the constants.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from groundspeed.engine_fit.loads import LoadSpec, Observation
from groundspeed.engine_fit.priors import PRIOR, own_spread, relevant
from groundspeed.estimator.backtest.row_server import VARIED
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload

Array = NDArray[np.float64]

METRICS = ("ttft", "tpot")

MODEL_ERROR = {"ttft": 0.05, "tpot": 0.02}
"""[1] What the simulated scheduler does not know of one load, in log time: the phases of arrivals,
the shapes between two points of a law."""

FREEDOM = 4.0
"""Degrees of freedom of Student's t: the weight of a load at three spreads is a third."""

ROUNDS = 12
STEP = {"stream_steps": 0.2, "launch_s": 0.15}
"""Steps of the numerical derivatives where a prediction is not smooth; else 0.05."""

LARGEST_MOVE = 1.0
"""Largest change of the logarithm of a constant in one round."""

CLIENT_DELAY_S = 0.001
"""[s] What the load's own client takes between an answer and the next request."""

MOST_SIMULATED = 1000
"""Most requests of an open loop that are simulated."""

COVERED = 0.9


def workload(load: LoadSpec) -> Workload:
    """Return a load as the simulated scheduler takes it."""
    if load.rate_per_s is not None:
        return Workload(
            load.prompt_tokens, load.output_tokens, kind="poisson", length_low=VARIED[0],
            length_high=VARIED[1], request_rate_per_s=load.rate_per_s,
            num_prompts=min(load.requests, MOST_SIMULATED),
        )  # fmt: skip
    return Workload(
        load.prompt_tokens, load.output_tokens, load.concurrency, num_prompts=load.requests,
        client_delay_s=CLIENT_DELAY_S,
    )  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """Predicted times of a load [s]."""

    ttft_s: float
    tpot_s: float | None
    duration_s: float
    saturated: bool

    def log(self, metric: str) -> float | None:
        """Return the logarithm of a metric; None if there is none, or it is a queue's length."""
        value = self.ttft_s if metric == "ttft" else self.tpot_s
        if value is None or (metric == "ttft" and self.saturated):
            return None
        return math.log(value)


class Problem:
    """A server whose constants are sought.

    Parameters
    ----------
    server : Server
        With the published constants of its engine, and its limits.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.names = relevant(server, Workload())
        costs = server.engine.costs
        self.start = {n: getattr(costs, n) or PRIOR[n][0] for n in self.names}
        self.width = np.array([own_spread(n) for n in self.names])
        self._slopes: dict[tuple[LoadSpec, bytes], tuple[Prediction, dict[str, Array]]] = {}

    def constants(self, theta: Array) -> dict[str, float]:
        """Return the constants at a point."""
        return {
            n: self.start[n] * math.exp(float(t)) for n, t in zip(self.names, theta, strict=True)
        }

    def engine(self, theta: Array) -> Engine:
        """Return the engine with the constants at a point."""
        engine = self.server.engine
        costs = engine.costs.model_copy(update=self.constants(theta))
        return engine.model_copy(update={"costs": costs})

    def predict(self, load: LoadSpec, theta: Array) -> Prediction:
        """Predict a load."""
        found = replace(self.server, engine=self.engine(theta)).predict(
            workload(load), checked=False
        )
        return Prediction(
            found.ttft_s, found.tpot_s, load.requests / found.requests_per_s, found.saturated
        )

    def slopes(self, load: LoadSpec, theta: Array) -> tuple[Prediction, dict[str, Array]]:
        """Return a prediction and the derivatives of its logarithms by the constants'."""
        key = (load, theta.tobytes())
        if key not in self._slopes:
            here = self.predict(load, theta)
            rows = {m: np.zeros(len(self.names)) for m in METRICS}
            for i, name in enumerate(self.names):
                by = STEP.get(name, 0.05)
                moved = theta.copy()
                moved[i] += by
                there = self.predict(load, moved)
                for m in METRICS:
                    a, b = here.log(m), there.log(m)
                    rows[m][i] = (b - a) / by if a is not None and b is not None else 0.0
            self._slopes[key] = here, rows
        return self._slopes[key]


@dataclass(frozen=True)
class Fit:
    """Fitted constants with their errors, and the loads that they came from."""

    problem: Problem
    theta: Array
    covariance: Array
    errors: dict[tuple[int, str], float]
    """Log of predicted / measured of each load (by its place) and metric."""
    left_out: dict[tuple[int, str], float]
    """The same, predicted without this load."""
    predictions: tuple[Prediction, ...]
    objective: float

    @cached_property
    def constants(self) -> dict[str, float]:
        """The constants."""
        return self.problem.constants(self.theta)

    @cached_property
    def spread(self) -> dict[str, float]:
        """Standard deviation of the logarithm of each constant."""
        sd = np.sqrt(np.diag(self.covariance))
        return {n: float(s) for n, s in zip(self.problem.names, sd, strict=True)}

    def factor(self, metric: str) -> float:
        """Return the 90 % factor of the errors of loads that were left out."""
        size = sorted(abs(e) for (_, m), e in self.left_out.items() if m == metric)
        if not size:
            return math.exp(2.0 * MODEL_ERROR[metric])
        rank = min(math.ceil(COVERED * (len(size) + 1)) - 1, len(size) - 1)
        return math.exp(max(size[rank], MODEL_ERROR[metric]))

    def uncertainty(self, load: LoadSpec, metric: str, at: Array) -> float:
        """Return the standard deviation of the logarithm of a prediction, from the constants."""
        _, rows = self.problem.slopes(load, at)
        return float(np.sqrt(rows[metric] @ self.covariance @ rows[metric]))


def _noise(o: Observation, metric: str) -> float:
    own = o.ttft_error if metric == "ttft" else o.tpot_error
    return math.hypot(own, MODEL_ERROR[metric])


def _measured(o: Observation, metric: str) -> float | None:
    value = o.ttft_s if metric == "ttft" else o.tpot_s
    return math.log(value) if value else None


def fit(problem: Problem, observations: Sequence[Observation]) -> Fit:
    """Fit the constants to what loads showed.

    Parameters
    ----------
    problem : Problem
    observations : sequence of Observation
        Not given any: the constants are those that are published, with the errors of the prior.
    """
    theta = np.zeros(len(problem.names))
    prior = np.diag(1.0 / problem.width**2)
    best: tuple[float, Array] | None = None
    damping = 1.0
    for _ in range(ROUNDS):
        rows, errors, weights, places = _system(problem, observations, theta)
        value = _objective(errors, weights, theta, prior)
        if best is not None and value > best[0] + 1e-9:
            theta = best[1] + 0.5 * (theta - best[1])  # the step was too long
            damping *= 0.5
            if damping < 0.05:
                break
            continue
        moved = best is None or float(abs(theta - best[1]).max(initial=0.0)) > 1e-3
        best = (value, theta)
        if not moved:
            break
        w = _robust(errors, weights)
        step = np.linalg.solve(rows.T * w @ rows + prior, rows.T @ (w * errors) + prior @ theta)
        theta = theta - np.clip(step, -LARGEST_MOVE, LARGEST_MOVE)
    theta = best[1] if best is not None else theta
    rows, errors, weights, places = _system(problem, observations, theta)
    w = _robust(errors, weights)
    covariance = np.linalg.inv(rows.T * w @ rows + prior)
    # A model that misses its own loads is less certain than their number says.
    free = len(errors) - len(problem.names)
    excess = float(np.sum(w * errors**2)) / free if free > 0 else 1.0
    hat = np.einsum("ij,jk,ik->i", rows, covariance, rows) * w if len(errors) else np.zeros(0)
    left = errors / np.maximum(1.0 - hat, 0.1)
    return Fit(
        problem, theta, np.asarray(covariance * max(1.0, excess), dtype=np.float64),
        errors=dict(zip(places, errors.tolist(), strict=True)),
        left_out=dict(zip(places, left.tolist(), strict=True)),
        predictions=tuple(problem.predict(o.load, theta) for o in observations),
        objective=_objective(errors, weights, theta, prior),
    )  # fmt: skip


def _system(
    problem: Problem, observations: Sequence[Observation], theta: Array
) -> tuple[Array, Array, Array, list[tuple[int, str]]]:
    """Return derivatives, log errors, inverse variances and places of all measured times."""
    rows, errors, weights, places = [], [], [], []
    for i, o in enumerate(observations):
        here, slopes = problem.slopes(o.load, theta)
        for m in METRICS:
            predicted, measured = here.log(m), _measured(o, m)
            if predicted is None or measured is None:
                continue
            rows.append(slopes[m])
            errors.append(predicted - measured)
            weights.append(1.0 / _noise(o, m) ** 2)
            places.append((i, m))
    shape = (len(errors), len(problem.names))
    return np.array(rows).reshape(shape), np.array(errors), np.array(weights), places


def _robust(errors: Array, weights: Array) -> Array:
    found: Array = weights * (FREEDOM + 1.0) / (FREEDOM + weights * errors**2)
    return found


def _objective(errors: Array, weights: Array, theta: Array, prior: Array) -> float:
    loss = (FREEDOM + 1.0) * np.log1p(weights * errors**2 / FREEDOM)
    return float(loss.sum() + theta @ prior @ theta)
