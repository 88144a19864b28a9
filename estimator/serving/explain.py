"""Say in words what a prediction of a server depends on."""

from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.estimator.serving.workload import PROMPTS_A_CLIENT, PartTime, ServingWorkload


def explain_ttft(
    steps: StepTimes, w: ServingWorkload, each: int, ttft_s: float, engine: Engine
) -> str:
    """Say which of queueing, the own prefill and the host dominates TTFT."""
    prompt = w.prompt_tokens * (w.length_low + w.length_high) / 2.0 * (1.0 - w.cached_share)
    own = steps.step_s(0, 0.0, max(prompt, 1.0), 1.0, 0.0)
    if w.kind == "static":
        return (
            f"the prompts of the whole batch are computed first; one alone takes {own * 1e3:.0f} ms"
        )
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
    """What a figure depends on beside the machine."""
    if w.kind == "static":
        return (f"static batch, {engine.title}",)
    lengths = (
        "all of one length"
        if w.length_low == w.length_high
        else f"even between {w.length_low:g} and {w.length_high:g} of nominal"
    )
    prompts = w.num_prompts or PROMPTS_A_CLIENT * w.concurrency
    given = "" if w.num_prompts else " (ten a client, not given)"
    policy = {"mixed": "prompts in chunks beside decode", "prefill_first": "prompts before decode"}
    return (
        f"{policy.get(engine.policy, 'whole batches')}, {engine.token_budget} tokens a step",
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
    """Warnings: saturation, bounds, extrapolation."""
    notes = []
    if saturated:
        notes.append(
            f"saturated: the cache holds {fit} sequences of this length and {w.concurrency} are "
            "asked for; throughput is a bound, TTFT is the length of a queue"
        )
    if hardware.origin == "datasheet":
        notes.append("from the datasheet's peaks: a bound on speed, no real kernel reaches it")
    outside = sorted({p.group for p in (*decode, *prefill) if p.extrapolated and p.share > 0.02})
    if outside:
        notes.append(f"beyond the measured range: {', '.join(outside)}")
    return tuple(notes)
