"""The time of a step by group of operators, as the engine runs them; the bottleneck in words."""

import dataclasses
from collections.abc import Sequence

from groundspeed.estimator.engines.costs import attention_factor, kernel_factors
from groundspeed.estimator.serving.step_tables import Part
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.estimator.serving.workload import PartTime


def in_engine(parts: Sequence[Part], steps: StepTimes, *, decode: bool) -> list[Part]:
    """Scale the time of each part by the engine's factor for its own kernels."""
    costs, graph = steps.engine.costs, steps.graph
    rest = 1.0 if decode else costs.prefill_factor
    factors = kernel_factors(costs, graph.formats.experts)
    factors["attention"] = attention_factor(costs, graph.model, decode=decode)
    found = []
    for part in parts:
        factor = rest * factors.get(part.group, 1.0)
        if factor < 1.0 and part.time_s > 0.0:  # no kernel is faster than memory
            least = min(part.time_s, part.bytes / steps.bandwidth_bytes_per_s)
            factor = max(factor, least / part.time_s)
        found.append(
            dataclasses.replace(
                part,
                time_s=factor * part.time_s,
                low_s=factor * part.low_s,
                high_s=factor * part.high_s,
            )
        )
    return found


def part_times(parts: Sequence[Part], total_s: float) -> tuple[PartTime, ...]:
    """Return the shares of a step of ``total_s``; what the kernels do not take is the engine's."""
    host = max(total_s - sum(p.time_s for p in parts), 0.0)
    shown = [
        PartTime(
            group=p.group, time_s=p.time_s, low_s=p.low_s, high_s=p.high_s,
            share=p.time_s / total_s, bound=p.bound, flops=p.flops, bytes=p.bytes,
            extrapolated=p.extrapolated,
        )
        for p in parts
    ]  # fmt: skip
    if host > 1e-9 * total_s:
        shown.append(
            PartTime(group="engine", time_s=host, low_s=0.5 * host, high_s=2.0 * host,
                     share=host / total_s, bound="host")
        )  # fmt: skip
    return tuple(sorted(shown, key=lambda p: -p.time_s))


def limits_sentence(
    prefill: Sequence[PartTime], decode: Sequence[PartTime], weight_bytes: float
) -> str:
    """Return a sentence that names the bottleneck of each phase.

    Parameters
    ----------
    prefill, decode : sequence of PartTime
        Time of each group; decode is empty if there is only one output token.
    weight_bytes : float
        Weights that a decode step reads.
    """
    text = f"Prefill is {_bottleneck(prefill, '')}"
    if decode:
        weights = f" per step, {_with_si_prefix(weight_bytes)}B of it weights,"
        text += f"; decode is {_bottleneck(decode, weights)}"
    return text + "."


def _bottleneck(parts: Sequence[PartTime], weights: str) -> str:
    shares: dict[str, float] = {}
    for part in parts:
        shares[part.bound] = shares.get(part.bound, 0.0) + part.share
    bound = max(shares, key=lambda b: shares[b])
    share, time_s = shares[bound], sum(p.time_s for p in parts)
    if bound == "compute":
        flops = sum(p.flops for p in parts)
        rate = _with_si_prefix(flops / time_s)
        return (
            f"compute-bound ({share:.0%} of its time: {_with_si_prefix(flops)}FLOP at {rate}FLOPS)"
        )
    if bound == "memory":
        moved = sum(p.bytes for p in parts)
        rate = _with_si_prefix(moved / time_s)
        return (
            f"memory-bound ({share:.0%} of its time: {_with_si_prefix(moved)}B{weights} "
            f"at {rate}B/s)"
        )
    if bound == "link":
        return f"limited by the links between devices ({share:.0%} of its time)"
    if bound == "host":
        return f"limited by the host ({share:.0%} of its time is not in kernels)"
    return f"launch-bound ({share:.0%} of its time is launch latency of small operations)"


def _with_si_prefix(value: float) -> str:
    """Format a value with three digits and an SI prefix: 6.46e13 becomes ``64.6 T``."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "
