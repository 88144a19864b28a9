"""Calibrate the engine of a live server: probe, load, fit, write.

own = calibrate_server(Request(url="http://127.0.0.1:8000", model="qwen3-8b", gpu="h200-sxm"))
"""

import dataclasses
import datetime
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from groundspeed.engine_fit.choose import LEAST_LOADS, Candidate, candidates, next_load
from groundspeed.engine_fit.client import ServerClient, run_load
from groundspeed.engine_fit.fit import Fit, Problem, fit
from groundspeed.engine_fit.loads import Journal, LoadSpec, Observation, observe, require_whole
from groundspeed.engine_fit.probe import ServerFacts, connect, metrics, probe
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.engines.distance import distance
from groundspeed.estimator.engines.engine import engine_name, version_tuple
from groundspeed.estimator.engines.own_engine import FittedLoad, OwnEngine, engine_folder
from groundspeed.estimator.model.catalog import find_model
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.server import Server
from groundspeed.profiles.errors import InputError, did_you_mean

KEY = "GROUNDSPEED_API_KEY"
"""Environment variable with the key of the server; keys are not read from anywhere else."""

BUDGETS = {"mixed": (2048, 4096, 8192, 16_384), "prefill_first": (2048, 4096, 8192, 16_384)}
"""Tokens of a step that are tried where the server does not say them."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to calibrate: a server, what it runs, and how long it may take."""

    url: str
    gpu: str
    model: str | None = None
    """Model in the catalog or a config.json; None: the name that the server gives it."""
    options: ServerOptions = field(default_factory=ServerOptions)
    engine: str | None = None
    """Engine, where the server does not say it."""
    budget_s: float = 180.0
    name: str | None = None
    """Name of the engine profile; None: of engine, version and device."""
    fresh: bool = False
    profile_dir: Path | None = None

    def engine_options(self, engine: str, version: str) -> ServerOptions:
        """Return the options with the engine that was found."""
        return replace(self.options, engine=engine, engine_version=version)


@dataclass(frozen=True)
class Target:
    """A server that was asked what it is, and how it is modelled."""

    facts: ServerFacts
    model: Model
    served_as: str
    server: Server
    fixed_budget: bool
    """Whether the number of tokens of a step is known."""
    name: str


