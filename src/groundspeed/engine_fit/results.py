"""Fit an engine to results that a load tool has written, without sending a request.

Whoever has run ``vllm bench serve``, guidellm, aiperf or another tool at a few concurrencies and
prompt lengths has measured the engine already. Each result is a load; what the tool did not write
down (device, parallelism, often the engine) is stated.
"""

from collections.abc import Sequence
from pathlib import Path

from groundspeed.engine_fit.calibrate_server import (
    Request,
    Target,
    default_name,
    own_engine,
    plain_version,
)
from groundspeed.engine_fit.fit import Fit, Problem, fit
from groundspeed.engine_fit.loads import LoadSpec, Observation
from groundspeed.engine_fit.probe import ServerFacts
from groundspeed.estimator.backtest.columns import read_measurements
from groundspeed.estimator.backtest.values import integer, number, text
from groundspeed.estimator.deployment.build_server import build_server
from groundspeed.estimator.engines.engine import engine_name
from groundspeed.estimator.engines.own_engine import OwnEngine
from groundspeed.estimator.model.catalog import find_model
from groundspeed.profiles.errors import InputError

Row = dict[str, str]

ERRORS = {"ttft": 0.05, "tpot": 0.02}
"""Standard errors of the logarithms of means whose requests are not written down."""

REQUESTS_A_CLIENT = 10


def read_results(paths: Sequence[Path]) -> list[Row]:
    """Read the results of load tools or tables of measurements.

    Raises
    ------
    InputError
        If one cannot be read.
    """
    return [row for path in paths for row in read_measurements(path)]


def target_of_results(request: Request, rows: Sequence[Row]) -> Target:
    """Return how the server that was measured is modelled.

    Raises
    ------
    InputError
        If the engine or the model is neither written down nor stated.
    """
    said = {name: next((text(r, name) for r in rows if text(r, name)), "") for name in
            ("engine", "engine_version", "model")}  # fmt: skip
    engine = engine_name(request.engine or said["engine"])
    if not engine:
        raise InputError("the results do not say which engine was measured", where="--engine",
                         remedy="give --engine vllm, sglang or trtllm")  # fmt: skip
    named = request.model or said["model"]
    if not named:
        raise InputError("the results do not say which model was served", where="--model",
                         remedy="give --model with a name of the catalog")  # fmt: skip
    model = find_model(named)
    version = plain_version(said["engine_version"])
    options = request.engine_options(engine, version)
    server = build_server(model, request.gpu, options, profile_dir=request.profile_dir)
    facts = ServerFacts("", engine, version, (named,))
    name = request.name or default_name(engine, version, server.hardware.id)
    return Target(facts, model, named, server, options.token_budget is not None, name)


def observations_of(rows: Sequence[Row]) -> list[Observation]:
    """Return the load and the times of each result.

    Raises
    ------
    InputError
        If none has a time, a load and lengths.
    """
    found = []
    for row in rows:
        ttft, tpot = number(row, "ttft_ms"), number(row, "tpot_ms")
        clients, rate = integer(row, "batch_or_concurrency", 0), number(row, "request_rate")
        prompt, output = integer(row, "isl", 0), integer(row, "osl", 0)
        if not (ttft and (clients or rate) and prompt and output):
            continue
        requests = integer(row, "num_prompts", 0) or REQUESTS_A_CLIENT * max(clients, 1)
        load = LoadSpec(max(clients, 1), prompt, output, requests, rate if not clients else None)
        per_s = number(row, "output_tok_s") or 0.0
        found.append(
            Observation(
                load, ttft * 1e-3, tpot * 1e-3 if tpot else None, per_s, ERRORS["ttft"],
                ERRORS["tpot"],
            )
        )  # fmt: skip
    if not found:
        raise InputError(
            "no result has a TTFT, a concurrency or rate, and both lengths", where="--results",
            remedy="give results of vllm bench serve, guidellm, aiperf or a table for backtest",
        )  # fmt: skip
    return found


def fit_results(target: Target, observations: Sequence[Observation]) -> tuple[OwnEngine, Fit]:
    """Return the engine profile that results of load tools give."""
    fitted = fit(Problem(target.server), observations)
    own = own_engine(target, fitted, observations)
    return own.model_copy(update={"origin": "results"}), fitted
