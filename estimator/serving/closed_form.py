"""Closed-form TPOT and TTFT of closed-loop loads: the scheduler's average effect, not simulated.

    TPOT = D + phi (b - 1) dP / (osl - 1)

``D`` is the time of a decode step at the mean context. ``dP`` is the time that the prefill of one
request adds to the steps of the others (policy "mixed": the extra time of a mixed step; policy
"prefill_first": a whole step during which decode pauses). ``phi`` is the fraction of prefills that
delay a running sequence: 1, except 0.5 for fixed lengths with "prefill_first", because requests
then run in lock-step.

    TTFT = (1 - w) own + w (own + (N - 1) P / 2) + request,     w = 1 / rounds

The second term is the queue of the first round, when all clients send at once; the first term
covers the short queues of the later rounds. The formulas were derived from published serving
measurements. The simulation is the reference, and the tests compare the two. Everything is computed
on arrays: a hundred thousand loads per second on one core.
"""

from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.estimator.serving.workload import PROMPTS_A_CLIENT
from groundspeed.profiles.operations import Array


@dataclass(frozen=True)
class Loads:
    """N closed-loop loads; every array has the shape (N,)."""

    prompt_tokens: Array
    output_tokens: Array
    """[tokens] Mean output length of the requests (``prompt_tokens``: mean prompt length)."""
    clients: Array
    """Number of clients per attention group."""
    fixed: bool = True
    """True if all requests of a load have the same length."""
    rounds: float = float(PROMPTS_A_CLIENT)
    """Number of requests that each client sends."""
    accepted_tokens: float = 0.0


@dataclass(frozen=True)
class ClosedForm:
    """Results of the formulas; every array has the shape (N,)."""

    ttft_s: Array
    tpot_s: Array
    requests_per_s: Array
    """[1/s] Request rate of one attention group."""


LOCK_STEP = 0.5
"""Fraction of prefills that delay a running sequence if fixed lengths keep requests in step."""


def closed_form(steps: StepTimes, engine: Engine, loads: Loads) -> ClosedForm:
    """Evaluate the formulas for TTFT, TPOT and the request rate.

    Parameters
    ----------
    steps : StepTimes
        Step times of the deployment.
    engine : Engine
        Scheduling policy and host costs.
    loads : Loads
        The loads to evaluate.

    Returns
    -------
    ClosedForm
        Saturation is not included: compare the number of clients with the number of sequences
        that the KV cache holds.
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
    more = np.maximum(output - 1.0, 1.0)
    late = np.minimum(engine.costs.stream_steps, 0.5 * more) * tpot
    tpot = tpot - late / more
    ttft = ttft + engine.costs.request_s + np.maximum(steps.launch_s - alone, 0.0) + late
    whole = ttft + tpot * np.maximum(output - 1.0, 0.0)
    return ClosedForm(ttft_s=ttft, tpot_s=tpot, requests_per_s=b / whole)