def find_target(request: Request) -> Target:
    """Ask a server what it is, and build its model.

    Raises
    ------
    InputError
        If it does not answer, or something is neither said by it nor stated.
    """
    facts = probe(request.url, os.environ.get(KEY))
    engine = engine_name(request.engine or facts.engine)
    if not engine:
        raise InputError(
            "does not say which engine it is", where=request.url,
            remedy="give --engine vllm, sglang or trtllm",
        )  # fmt: skip
    served_as = _served_as(request, facts)
    model = _model(request.model or served_as)
    most = facts.max_sequences
    if most is not None and facts.grouped and facts.dp:
        most = max(1, most // facts.dp)  # SGLang divides it among the groups
    options = replace(
        _ways(request.options, facts), engine=engine, engine_version=plain_version(facts.version),
        token_budget=request.options.token_budget or facts.token_budget,
        max_sequences=request.options.max_sequences or most,
    )  # fmt: skip
    server = build_server(model, request.gpu, options, profile_dir=request.profile_dir)
    name = request.name or default_name(engine, facts.version, server.hardware.id)
    return Target(facts, model, served_as, server, options.token_budget is not None, name)


def _ways(options: ServerOptions, facts: ServerFacts) -> ServerOptions:
    """Return the parallelism: what is stated, else what the server says of itself."""
    if facts.tp is None or (options.tp, options.pp, options.ep, options.dp) != (1, 1, 1, 1):
        return options
    # With attention in groups SGLang's tp_size counts all devices of a replica.
    groups = facts.dp if facts.grouped and facts.dp else 1
    return replace(options, tp=facts.tp // groups, dp=groups)


def _served_as(request: Request, facts: ServerFacts) -> str:
    """Return the name by which the server knows the model."""
    wanted = request.model
    if wanted is None or len(facts.models) == 1:
        return facts.models[0]
    for name in facts.models:
        if wanted.lower() in (name.lower(), name.lower().split("/")[-1]):
            return name
    raise InputError(
        f"serves several models and none is named '{wanted}'", where=request.url,
        remedy=did_you_mean(wanted, list(facts.models)),
    )  # fmt: skip


def _model(name: str) -> Model:
    try:
        return find_model(name)
    except InputError as error:
        raise InputError(
            f"the server's model '{name}' is not known", where="--model",
            remedy="give --model with a name of the catalog or its config.json",
        ) from error  # fmt: skip


def default_name(engine: str, version: str, hardware: str) -> str:
    """Return the name of an engine profile: engine, version and device."""
    return re.sub(r"[^a-z0-9.]+", "-", f"{engine}-{version}-{hardware}".lower()).strip("-")


def plain_version(text: str) -> str:
    """Return the numbers of a version, e.g. of ``0.32.0+cpu``; empty if it has none."""
    return ".".join(str(n) for n in version_tuple(text))


GAUGES = ("num_requests_running", "num_requests_waiting", "num_running_reqs", "num_queue_reqs")
"""Numbers of requests that vLLM and SGLang work on or queue."""

STALE_S = 40.0
"""[s] Longest time for which a gauge may lag: SGLang writes them only every 30 s when idle."""


def require_alone(url: str, key: str | None, *, patience_s: float = 0.0) -> None:
    """Raise an error if the server works on requests of others.

    Parameters
    ----------
    url : str
    key : str or None
    patience_s : float, default 0
        How long its gauges may go on counting our own requests.

    Raises
    ------
    InputError
        If it does.
    """
    began = time.monotonic()
    while True:
        with connect(url, key) as http:
            page = metrics(http)
        busy = sum(page.gauge(name) or 0.0 for name in GAUGES) if page is not None else 0.0
        if not busy:
            return
        if time.monotonic() - began >= patience_s:
            raise InputError(
                f"works on {busy:.0f} requests of others", where=url,
                remedy="wait until it is idle: their load would be taken for the engine's cost",
            )  # fmt: skip
        time.sleep(min(1.0, patience_s))


def calibrate_server(
    request: Request, target: Target, progress: Progress = lambda _: None
) -> tuple[OwnEngine, Fit, list[Observation]]:
    """Send loads until the constants are known or the time is up, and fit them.

    Parameters
    ----------
    request : Request
    target : Target
        See :func:`find_target`.
    progress : callable, optional
        Called with a line before each load. Not given: nothing is reported.

    Raises
    ------
    InputError
        If the server is busy, refuses or dies; finished loads stay in the journal.
    """
    key = os.environ.get(KEY)
    client = ServerClient(request.url, target.served_as, target.model.vocabulary, key=key)
    problem = Problem(target.server)
    head: dict[str, object] = {
        "url": request.url, "engine": target.server.engine.name, "version": target.facts.version,
        "model": target.model.id, "hardware": target.server.hardware.id,
        "deployment": dataclasses.asdict(target.server.deployment),
        "token_budget": target.server.engine.token_budget,
        "max_sequences": target.server.engine.max_sequences,
    }  # fmt: skip
    path = engine_folder() / f"{target.name}.journal.jsonl"
    require_alone(request.url, key)
    began = time.monotonic()
    # No run repeats the prompts of another one: they would be in the server's prefix cache.
    seed = secrets.randbelow(1_000_000)
    with Journal(path, head, fresh=request.fresh) as journal:
        done = journal.observations()
        fitted = fit(problem, done)
        known = candidates(problem, fitted.theta, request.budget_s, target.facts.max_model_len)
        if not (known or done):
            raise InputError("no load of this model is short enough for the time",
                             where="--budget", remedy="give more time")  # fmt: skip
        if not done:
            _warm_up(client, known, seed)
        while True:
            left = request.budget_s - (time.monotonic() - began)
            load = next_load(fitted, known, done, left)
            if load is None:
                break
            progress(f"load {len(done) + 1}: {_said(load)}; {max(left, 0.0):.0f} s left")
            number = journal.next_load
            answers = run_load(
                client, load.asked(seed + number + 1), load.concurrency,
                lambda answer, number=number: journal.request(number, answer),  # type: ignore[misc]
            )  # fmt: skip
            require_whole(load, answers)
            require_alone(request.url, key, patience_s=STALE_S)
            journal.end(number, load, answers)
            done.append(observe(load, answers))
            fitted = fit(problem, done)
            known = _moved(known, fitted)
    if not done:
        raise InputError("the first load is not short enough for the time", where="--budget",
                         remedy="give more time")  # fmt: skip
    fitted = _settled(target, fitted, done)
    return own_engine(target, fitted, done), fitted, done


def _warm_up(client: ServerClient, known: Sequence[Candidate], seed: int) -> None:
    """Send a few requests of which nothing is kept: first ones compile and allocate."""
    largest = max((c.load for c in known if c.load.concurrency <= 4),
                  key=lambda load: (load.concurrency, -load.prompt_tokens))  # fmt: skip
    load = LoadSpec(largest.concurrency, 64, 8, 2 * largest.concurrency)
    run_load(client, load.asked(seed), load.concurrency, lambda answer: None)


def _moved(known: Sequence[Candidate], fitted: Fit) -> list[Candidate]:
    """Return the candidates with derivatives where the constants now are, if they moved much."""
    if float(np.abs(fitted.theta).max(initial=0.0)) < 0.7:
        return list(known)
    found = []
    for c in known:
        here, rows = fitted.problem.slopes(c.load, np.round(fitted.theta, 1))
        found.append(Candidate(c.load, here.duration_s, rows))
    return found


def _settled(target: Target, fitted: Fit, done: Sequence[Observation]) -> Fit:
    """Try other numbers of tokens of a step where the server does not say its own."""
    if target.fixed_budget:
        return fitted
    best = fitted
    engine = target.server.engine
    longest = max(o.load.prompt_tokens * o.load.concurrency for o in done)
    for budget in BUDGETS.get(engine.policy, ()):
        if budget == engine.token_budget or min(budget, engine.token_budget) >= longest:
            continue  # no load was large enough to show the difference
        other = engine.model_copy(update={"token_budget": budget})
        trial = fit(Problem(replace(target.server, engine=other)), done)
        if trial.objective < best.objective - 2.0:
            best = trial
    return best


def _said(load: LoadSpec) -> str:
    clients = "1 client" if load.concurrency == 1 else f"{load.concurrency} clients"
    return f"{clients}, {load.prompt_tokens} prompt tokens, {load.output_tokens} output tokens"


def own_engine(target: Target, fitted: Fit, done: Sequence[Observation]) -> OwnEngine:
    """Return the engine profile of a fit."""
    engine, d = fitted.problem.server.engine, target.server.deployment
    factors = {m: fitted.factor(m) for m in ("tpot", "ttft")}
    if len(done) < LEAST_LOADS:
        # Too few to be left out in turn: then it is not better known than what was published.
        known = distance(engine, target.server.hardware.architecture, target.model)
        factors = {"tpot": max(factors["tpot"], known.tpot),
                   "ttft": max(factors["ttft"], known.ttft)}  # fmt: skip
    loads = tuple(
        FittedLoad(
            concurrency=o.load.concurrency, prompt_tokens=o.load.prompt_tokens,
            output_tokens=o.load.output_tokens, requests=o.load.requests,
            ttft_ms=round(o.ttft_s * 1e3, 3),
            tpot_ms=round(o.tpot_s * 1e3, 4) if o.tpot_s else None,
            predicted_ttft_ms=round(p.ttft_s * 1e3, 3),
            predicted_tpot_ms=round(p.tpot_s * 1e3, 4) if p.tpot_s else None,
        )
        for o, p in zip(done, fitted.predictions, strict=True)
    )  # fmt: skip
    notes = []
    if len(done) < LEAST_LOADS:
        notes.append(f"{len(done)} loads are too few to say how well the constants hold")
    failed = sum(o.failed for o in done)
    if failed:
        notes.append(f"{failed} requests failed and were left out")
    grouped = float(np.mean([o.tokens_a_chunk for o in done]))
    if grouped > 1.2:
        notes.append(f"the server sends {grouped:.1f} tokens at a time")
    return OwnEngine(
        name=target.name, engine=engine.name, engine_version=plain_version(target.facts.version),
        origin="load", date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        model=target.model.id, hardware=target.server.hardware.id,
        tp=d.tp, pp=d.pp, ep=d.ep, dp=d.dp, dtype=d.dtype, kv_dtype=d.kv_dtype,
        policy=engine.policy, token_budget=engine.token_budget,
        max_sequences=engine.max_sequences, flags=target.facts.flags,
        costs={n: float(f"{v:.4g}") for n, v in fitted.constants.items()},
        spread={n: round(v, 3) for n, v in fitted.spread.items()},
        tpot_factor=round(factors["tpot"], 3), ttft_factor=round(factors["ttft"], 3),
        loads=loads, notes=tuple(notes),
    )  # fmt: skip
