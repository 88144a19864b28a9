"""Speculative decoding: a cheap draft proposes tokens, and one step of the model verifies them.

A step then computes ``1 + k`` tokens of each sequence and keeps one more than it accepts. If each
draft token is accepted with probability ``a`` where those before it were, it gains

    1 + a + a^2 + ... + a^k     tokens of 1 + k.

The draft costs time before every step (``k`` times one pass of it, one after the other), memory
for its weights and its own cache, and a pass over each prompt. Three kinds are known: a *head* of
one or more layers like the model's own (multi-token prediction, EAGLE), a *draft model*, and a
look-up in the prompt (n-grams), which costs nothing on the GPU (no layers).

Acceptance is a property of the text, not of the machine. Where it is not stated, :data:`UNSTATED`
says what published servers reach, with the range that widens the interval of TPOT.
"""

import dataclasses
import math
from dataclasses import dataclass

from groundspeed.estimator.deployment.deployment import Deployment, require_valid
from groundspeed.estimator.deployment.memory import Memory
from groundspeed.estimator.deployment.stored import cache_bytes, end_bytes, weight_bytes
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.catalog import find_model
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.step_time import Drafter, StepTimes, step_graph
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles.errors import InputError


@dataclass(frozen=True)
class Unstated:
    """What to assume of speculation that is not described."""

    drafted_tokens: int
    acceptance: float
    low: float
    high: float
    """Ends of the range in which nine of ten servers lie, as probabilities like ``acceptance``."""


OWN_DRAFTS = ("head", "ngram")
"""Drafts that are no model of their own."""

UNSTATED = Unstated(drafted_tokens=3, acceptance=0.63, low=0.39, high=0.85)
"""2.3 tokens a step (1.6 to 3.0): the median and the middle nine tenths of 41 published sweeps with
multi-token prediction or EAGLE whose acceptance is not stated, each relative to the same model,
GPU and engine without speculation (InferenceX, 2025 to 2026)."""


def speculate(
    w: Workload, drafted_tokens: int, acceptance: float | None = None, draft: str = "head"
) -> Workload:
    """Return a load that is served with speculation.

    Parameters
    ----------
    w : Workload
    drafted_tokens : int
        Tokens drafted for each sequence and step; 0: no speculation.
    acceptance : float, optional
        Probability that one is accepted, given that those before it were. Not given: what
        published servers reach, with its range.
    draft : str, default 'head'
        ``head``, ``ngram``, or the name of a draft model.

    Raises
    ------
    InputError
        If the draft model is unknown.
    """
    if not drafted_tokens:
        return w
    unstated = None
    if acceptance is None:
        acceptance, unstated = UNSTATED.acceptance, (UNSTATED.low, UNSTATED.high)
    model = find_model(draft) if draft not in OWN_DRAFTS else None
    return dataclasses.replace(
        w, drafted_tokens=drafted_tokens, acceptance=acceptance, acceptance_range=unstated,
        draft_layers=0 if draft == "ngram" else 1, draft_model=model,
    )  # fmt: skip


def described(w: Workload) -> str:
    """Describe the speculation of a load: what drafts, and what is gained."""
    what = "a head like one of its layers" if w.draft_layers else "n-grams of the prompt"
    if w.draft_model is not None:
        what = w.draft_model.id
    gain = 1.0 + w.accepted_tokens
    text = f"{w.drafted_tokens} tokens drafted by {what}, {gain:.2f} gained a step"
    if w.acceptance_range is None:
        return text
    least, most = (1.0 + gained(w.drafted_tokens, a) for a in w.acceptance_range)
    return f"{text} (not given; published servers gain {least:.1f} to {most:.1f})"


def drafter(
    w: Workload,
    model: Model,
    deployment: Deployment,
    engine: Engine,
    hardware: Hardware,
    most: int,
) -> Drafter:
    """Return what proposes the tokens of a load; most : largest number of sequences in a step."""
    if w.draft_model is None:
        share = w.draft_layers / model.layers
        return Drafter(w.drafted_tokens, share, w.draft_layers * engine.costs.layer_s)
    own = _alone(deployment)
    require_valid(w.draft_model, own)
    graph = step_graph(w.draft_model, own, engine)
    return Drafter(
        w.drafted_tokens, 0.0, 0.0, StepTimes(graph, hardware, engine, most, w.longest_tokens)
    )


def with_draft(memory: Memory, w: Workload, model: Model, deployment: Deployment) -> Memory:
    """Return the memory of a device that also holds the weights of the draft."""
    if not w.drafted_tokens:
        return memory
    if w.draft_model is not None:
        more = weight_bytes(w.draft_model, _alone(deployment))
    else:
        layers = weight_bytes(model, deployment) - end_bytes(model, deployment)
        more = w.draft_layers * layers * deployment.pp / model.layers
    return dataclasses.replace(memory, weight_bytes=memory.weight_bytes + more)


def cache_factor(w: Workload, model: Model, deployment: Deployment) -> float:
    """Return the cache of a sequence with that of the draft, relative to the model's alone."""
    if not w.drafted_tokens:
        return 1.0
    if w.draft_model is None:
        return 1.0 + w.draft_layers / model.layers
    tokens = w.longest_tokens
    draft = cache_bytes(w.draft_model, _alone(deployment), tokens)
    return 1.0 + draft / cache_bytes(model, deployment, tokens)


def acceptance_error(w: Workload) -> tuple[float, float]:
    """Return how far the unstated acceptance may move TPOT: logarithms, down and up, both >= 0."""
    if w.acceptance_range is None or not w.drafted_tokens:
        return 0.0, 0.0
    low, high = w.acceptance_range
    mean, least, most = (1.0 + gained(w.drafted_tokens, a) for a in (w.acceptance, low, high))
    return math.log(most / mean), math.log(mean / least)


def gained(drafted_tokens: int, acceptance: float) -> float:
    """Return the mean number of accepted tokens of a step.

    >>> round(gained(3, 0.7), 2)
    1.53
    """
    return sum(acceptance**i for i in range(1, drafted_tokens + 1))


def acceptance_of(drafted_tokens: int, tokens_per_step: float) -> float:
    """Return the probability of acceptance at which a step gains this many tokens.

    Raises
    ------
    InputError
        If no probability does: a step gains 1 to ``1 + drafted_tokens`` tokens.

    >>> round(acceptance_of(3, 2.53), 2)
    0.7
    """
    if not 1.0 <= tokens_per_step <= 1.0 + drafted_tokens:
        raise InputError(
            f"a step with {drafted_tokens} draft tokens gains 1 to {1 + drafted_tokens} tokens, "
            f"not {tokens_per_step:g}"
        )
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        below = 1.0 + gained(drafted_tokens, middle) < tokens_per_step
        low, high = (middle, high) if below else (low, middle)
    return high


def _alone(deployment: Deployment) -> Deployment:
    """Return the deployment of a draft model: sharded as the model is, in its own format."""
    return Deployment(tp=deployment.tp, kv_dtype=deployment.kv_dtype)
