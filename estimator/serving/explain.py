"""Explain a prediction in words: the cause of TTFT, the assumptions and the warnings."""

from groundspeed.estimator.engines.distance import Distance
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.quantization import Formats
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.speculation import described
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.estimator.serving.workload import PROMPTS_A_CLIENT, PartTime, Workload


def explain_ttft(steps: StepTimes, w: Workload, ttft_s: float, engine: Engine) -> str:
    """Describe which of queueing, the request's own prefill and the host dominates TTFT."""
    prompt = w.prompt_tokens * w.mean_length * (1.0 - w.cached)
    own = steps.step_s(0, 0.0, max(prompt, 1.0), 1.0, 0.0)
    if w.kind == "static":
        if w.concurrency == 1:
            return "TTFT is the prefill of the prompt"
        return f"TTFT is the prefill of all prompts; one alone takes {own * 1e3:.0f} ms"
    sent = engine.costs.stream_steps * steps.decode_s(
        max(1, w.concurrency), w.prompt_tokens + w.output_tokens / 2.0
    )
    own = max(own, steps.launch_s)
    sent = min(sent, max(ttft_s - own - engine.costs.request_s, 0.0))
    parts = {
        "waiting for other prompts": max(ttft_s - own - engine.costs.request_s - sent, 0.0),
        "its own prefill": own,
        "the host": engine.costs.request_s,
    }
    if sent > 0.05 * ttft_s:
        parts["sending tokens in groups"] = sent
    most = max(parts, key=lambda k: parts[k])
    shown = ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in parts.items())
    return f"TTFT is mostly {most} ({shown})"


def assumptions(w: Workload, engine: Engine, simulated: int, known: Distance) -> tuple[str, ...]:
    """List the assumptions of a prediction: engine, scheduling policy, lengths and statistic."""
    if w.kind == "static":
        drafted = (f"speculation: {described(w)}",) if w.drafted_tokens else ()
        return (f"static batch, {engine.title}", *drafted, str(known))
    lengths = (
        "as recorded"
        if w.trace is not None
        else "all equal"
        if w.length_low == w.length_high
        else f"uniform between {w.length_low:g} and {w.length_high:g} times the nominal length"
    )
    if w.kind in ("poisson", "trace"):
        prompts = f"{w.num_prompts or simulated} requests simulated"
    elif w.num_prompts:
        prompts = f"{w.num_prompts} prompts"
    else:
        prompts = f"{PROMPTS_A_CLIENT * w.concurrency} prompts (default: ten per client)"
    policy = {
        "mixed": "chunked prefill mixed with decode",
        "prefill_first": "prefill before decode",
    }
    return (
        f"{policy.get(engine.policy, 'whole batches')}, {engine.token_budget} tokens per step",
        f"lengths {lengths}",
        prompts,
        f"{w.statistic} of requests",
        *((f"speculation: {described(w)}",) if w.drafted_tokens else ()),
        *_of_trace(w),
        str(known),
    )


def _of_trace(w: Workload) -> tuple[str, ...]:
    """Say what the prefix cache holds of the prompts of a trace."""
    if w.trace is None:
        return ()
    if not w.trace.block_tokens:
        return ("the trace does not say which prefixes its prompts share",)
    return (
        f"prefix cache holds {w.cached:.0%} of the prompts: the least recently used blocks of "
        f"{w.trace.block_tokens} tokens go",
    )


def serving_notes(
    hardware: Hardware,
    model: Model,
    formats: Formats,
    decode: tuple[PartTime, ...],
    prefill: tuple[PartTime, ...],
    w: Workload,
    *,
    fit: int,
    saturated: bool,
    served: float | None,
) -> tuple[str, ...]:
    """Return warnings: saturation, datasheet bounds, extrapolation and other formats.

    ``served`` is the rate [1/s] of a server that cannot keep up with its arrivals, else None.
    """
    notes = list(model.notes)
    if served is not None:
        notes.append(
            f"saturated: {served:.3g} requests/s are served, the rest queues; TTFT and E2E grow "
            "for as long as the load lasts"
        )
    elif saturated:
        notes.append(
            f"saturated: the KV cache holds {fit} sequences of this length, but the concurrency is "
            f"{w.concurrency}; throughput is an upper bound, and TTFT is mostly queueing time"
            if w.concurrency > fit
            else "saturated: requests wait for KV cache or a sequence slot; TTFT is mostly queueing"
        )
    if hardware.origin == "datasheet":
        notes.append("from datasheet peaks: an upper bound on speed that no real kernel reaches")
    phases = (("prefill", prefill), ("decode", decode))
    outside = {
        name: [p for p in parts if p.extrapolated and p.share > 0.02] for name, parts in phases
    }
    named = sorted(f"{name} {p.group}" for name, parts in outside.items() for p in parts)
    if named:
        share = max(sum(p.share for p in parts) for parts in outside.values())
        notes.append(
            f"extrapolated beyond the measured range: {', '.join(named)} "
            f"(up to {share:.0%} of a phase's time)"
        )
    stored = model.weights or model.dtype
    if formats.experts != stored and formats.linear != stored:
        notes.append(f"computed with weights in {formats.linear}; the checkpoint is in {stored}")
    return tuple(notes)
