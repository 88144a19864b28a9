"""TPOT and TTFT of closed loops without simulating them: what the scheduler does, on average.

    TPOT = D + phi (b - 1) dP / (osl - 1)

``D`` is a decode step at the mean context, ``dP`` what one request's prefill adds to the others'
steps (mixed policy: the extra time of a mixed step; prefill first: a whole step in which decode
stands still). ``phi`` is the share of prefills that meet a running sequence: all (1), but a half
where lengths are fixed and prefills go first, for then requests run in lock-step.

    TTFT = (1 - w) own + w (own + (N - 1) P / 2) + request,     w = 1 / rounds

with the queue of the first round, when all clients send at once, and the small queues after it.
The forms are those found on published serving measurements; the simulation is the reference, and
both are held against each other in the tests. Everything is arrays: a hundred thousand loads a
second on one core.
"""

from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.estimator.serving.workload import PROMPTS_A_CLIENT
from groundspeed.profiles.operations import Array


@dataclass(frozen=True)
class Loads:
    """N closed loops; all (N,)."""

    prompt_tokens: Array
    output_tokens: Array
    """Means over the requests."""
    clients: Array
    """Of one attention group."""
    fixed: bool = True
    """Whether all requests of a loop have one length."""
    rounds: float = float(PROMPTS_A_CLIENT)
    """Requests that each client sends."""
    accepted_tokens: float = 0.0


@dataclass(frozen=True)
class ClosedForm:
    """What the formulas say; all (N,)."""

    ttft_s: Array
    tpot_s: Array
    requests_per_s: Array
    """Of one attention group."""


LOCK_STEP = 0.5
"""Share of prefills that meet a running sequence where fixed lengths keep requests in step."""


def closed_form(steps: StepTimes, engine: Engine, loads: Loads) -> ClosedForm:
    """Evaluate the formulas.

    Parameters
    ----------
    steps : StepTimes
    engine : Engine
    loads : Loads

    Returns
    -------
    ClosedForm
        Saturation is not in it: hold the clients against what the cache holds.
    """
    prompt, output, b = loads.prompt_tokens, loads.output_tokens, loads.clients
    context = prompt + output / 2.0
    none = np.zeros_like(b)
    mixed = engine.policy == "mixed"
    room = np.maximum(engine.token_budget - (b if mixed else 0.0), 1.0)
    decode = steps.step_many(b, context, none, np.ones_like(b))
    together = np.clip(np.floor(room / prompt), 1.0, b)
    alone = steps.step_many(none, none, prompt * together, together) / together
    chunks = np.maximum(1.0, np.ceil(prompt / room))
    added = alone
    if mixed:
        part = np.minimum(prompt * together, room)
        beside = steps.step_many(b, context, part, together)
        added = np.maximum(1.0, prompt * together / room) * (beside - decode) / together
    phi = LOCK_STEP if loads.fixed and not mixed else 1.0
    queue = phi * (b - 1.0) * added / np.maximum(output - 1.0, 1.0)
    tpot = decode / (1.0 + loads.accepted_tokens) + np.where(output > 1.0, queue, 0.0)
    first = 1.0 / max(loads.rounds, 1.0)
    if loads.fixed and not mixed:
        ttft = alone * (b + together) / 2.0
    elif loads.fixed:
        queued = together * added * (2.0 - together / b) + decode
        burst = chunks * decode + added + (b - 1.0) * added / 2.0
        ttft = (1.0 - first) * queued + first * burst
    else:
        own = chunks * decode + added if mixed else alone
        rho = b * added / (b * added + decode * output)
        steady = own + decode / 2.0 + added * rho / (2.0 * (1.0 - rho))
        ttft = (1.0 - first) * steady + first * (own + (b - 1.0) * added / 2.0)
    ttft = ttft + engine.costs.request_s
    whole = ttft + tpot * np.maximum(output - 1.0, 0.0)
    return ClosedForm(ttft_s=ttft, tpot_s=tpot, requests_per_s=b / whole)
