"""TPOT and TTFT of a closed loop without simulating it: what the scheduler does, on average.

    TPOT = D + phi (b - 1) dP / (osl - 1)

``D`` is a decode step at the mean context, ``dP`` what one request's prefill adds to the others'
steps (mixed policy: the extra time of a mixed step; prefill first: a whole step in which decode
stands still). ``phi`` is the share of prefills that meet a running sequence: all (1), but a half
where lengths are fixed and prefills go first, for then requests run in lock-step.

    TTFT = (1 - w) own + w (own + (N - 1) P / 2) + request,     w = 1 / rounds

with the queue of the first round, when all clients send at once, and the small queues after it.
The forms are those found on published serving measurements; the simulation is the reference, and
both are held against each other in the tests. Saturation is not in them.
"""

import math
from dataclasses import dataclass

from groundspeed.estimator.engine import Engine
from groundspeed.estimator.step import StepTimes
from groundspeed.estimator.workload import PROMPTS_A_CLIENT, ServingWorkload


@dataclass(frozen=True)
class ClosedForm:
    """What the formulas say [s]."""

    ttft_s: float
    tpot_s: float

    @property
    def e2e_s(self) -> tuple[float, float]:
        """TTFT and TPOT, for those who add them up themselves."""
        return self.ttft_s, self.tpot_s


LOCK_STEP = 0.5
"""Share of prefills that meet a running sequence where fixed lengths keep requests in step."""


def closed_form(steps: StepTimes, engine: Engine, w: ServingWorkload, clients: int) -> ClosedForm:
    """Evaluate the formulas.

    Parameters
    ----------
    steps : StepTimes
    engine : Engine
    w : ServingWorkload
        A closed loop.
    clients : int
        Of one attention group.

    Returns
    -------
    ClosedForm
    """
    mean = (w.length_low + w.length_high) / 2.0
    fixed = w.length_low == w.length_high
    prompt = max(1.0, mean * w.prompt_tokens * (1.0 - w.cached_share))
    output = max(1.0, mean * w.output_tokens)
    context = mean * (w.prompt_tokens + w.output_tokens / 2.0)
    b = float(clients)
    budget = float(engine.token_budget)
    mixed = engine.policy == "mixed"
    room = max(budget - (b if mixed else 0.0), 1.0)
    decode = steps.decode_s(clients, context)
    together = min(max(math.floor(room / prompt), 1), clients)
    alone = steps.step_s(0, 0.0, prompt * together, float(together), 0.0) / together
    added = alone
    if mixed:
        beside = steps.step_s(clients, context, min(prompt * together, room), float(together), 0.0)
        chunks = max(1.0, prompt * together / room)
        added = chunks * (beside - decode) / together
    phi = LOCK_STEP if fixed and not mixed else 1.0
    tpot = decode / (1.0 + w.accepted_tokens)
    if output > 1.0:
        tpot += phi * (b - 1.0) * added / (output - 1.0)
    chunks = max(1.0, math.ceil(prompt / room))
    rounds = max((w.num_prompts or PROMPTS_A_CLIENT * w.concurrency) / w.concurrency, 1.0)
    first = 1.0 / rounds
    if not mixed:
        ttft = (
            alone * (b + together) / 2.0
            if fixed
            else _random(alone, decode, alone, b, output, first)
        )
    elif fixed:
        queued = together * added * (2.0 - together / b) + decode
        burst = chunks * decode + added + (b - 1.0) * added / 2.0
        ttft = (1.0 - first) * queued + first * burst
    else:
        ttft = _random(chunks * decode + added, decode, added, b, output, first)
    return ClosedForm(ttft_s=ttft + engine.costs.request_s, tpot_s=tpot)


def _random(
    own: float, decode: float, added: float, b: float, output: float, first: float
) -> float:
    """Random lengths: arrivals spread out, and a prompt meets a queue of load rho."""
    rho = b * added / (b * added + decode * output)
    steady = own + decode / 2.0 + added * rho / (2.0 * (1.0 - rho))
    return (1.0 - first) * steady + first * (own + (b - 1.0) * added / 2.0)
