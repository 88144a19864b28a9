"""A static batch: all sequences start together, with equal lengths, and end together.

    TTFT = one prefill pass over all prompts; it ends with the first token of each
    TPOT = mean of the decode steps at contexts prompt + 1 ... prompt + output - 1

The operators are evaluated at exactly these shapes, without the interpolation that simulations
need. An engine with a token budget prefills in as many steps as its budget requires.
"""

import numpy as np

from groundspeed.estimator.serving.parts import in_engine
from groundspeed.estimator.serving.scheduler import Outcome
from groundspeed.estimator.serving.step_tables import Part
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles.operations import Array

MOST_CONTEXTS = 64
"""Number of contexts at which decode steps are evaluated; their mean is that of all steps."""


def decode_contexts(w: Workload) -> Array:
    """Return contexts spread over all decode steps of a batch, (N,)."""
    steps = w.output_tokens - 1
    if not steps:
        return np.zeros(0)
    ends = (w.prompt_tokens + 1, w.prompt_tokens + steps)
    contexts: Array = np.unique(np.linspace(*ends, min(steps, MOST_CONTEXTS)).round())
    return contexts


def static_parts(steps: StepTimes, w: Workload, batch: int) -> tuple[list[Part], list[Part]]:
    """Return the groups of a decode step (mean over the contexts) and of the whole prefill."""
    graph = steps.graph
    contexts = decode_contexts(w)
    decode: list[Part] = []
    if contexts.size:
        sequences = np.full_like(contexts, float(batch))
        decode = in_engine(
            steps.parts(graph.decode_step(sequences, contexts, float(steps.rows_a_sequence))),
            steps, decode=True,
        )  # fmt: skip
        decode += steps.draft_parts(float(batch), float(contexts.mean()))
    fresh = np.array([w.prompt_tokens * (1.0 - w.cached)])
    prompts = np.array([float(batch)])
    operators = graph.prefill_step(prompts, fresh)
    prefill = in_engine(steps.parts(operators), steps, decode=False)
    return decode, prefill


def static_outcome(
    steps: StepTimes, w: Workload, batch: int, parts: tuple[list[Part], list[Part]]
) -> Outcome:
    """Return the times of a static batch, given its :func:`static_parts`."""
    decode, prefill = parts
    cached = w.prompt_tokens * w.cached
    if steps.engine.policy == "whole_batch" and not cached:
        first = steps.engine_step_s(prefill, 0)
    else:
        first = _in_budget(steps, w, batch, cached)
    tpot = 0.0
    if decode:
        tpot = steps.engine_step_s(decode, batch) / (1.0 + w.accepted_tokens)
    end = first + (w.output_tokens - 1) * tpot
    one = np.ones(batch)
    gaps = np.array([[tpot, 1.0]]) if decode else np.zeros((0, 2))
    return Outcome(0.0 * one, first * one, end * one, gaps, w.output_tokens * one, 0, end)


def _in_budget(steps: StepTimes, w: Workload, batch: int, cached: float) -> float:
    """Return the time to prefill all prompts in steps of the engine's token budget [s]."""
    fresh = w.prompt_tokens - cached
    budget = float(steps.engine.token_budget)
    if steps.engine.policy == "whole_batch":
        budget = float("inf")
    total, done, first = batch * fresh, 0.0, 0.0
    while done < total - 1e-6:
        chunk = min(budget, total - done)
        past = cached + (done % fresh if chunk < fresh else 0.0)
        first += steps.step_s(0, 0.0, chunk, max(1.0, chunk / fresh), past)
        done += chunk
    return first
