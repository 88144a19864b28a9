"""Explain a server prediction in words: the cause of TTFT, the assumptions and the warnings."""

from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.estimator.serving.workload import PROMPTS_A_CLIENT, PartTime, ServingWorkload


def explain_ttft(
    steps: StepTimes, w: ServingWorkload, each: int, ttft_s: float, engine: Engine
) -> str:
    """Describe which of queueing, the request's own prefill and the host dominates TTFT."""
    prompt = w.prompt_tokens * (w.length_low + w.length_high) / 2.0 * (1.0 - w.cached_share)
    own = steps.step_s(0, 0.0, max(prompt, 1.0), 1.0, 0.0)
    if w.kind == "static":
        return f"the whole batch is prefilled first; one prompt alone takes {own * 1e3:.0f} ms"
    queue = max(ttft_s - own - engine.costs.request_s, 0.0)
    parts = {
        "waiting for other prompts": queue,
        "its own prefill": own,
        "the host": engine.costs.request_s,
    }
    most = max(parts, key=lambda k: parts[k])
    shown = ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in parts.items())
    return f"mostly {most} ({shown})"


def assumptions(w: ServingWorkload, engine: Engine) -> tuple[str, ...]:
    """List the assumptions of a prediction: engine, scheduling policy, lengths and statistic."""
    if w.kind == "static":
        return (f"static batch, {engine.title}",)
    lengths = (
        "all equal"
        if w.length_low == w.length_high
        else f"uniform between {w.length_low:g} and {w.length_high:g} times the nominal length"
    )
    prompts = w.num_prompts or PROMPTS_A_CLIENT * w.concurrency
    given = "" if w.num_prompts else " (default: ten per client)"
    policy = {
        "mixed": "chunked prefill mixed with decode",
        "prefill_first": "prefill before decode",
    }
    return (
        f"{policy.get(engine.policy, 'whole batches')}, {engine.token_budget} tokens per step",
        f"lengths {lengths}",
        f"{prompts} prompts{given}",
        f"{w.statistic} of requests",
    )


def serving_notes(
    hardware: Hardware,
    decode: tuple[PartTime, ...],
    prefill: tuple[PartTime, ...],
    saturated: bool,
    fit: int,
    w: ServingWorkload,
) -> tuple[str, ...]:
    """Return warnings: saturation, datasheet bounds and extrapolation."""
    notes = []
    if saturated:
        notes.append(
            f"saturated: the KV cache holds {fit} sequences of this length, but the concurrency is "
            f"{w.concurrency}; throughput is an upper bound, and TTFT is mostly queueing time"
        )
    if hardware.origin == "datasheet":
        notes.append("from datasheet peaks: an upper bound on speed that no real kernel reaches")
    outside = sorted({p.group for p in (*decode, *prefill) if p.extrapolated and p.share > 0.02})
    if outside:
        notes.append(f"extrapolated beyond the measured range: {', '.join(outside)}")
    return tuple(notes)
