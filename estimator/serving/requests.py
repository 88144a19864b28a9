"""Generate the requests of one group of sequences, and simulate as many of them as are needed.

A deployment has groups that decode independently (attention groups, pipeline batches, replicas).
Clients and arrivals are shared among them, and one group is simulated. With fewer clients than
groups some groups stand idle: rates are those of the *busy* groups, so one client never gets more
than its own tokens.

- *Closed loop*: a benchmark of N requests is simulated from its ramp-up to its ramp-down; of a long
  one the rounds in the middle are not simulated, but counted.
- *Open loop*: simulated until the mean TTFT has settled, or until it is clear that it never will
  because requests arrive faster than they are served.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.serving.scheduler import HANDLING_S, Load, Outcome
from groundspeed.estimator.serving.workload import PROMPTS_A_CLIENT, Workload
from groundspeed.estimator.traffic.prefix_cache import cached_tokens
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import Array

SIMULATED_ROUNDS = 5
"""Number of simulated rounds of a closed loop; the rounds in the middle are alike."""

FIRST_REQUESTS, MOST_REQUESTS = 250, 8000
"""Number of requests with which an open loop begins, doubled until it has settled."""

SETTLED = 0.03
"""Relative change of the mean TTFT by twice as many requests below which it has settled."""

LARGEST_BENCHMARK = 200_000
"""Most requests that are simulated: they take seconds and some hundred megabytes."""

PROVEN_FROM = 1000
"""Smallest number of requests that proves a saturation."""

GROWTH = 1.6
"""Ratio of mean TTFTs (twice the requests; last quarter over second quarter) that shows a queue
without end: it tends to 2 and 2.3 if the queue grows steadily, to 1 if it is stable."""


@dataclass(frozen=True)
class Simulated:
    """The simulated requests of one group, and what they stand for."""

    load: Load
    outcome: Outcome
    weights: Array
    """(N,) Number of requests of the benchmark that each simulated request stands for."""
    requests_per_s: float
    """[1/s] Of one group."""
    offered_per_s: float | None
    """[1/s] Arrivals at one group; None in a closed loop."""
    growing: bool
    """True if requests arrive faster than they are served."""


Run = Callable[[Load], Outcome]


def simulate_group(
    w: Workload,
    clients: int,
    busy: float,
    request_s: float,
    run: Run,
    capacity_tokens: float = math.inf,
) -> Simulated:
    """Simulate the requests of one group.

    Parameters
    ----------
    w : Workload
        The whole load.
    clients : int
        Number of clients (offline: of requests) of the group.
    busy : float
        Number of groups that share the load.
    request_s : float
        [s] Time that a request spends in the server before the scheduler sees it.
    run : callable
        Simulates the scheduler with some requests.
    capacity_tokens : float, default inf
        Size of the group's cache, for the prefixes that a trace shares.
    """
    if w.kind in ("poisson", "trace"):
        return _open_loop(w, busy, run, capacity_tokens)
    requested = (w.num_prompts or PROMPTS_A_CLIENT * w.concurrency) / busy
    count = max(clients, math.ceil(requested - 1e-9))
    if w.kind == "offline":
        count = clients
    simulated = min(count, SIMULATED_ROUNDS * clients) if w.kind == "closed" else count
    load = make_load(w, simulated, clients=clients)
    outcome = run(load)
    weights = np.ones(simulated)
    # What a request spends before the scheduler adds to every turn of a client.
    makespan = float(outcome.end_s.max()) + request_s * count / clients
    if count > simulated:
        middle = slice(clients, simulated - clients)
        weights[middle] = (count - 2.0 * clients) / (simulated - 2.0 * clients)
        e2e = outcome.end_s[middle] - outcome.arrival_s[middle] + load.delay_s
        makespan += (count - simulated) * float(e2e.mean()) / clients
    return Simulated(load, outcome, weights, count / max(makespan, 1e-9), None, growing=False)


def _open_loop(w: Workload, busy: float, run: Run, capacity_tokens: float) -> Simulated:
    if w.kind == "trace" or w.num_prompts:
        if w.trace is not None:
            load = _trace(w, busy, capacity_tokens)
        else:
            load = make_load(w, max(1, math.ceil((w.num_prompts or 1) / busy)), groups=busy)
        outcome = run(load)
        count = len(outcome.first_s)
        first = float(outcome.arrival_s.min())
        span = float(outcome.arrival_s.max()) - first
        arrived = count / span if span > 0.0 else None
        if w.request_rate_per_s is not None and w.trace is None:
            # The clock of random arrivals starts a gap before the first.
            first, arrived = 0.0, w.request_rate_per_s / busy
        per_s = count / max(float(outcome.end_s.max()) - first, 1e-9)
        growing = count >= PROVEN_FROM and _growth(outcome) > GROWTH
        return Simulated(load, outcome, np.ones(count), per_s, arrived, growing)
    offered = (w.request_rate_per_s or 1.0) / busy
    count, before = FIRST_REQUESTS, math.inf
    while True:
        load = make_load(w, count, groups=busy)
        outcome = run(load)
        mean = float((outcome.first_s - outcome.arrival_s).mean())
        growing = count >= PROVEN_FROM and mean > GROWTH * before and _growth(outcome) > GROWTH
        if growing or abs(mean / before - 1.0) < SETTLED or count >= MOST_REQUESTS:
            break
        count, before = 2 * count, mean
    per_s = min(offered, count / max(float(outcome.end_s.max()), 1e-9)) if growing else offered
    return Simulated(load, outcome, np.ones(count), per_s, offered, growing)


def _growth(outcome: Outcome) -> float:
    """Return the mean TTFT of the last quarter of the requests over that of the second quarter."""
    ttft = outcome.first_s - outcome.arrival_s
    quarter = len(ttft) // 4
    return float(ttft[-quarter:].mean() / max(ttft[quarter : 2 * quarter].mean(), 1e-12))


def make_load(
    w: Workload,
    count: int,
    *,
    clients: int | None = None,
    groups: float = 1.0,
) -> Load:
    """Draw ``count`` requests: of ``clients``, or arriving at a share of the workload's rate.

    Raises
    ------
    InputError
        If they are too many to simulate.
    """
    if count > LARGEST_BENCHMARK:
        raise InputError(
            f"a benchmark of {count:,} requests is too large to simulate",
            where="--concurrency, --num-prompts or --rate",
            remedy=f"at most {LARGEST_BENCHMARK:,} requests are; rates settle far earlier",
        )
    rng = np.random.default_rng(0)
    prompts, outputs = (
        _lengths(nominal, w.length_low, w.length_high, count, rng)
        for nominal in (w.prompt_tokens, w.output_tokens)
    )
    arrival = None
    if clients is None:
        scale = groups / (w.request_rate_per_s or 1.0)
        gaps = np.random.default_rng(2).exponential(scale, size=count)
        # The drawn gaps have the exact mean: no draw serves more tokens than arrive.
        arrival = np.cumsum(gaps * (scale / gaps.mean()))
    return Load(
        prompts, outputs, clients=clients, arrival_s=arrival, delay_s=w.client_delay_s,
        handling_s=HANDLING_S if w.kind == "closed" else 0.0,
        cached_tokens=prompts * w.cached, drafted_tokens=w.drafted_tokens, acceptance=w.acceptance,
    )  # fmt: skip


def _trace(w: Workload, busy: float, capacity_tokens: float) -> Load:
    if w.trace is None:
        raise AssertionError("called with a trace only")
    mine = w.trace.share(busy)
    arrival, prompts, outputs = (
        np.array([r[i] for r in mine.requests], dtype=np.float64) for i in range(3)
    )
    if w.cached_share is not None:
        cached = prompts * w.cached_share
    else:
        cached = np.array(cached_tokens(mine, capacity_tokens), dtype=np.float64)
    return Load(
        prompts, outputs, arrival_s=arrival, cached_tokens=cached,
        follows=tuple(r.before if r.waits else -1 for r in mine.requests),
        drafted_tokens=w.drafted_tokens, acceptance=w.acceptance,
    )  # fmt: skip


def _lengths(nominal: int, low: float, high: float, count: int, rng: np.random.Generator) -> Array:
    """Draw lengths as evenly spaced quantiles, shuffled: the mean is exact for any count."""
    if low == high:
        return np.full(count, max(1.0, round(nominal * low)))
    quantiles = (np.arange(count) + 0.5) / count
    drawn = np.maximum(np.round(nominal * (low + (high - low) * quantiles)), 1.0)
    return rng.permutation(drawn)
