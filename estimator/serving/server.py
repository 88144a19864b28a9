"""Predict TTFT, TPOT and throughput of a deployment under a load, and their bottlenecks.

Every prediction of this package is made here: static batches, servers in closed and open loops, and
traces, with an engine or without one (``bare``). The steps come from one graph of operators, the
scheduling from a simulation of the engine's scheduler.

TPOT = (E2E - TTFT) / (output tokens - 1), averaged over requests unless ``statistic`` is "median".
TTFT is the time from sending the request to receiving its first token. Both are means over the
requests that a benchmark would send. All assumptions besides the hardware (policy, token budget,
length distribution, number of prompts, statistic) are inputs and are repeated in the result.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from groundspeed.estimator.deployment.deployment import Deployment, formats, require_valid
from groundspeed.estimator.deployment.invariants import require_physics
from groundspeed.estimator.deployment.memory import (
    Memory,
    cache_tokens,
    most_sequences,
    plan_memory,
    require_fit,
)
from groundspeed.estimator.deployment.stored import cache_bytes, step_weight_bytes
from groundspeed.estimator.engines.distance import distance
from groundspeed.estimator.engines.engine import NO_ENGINE, Engine, find_engine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.hardware.nodes import Nodes, in_nodes, require_used
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.explain import assumptions, explain_ttft, serving_notes
from groundspeed.estimator.serving.interval import interval_factors
from groundspeed.estimator.serving.parts import in_engine, limits_sentence, part_times
from groundspeed.estimator.serving.requests import Simulated, make_load, simulate_group
from groundspeed.estimator.serving.scheduler import simulate
from groundspeed.estimator.serving.speculation import (
    acceptance_error,
    cache_factor,
    drafter,
    with_draft,
)
from groundspeed.estimator.serving.static_batch import static_outcome, static_parts
from groundspeed.estimator.serving.step_tables import Part
from groundspeed.estimator.serving.step_time import StepTimes, step_graph
from groundspeed.estimator.serving.workload import (
    Latency,
    PartTime,
    Prediction,
    Workload,
    require_workload,
)
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import Array

QUEUED_SHARE = 0.02
"""Share of requests that wait for memory or a sequence slot above which a server is saturated."""


@dataclass(frozen=True)
class Server:
    """A model deployed on devices with an engine; ``predict`` estimates a load on it."""

    model: Model
    deployment: Deployment
    engine: Engine
    hardware: Hardware

    @cached_property
    def nodes(self) -> Nodes:
        """The devices of the deployment with the links inside and between their nodes."""
        return in_nodes(self.hardware.for_devices(self.deployment.devices), self.deployment.network)

    def predict(
        self,
        workload: Workload,
        *,
        slo: tuple[float, float] | None = None,
        price_per_hour: float | None = None,
        checked: bool = True,
    ) -> Prediction:
        """Predict latencies and throughput of a load.

        Parameters
        ----------
        workload : Workload
            Lengths and concurrency or arrivals.
        slo : (float, float), optional
            Limits of TTFT and TPOT [s]; goodput counts requests that meet both. Not given: no
            goodput.
        price_per_hour : float, optional
            Price of one device for one hour. Not given: no cost.
        checked : bool, default True
            False leaves out the check against physics: for trying constants that may be wrong.

        Raises
        ------
        InputError
            If the workload is impossible, the deployment does not fit, or a law is missing.
        PhysicsError
            If the result would break physics: an error of this program.
        """
        require_valid(self.model, self.deployment)
        require_workload(self.model, workload)
        require_used(self.deployment.network, self.nodes, self.deployment.devices)
        group = self._group(workload)
        outcome = self._run(workload, group)
        prediction = self._prediction(workload, group, outcome, slo)
        prediction = self._with_costs(prediction, price_per_hour)
        if checked:
            require_physics(prediction, workload, self.model, self.deployment, self.hardware)
        return prediction

    def _group(self, w: Workload) -> "_Group":
        """Return one of the groups that share the load, with its step times and memory."""
        model, d, engine = self.model, self.deployment, self.engine
        hardware = self.nodes
        tokens = w.longest_tokens
        # A static batch is run by a program of its own, which does not reserve memory in advance.
        holder = engine
        if w.kind == "static" and engine.policy == "whole_batch" and engine.name != NO_ENGINE:
            holder = find_engine(NO_ENGINE)
        memory = with_draft(plan_memory(model, d, holder, hardware), w, model, d)
        require_fit(model, d, holder, hardware, memory, tokens)
        # The pipeline's batches share the cache of a device.
        fit = int(most_sequences(model, d, memory, tokens) / cache_factor(w, model, d)) // d.pp
        if fit < 1 and w.drafted_tokens:
            raise InputError(
                f"{model.id} does not fit with the cache of its draft", where="--draft",
                remedy="draft with a head or a smaller model, or shorten the requests",
            )  # fmt: skip
        open_loop = w.kind in ("poisson", "trace")
        at_once = w.concurrency
        if w.kind == "closed" and w.num_prompts is not None:
            at_once = min(at_once, w.num_prompts)  # other clients find nothing to send
        clients = 1 if open_loop else math.ceil(at_once / d.groups)
        if w.kind == "static" and clients > fit:
            raise InputError(
                f"{model.id} does not fit with a batch of {w.concurrency}: the caches hold "
                f"{fit * d.groups} sequences of {tokens:.0f} tokens",
                remedy=f"use a batch of at most {fit * d.groups}, shorter sequences, or a smaller "
                "KV cache (--kv-dtype fp8)",
            )
        busy = float(d.groups) if open_loop else at_once / clients
        most = min(max(fit, 1), engine.max_sequences) if open_loop else clients
        graph = step_graph(
            model, d, engine, busy_groups=min(float(d.dp), busy), per_node=hardware.per_node
        )
        proposed = drafter(w, model, d, engine, hardware, most)
        steps = StepTimes(graph, hardware, engine, most, tokens, proposed)
        return _Group(steps, memory, fit, clients, busy)

    def _run(self, w: Workload, group: "_Group") -> Simulated:
        if w.kind == "static":
            outcome = static_outcome(group.steps, w, group.clients, group.static(w))
            load = make_load(w, group.clients, clients=group.clients)
            rate = group.clients / float(outcome.end_s.max())
            return Simulated(load, outcome, np.ones(group.clients), rate, None, growing=False)
        held = group.fit * w.longest_tokens
        request_s = self.engine.costs.request_s + group.launching_s(w)
        return simulate_group(
            w, group.clients, group.busy, request_s,
            lambda load: simulate(group.steps, self.engine, load, held),
            capacity_tokens=held,
        )  # fmt: skip

    def _prediction(
        self,
        w: Workload,
        group: "_Group",
        simulated: Simulated,
        slo: tuple[float, float] | None,
    ) -> Prediction:
        model, d, engine, hardware = self.model, self.deployment, self.engine, self.nodes
        outcome, weights = simulated.outcome, simulated.weights
        hits = None
        if w.trace is not None and (cached := simulated.load.cached_tokens) is not None:
            hits = float(cached.sum() / simulated.load.prompt_tokens.sum())
            w = replace(w, cached_share=hits)  # what is shown of a prompt is shown of a mean one
        # A static batch is run inside the engine's process: there is no request overhead.
        request_s = 0.0
        if w.kind != "static":
            request_s = engine.costs.request_s + group.launching_s(w)
        ttft = outcome.first_s - outcome.arrival_s + request_s
        e2e = outcome.end_s - outcome.arrival_s + request_s
        more = outcome.output_tokens - 1.0
        several = more > 0
        tpot = (outcome.end_s - outcome.first_s)[several] / more[several]
        if w.kind != "static":
            # The first token is sent with those of some steps more; the last one is not later.
            late = np.minimum(engine.costs.stream_steps, 0.5 * more[several]) * tpot
            ttft[several] += late
            tpot = tpot - late / more[several]
        prompts = float(simulated.load.prompt_tokens.mean())
        outputs = float(simulated.load.output_tokens.mean())
        per_s = simulated.requests_per_s * group.busy
        if w.trace is not None:
            # One group's share of a trace is rounded to whole sessions; the trace is served once.
            share = len(outcome.first_s) * group.busy / len(w.trace.requests)
            per_s /= share
            prompts, outputs = w.trace.mean_prompt_tokens, w.trace.mean_output_tokens
        good = None
        if slo is not None:
            met = ttft <= slo[0]
            met[several] &= tpot <= slo[1]
            good = per_s * float(np.average(met, weights=weights))
        pick = "p50" if w.statistic == "median" else "mean"
        first, whole = _latency(ttft, weights), _latency(e2e, weights)
        each = _latency(tpot, weights[several]) if several.any() else None
        gaps = outcome.gap_s
        running = max(1, min(group.clients, group.fit, engine.max_sequences))
        if w.kind in ("poisson", "trace"):
            decoding = float((outcome.end_s - outcome.first_s).mean()) * simulated.requests_per_s
            running = max(1, min(round(decoding), group.fit, engine.max_sequences))
        decode, prefill = self._parts(group, w, running, decodes=each is not None)
        low_f, high_f = interval_factors(prefill, "ttft", engine, hardware, model)
        ttft_s = float(getattr(first, pick))
        tpot_s = float(getattr(each, pick)) if each is not None else None
        tpot_ends: tuple[float | None, float | None] = (None, None)
        if tpot_s is not None:
            low_t, high_t = interval_factors(
                decode, "tpot", engine, hardware, model, acceptance_error(w)
            )
            tpot_ends = (tpot_s * low_t, tpot_s * high_t)
        saturated = (
            group.clients > group.fit
            or outcome.queued > QUEUED_SHARE * len(outcome.first_s)
            or simulated.growing
        )
        f, known = formats(model, d), distance(engine, hardware.architecture, model)
        arriving = simulated.offered_per_s
        offered = arriving * group.busy if arriving is not None else None
        concurrency = w.concurrency
        if w.kind in ("poisson", "trace"):
            concurrency = max(1, round(per_s * float(np.average(e2e, weights=weights))))
        return Prediction(
            model=model.id,
            hardware=hardware.id,
            origin=hardware.origin,
            engine=engine.name,
            engine_version=engine.from_version,
            formats=f"weights {f.linear}"
            + (f", experts {f.experts}" if model.experts and f.experts != f.linear else "")
            + f", cache {f.cache}",
            devices=d.all_devices,
            kind=w.kind,
            concurrency=concurrency,
            running_sequences=max(1, round(running * group.busy)),
            prompt_tokens=w.prompt_tokens,
            output_tokens=w.output_tokens,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            e2e_s=float(getattr(whole, pick)),
            ttft_low_s=ttft_s * low_f,
            ttft_high_s=ttft_s * high_f,
            tpot_low_s=tpot_ends[0],
            tpot_high_s=tpot_ends[1],
            ttft=first,
            tpot=each,
            itl=_latency(gaps[:, 0], gaps[:, 1]) if len(gaps) else each,
            e2e=whole,
            output_tokens_per_s=per_s * outputs,
            total_tokens_per_s=per_s * (prompts + outputs),
            requests_per_s=per_s,
            offered_requests_per_s=offered,
            goodput_requests_per_s=good,
            prefix_hits=hits,
            saturated=saturated,
            most_sequences=group.fit * d.groups,
            weight_bytes=group.memory.weight_bytes,
            cache_bytes_per_sequence=cache_bytes(model, d, w.longest_tokens),
            cache_bytes=group.memory.cache_bytes,
            cache_tokens=int(
                cache_tokens(
                    model, d, group.memory, float(engine.max_model_len or w.longest_tokens)
                )
            ),
            reserved_bytes=group.memory.overhead_bytes + group.memory.steps_bytes,
            max_model_len=engine.max_model_len,
            decode_parts=decode,
            prefill_parts=prefill,
            answered_by=self._answered_by(group.steps),
            limits=limits_sentence(
                prefill, decode,
                step_weight_bytes(model, d, running * group.busy / d.replicas / d.pp / d.dp),
            ),
            ttft_explained=explain_ttft(group.steps, w, ttft_s, engine),
            assumed=assumptions(w, engine, len(outcome.first_s), known),
            notes=serving_notes(
                hardware, model, formats(model, d), decode, prefill, w,
                fit=group.fit * d.groups, saturated=saturated,
                served=per_s if simulated.growing else None,
            ),
        )  # fmt: skip

    def _answered_by(self, steps: StepTimes) -> tuple[str, ...]:
        """Say which file answered for which operations, one line for each file and origin."""
        return tuple(
            f"times from {source}: {', '.join(names)}" for source, names in steps.tables.answered_by
        )

    def _parts(
        self, group: "_Group", w: Workload, running: int, *, decodes: bool
    ) -> tuple[tuple[PartTime, ...], tuple[PartTime, ...]]:
        """Return the time per group of a decode step at the mean context and of one prefill."""
        steps = group.steps
        if w.kind == "static":
            decode, prefill = group.static(w)
            total = steps.engine_step_s(prefill, 0)
            first = part_times(prefill, total)
            if not decode:
                return (), first
            return part_times(decode, steps.engine_step_s(decode, running)), first
        prompt = max(w.mean_length * w.prompt_tokens * (1.0 - w.cached), 1.0)
        prefill = in_engine(steps.prefill_parts(1.0, prompt), steps, decode=False)
        first = part_times(prefill, steps.step_s(0, 0.0, prompt, 1.0, 0.0))
        if not decodes:
            return (), first
        context = w.mean_length * (w.prompt_tokens + w.output_tokens / 2.0)
        parts = steps.decode_parts(float(running), context)
        decode = in_engine(parts, steps, decode=True)
        return part_times(decode, steps.decode_s(running, context)), first

    def _with_costs(self, prediction: Prediction, price_per_hour: float | None) -> Prediction:
        """Add energy and cost to a prediction."""
        update: dict[str, object] = {}
        power = self.hardware.power
        rate, devices = prediction.output_tokens_per_s, prediction.devices
        if power is not None:
            update = {"power_w": power[0], "power_origin": power[1]}
            update["output_tokens_per_joule"] = rate / (power[0] * devices)
        if price_per_hour is not None:
            if not 0 < price_per_hour < 10_000:
                raise InputError(
                    f"the price of a GPU-hour must be above 0 and below 10,000, "
                    f"not {price_per_hour:g}",
                    where="--price",
                    remedy="give the price of one GPU-hour, such as 2.5",
                )
            hourly = price_per_hour * devices
            update["cost_per_million_output_tokens"] = hourly / (rate * 3600.0) * 1e6
        return prediction.model_copy(update=update)


@dataclass(frozen=True)
class _Group:
    """One of the groups of sequences that share a load."""

    steps: StepTimes
    memory: Memory
    fit: int
    """Number of sequences that its KV cache holds."""
    clients: int
    busy: float
    """Number of groups that have work."""
    _static: list[tuple[list[Part], list[Part]]] = field(default_factory=list, repr=False)

    def launching_s(self, w: Workload) -> float:
        """Return how much longer the host launches a prompt's kernels than they take [s]."""
        prompt = max(w.mean_length * w.prompt_tokens * (1.0 - w.cached), 1.0)
        return max(self.steps.launch_s - self.steps.step_s(0, 0.0, prompt, 1.0, 0.0), 0.0)

    def static(self, w: Workload) -> tuple[list[Part], list[Part]]:
        """Return the parts of decode and prefill of a static batch, evaluated once."""
        if not self._static:
            self._static.append(static_parts(self.steps, w, self.clients))
        return self._static[0]


def _latency(values: Array, weights: Array) -> Latency:
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    p50, p90, p99 = (
        float(values[order][min(int(np.searchsorted(share, q)), len(values) - 1)])
        for q in (0.5, 0.9, 0.99)
    )
    return Latency(mean=float(np.average(values, weights=weights)), p50=p50, p90=p90, p99=p99)


__all__ = ["Prediction", "Server", "Workload"]
