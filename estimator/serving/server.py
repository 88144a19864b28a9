"""Predict TTFT, TPOT and throughput of a server under load, and their bottlenecks.

TPOT = (E2E - TTFT) / (output tokens - 1), averaged over requests unless ``statistic`` is "median".
TTFT is the time from sending the request to receiving its first token.

Both are means over the requests that a benchmark would send. In a closed loop all clients start at
once, so the first requests queue behind each other's prompts; the weight of this first round
depends on the number of requests that follow. All assumptions besides the hardware (policy, token
budget, length distribution, number of prompts, statistic) are inputs and are repeated in the
result.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.engines.engine import Costs, Engine
from groundspeed.estimator.graph.engine_step import Layers
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.deployment import Deployment, formats, require_valid
from groundspeed.estimator.serving.explain import assumptions, explain_ttft, serving_notes
from groundspeed.estimator.serving.memory import (
    GIB,
    cache_bytes,
    most_sequences,
    plan_memory,
    require_fit,
)
from groundspeed.estimator.serving.scheduler import Load, Outcome, simulate
from groundspeed.estimator.serving.step_time import Part, StepTimes
from groundspeed.estimator.serving.workload import (
    PROMPTS_A_CLIENT,
    SIMULATED_ROUNDS,
    Latency,
    PartTime,
    ServingPrediction,
    ServingWorkload,
    require_workload,
)
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import Array


@dataclass(frozen=True)
class Server:
    """A model deployed on devices with an engine; ``predict`` estimates a load on it."""

    model: Model
    deployment: Deployment
    engine: Engine
    hardware: Hardware

    def predict(
        self,
        workload: ServingWorkload,
        *,
        slo: tuple[float, float] | None = None,
        price_per_hour: float | None = None,
    ) -> ServingPrediction:
        """Predict latencies and throughput of a load.

        Parameters
        ----------
        workload : ServingWorkload
            Lengths and concurrency or arrivals.
        slo : (float, float), optional
            Limits of TTFT and TPOT [s]; goodput counts requests that meet both. Not given: no
            goodput.
        price_per_hour : float, optional
            Price of one device for one hour. Not given: no cost.

        Raises
        ------
        InputError
            If the workload is impossible, the deployment does not fit, or a law is missing.
        """
        model, d, engine = self.model, self.deployment, self.engine
        require_valid(model, d)
        require_workload(model, workload)
        memory_bytes = self.hardware.memory_bytes
        if memory_bytes is None:
            raise InputError(
                f"the memory size of {self.hardware.id} is missing in its datasheet or profile"
            )
        tokens = float(workload.prompt_tokens + workload.output_tokens)
        if workload.arrivals is not None:
            tokens = float(max(isl + osl for _, isl, osl in workload.arrivals))
        memory = plan_memory(model, d, engine, memory_bytes)
        require_fit(model, d, engine, memory, tokens)
        fit = most_sequences(model, d, memory, tokens)
        # Each attention group and each pipeline stage works on its own share of the sequences.
        groups = d.dp * d.pp
        each = max(1, math.ceil(workload.concurrency / groups))
        layers = Layers(model, d, engine.custom_all_reduce, engine.fused_quantize, engine.kernels)
        rows = 1 + workload.drafted_tokens
        steps = StepTimes(layers, self.hardware, engine, each, tokens, rows)
        load = _load(workload, each, groups)
        held = fit * tokens
        if workload.kind == "static":
            outcome = _static(steps, engine, workload, each)
        else:
            outcome = simulate(steps, engine, load, held)
        saturated = each > fit or outcome.queued > 0.02 * len(outcome.first_s)
        prediction = self._prediction(workload, steps, outcome, each, fit, saturated, slo, load)
        return self._with_costs(prediction, price_per_hour)

    def _with_costs(
        self, prediction: ServingPrediction, price_per_hour: float | None
    ) -> ServingPrediction:
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

    def _prediction(
        self,
        workload: ServingWorkload,
        steps: StepTimes,
        outcome: Outcome,
        each: int,
        fit: int,
        saturated: bool,
        slo: tuple[float, float] | None,
        load: Load,
    ) -> ServingPrediction:
        model, d, engine = self.model, self.deployment, self.engine
        weights = _weights(workload, outcome, each)
        # A static batch is run inside the engine's process: there is no request overhead.
        request_s = engine.costs.request_s if workload.kind != "static" else 0.0
        ttft = outcome.first_s - outcome.arrival_s + request_s
        e2e = outcome.end_s - outcome.arrival_s + request_s
        more = np.maximum(outcome.output_tokens - 1.0, 1.0)
        tpot = (outcome.end_s - outcome.first_s) / more
        prompts, outputs = float(load.prompt_tokens.mean()), float(load.output_tokens.mean())
        if workload.kind == "closed":
            # Little's law over the whole run, including ramp-up, as a client measures it.
            per_s = each / float(np.average(e2e + load.delay_s, weights=weights))
        else:
            per_s = len(e2e) / max(float(outcome.end_s.max()), 1e-9)
        per_s *= d.dp * d.pp
        good = None
        if slo is not None:
            met = (ttft <= slo[0]) & (tpot <= slo[1])
            good = per_s * float(np.average(met, weights=weights))
        latencies = {
            name: _latency(values, weights)
            for name, values in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e))
        }
        itl = _latency(outcome.gap_s[:, 0], outcome.gap_s[:, 1]) if len(outcome.gap_s) else None
        pick = "p50" if workload.statistic == "median" else "mean"
        ttft_s, tpot_s = getattr(latencies["ttft"], pick), getattr(latencies["tpot"], pick)
        decode, prefill = self._parts(steps, workload, each)
        spread_t = _spread(decode, engine.interval_tpot, engine, self)
        spread_f = _spread(prefill, engine.interval_ttft, engine, self)
        f = formats(model, d)
        memory = plan_memory(model, d, engine, self.hardware.memory_bytes or 0.0)
        notes = serving_notes(self.hardware, decode, prefill, saturated, fit * d.dp, workload)
        return ServingPrediction(
            model=model.id,
            hardware=self.hardware.id,
            origin=self.hardware.origin,
            engine=engine.name,
            engine_version=engine.from_version,
            formats=f"weights {f.linear}"
            + (f", experts {f.experts}" if model.experts and f.experts != f.linear else "")
            + f", cache {f.cache}",
            devices=d.devices,
            concurrency=workload.concurrency,
            prompt_tokens=workload.prompt_tokens,
            output_tokens=workload.output_tokens,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            e2e_s=getattr(latencies["e2e"], pick),
            ttft_low_s=ttft_s / spread_f,
            ttft_high_s=ttft_s * spread_f,
            tpot_low_s=tpot_s / spread_t,
            tpot_high_s=tpot_s * spread_t,
            ttft=latencies["ttft"],
            tpot=latencies["tpot"],
            itl=itl or latencies["tpot"],
            e2e=latencies["e2e"],
            output_tokens_per_s=per_s * outputs,
            total_tokens_per_s=per_s * (prompts + outputs),
            requests_per_s=per_s,
            goodput_requests_per_s=good,
            saturated=saturated,
            most_sequences=fit * d.dp,
            weight_bytes=memory.weight_bytes,
            cache_bytes_per_sequence=cache_bytes(model, d, prompts + outputs),
            cache_bytes=memory.cache_bytes,
            decode_parts=decode,
            prefill_parts=prefill,
            ttft_explained=explain_ttft(steps, workload, each, ttft_s, engine),
            assumed=assumptions(workload, engine),
            notes=notes,
        )

    def _parts(
        self, steps: StepTimes, workload: ServingWorkload, each: int
    ) -> tuple[tuple[PartTime, ...], tuple[PartTime, ...]]:
        """Return the time per group of a decode step at the mean context and of one prefill."""
        layers = steps.layers
        mean = (workload.length_low + workload.length_high) / 2.0
        context = mean * (workload.prompt_tokens + workload.output_tokens / 2.0)
        b, c = np.array([float(each)]), np.array([context])
        decode = steps.parts(
            [*layers.rows(b), *layers.head(b), *layers.decode_attention(b, c), *layers.state(b)]
        )
        prompt = np.array([mean * workload.prompt_tokens])
        one = np.ones(1)
        prefill = steps.parts(
            [
                *layers.rows(prompt),
                *layers.head(one),
                *layers.prefill_attention(one, prompt),
                *layers.latent_prefill_rows(prompt),
            ]
        )
        shown_parts = []
        for parts, total in (
            (decode, steps.decode_s(each, context)),
            (prefill, steps.step_s(0, 0.0, float(prompt[0]), 1.0, 0.0)),
        ):
            latent, phase = self.model.latent is not None, parts is decode
            scaled = [_in_engine(p, self.engine.costs, latent=latent, decode=phase) for p in parts]
            host = max(total - sum(p.time_s for p in scaled), 0.0)
            shown = [
                PartTime(
                    group=p.group, time_s=p.time_s, low_s=p.low_s, high_s=p.high_s,
                    share=p.time_s / total, bound=p.bound, extrapolated=p.extrapolated,
                )
                for p in scaled
            ]  # fmt: skip
            shown.append(
                PartTime(group="engine", time_s=host, low_s=0.5 * host, high_s=2.0 * host,
                         share=host / total, bound="host")
            )  # fmt: skip
            shown_parts.append(tuple(sorted(shown, key=lambda p: -p.time_s)))
        return shown_parts[0], shown_parts[1]


def _in_engine(part: Part, costs: Costs, *, latent: bool, decode: bool) -> Part:
    """Scale a part's time by the engine's factor for its own kernels."""
    if part.group == "experts":
        factor = costs.experts_factor
    elif part.group != "attention":
        return part
    elif decode:
        factor = costs.latent_decode_factor if latent else costs.attention_factor
    else:
        factor = costs.latent_prefill_factor if latent else 1.0
    return dataclasses.replace(
        part,
        time_s=factor * part.time_s,
        low_s=factor * part.low_s,
        high_s=factor * part.high_s,
    )


def _load(w: ServingWorkload, each: int, groups: int) -> Load:
    """Generate the requests of one attention group."""
    if w.kind == "trace" and w.arrivals is not None:
        mine = w.arrivals[::groups]
        columns = [np.array(c, dtype=np.float64) for c in zip(*mine, strict=True)]
        return Load(
            columns[1], columns[2], arrival_s=columns[0], cached_share=w.cached_share,
            tokens_per_step=1.0 + w.accepted_tokens,
        )  # fmt: skip
    requested = w.num_prompts or PROMPTS_A_CLIENT * w.concurrency
    prompts = max(each, math.ceil(requested / groups))
    if w.kind == "offline":
        prompts = each
    if w.kind == "closed":
        prompts = min(prompts, SIMULATED_ROUNDS * each)
    if w.kind == "poisson":
        prompts = min(prompts, 4000)
    rng = np.random.default_rng(0)
    lengths = [
        _spread_lengths(nominal, w.length_low, w.length_high, prompts, rng)
        for nominal in (w.prompt_tokens, w.output_tokens)
    ]
    arrival = None
    if w.kind == "poisson":
        if w.request_rate_per_s is None or w.request_rate_per_s <= 0:
            raise InputError("a Poisson load needs a request rate above 0 requests/s")
        arrival = np.cumsum(rng.exponential(groups / w.request_rate_per_s, size=prompts))
    return Load(
        lengths[0],
        lengths[1],
        clients=each if w.kind in ("closed", "offline") else None,
        arrival_s=arrival,
        delay_s=w.client_delay_s,
        cached_share=w.cached_share,
        tokens_per_step=1.0 + w.accepted_tokens,
    )


def _spread_lengths(
    nominal: int, low: float, high: float, count: int, rng: np.random.Generator
) -> Array:
    """Draw lengths as evenly spaced quantiles, shuffled: the mean is exact for any count."""
    if low == high:
        return np.full(count, max(1.0, round(nominal * low)))
    quantiles = (np.arange(count) + 0.5) / count
    drawn = np.maximum(np.round(nominal * (low + (high - low) * quantiles)), 1.0)
    return rng.permutation(drawn)


def _static(steps: StepTimes, engine: Engine, w: ServingWorkload, each: int) -> Outcome:
    """Time one static batch: prefill in as many steps as the token budget needs, then decode."""
    tokens = float(each * w.prompt_tokens)
    if engine.policy == "whole_batch":
        first = steps.step_s(0, 0.0, tokens, float(each), 0.0)
    else:
        budget = float(engine.token_budget)
        first, done = 0.0, 0.0
        while done < tokens:
            chunk = min(budget, tokens - done)
            past = done % w.prompt_tokens if chunk < w.prompt_tokens else 0.0
            prompts = max(1.0, chunk / w.prompt_tokens)
            first += steps.step_s(0, 0.0, chunk, prompts, past)
            done += chunk
    count = w.output_tokens - 1
    gain = 1.0 + w.accepted_tokens
    contexts = w.prompt_tokens + 1.0 + np.linspace(0.0, max(count - 1, 0), min(max(count, 1), 32))
    tpot = float(np.mean([steps.decode_s(each, float(c)) for c in contexts])) / gain
    end = first + count * tpot
    one = np.ones(each)
    return Outcome(
        0.0 * one, first * one, end * one, np.array([[tpot, 1.0]]), w.output_tokens * one, 0, end
    )


def _weights(w: ServingWorkload, outcome: Outcome, each: int) -> Array:
    """Return a weight per simulated request: it stands for the rounds that are not simulated."""
    count = len(outcome.first_s)
    weights = np.ones(count)
    requested = math.ceil(
        (w.num_prompts or PROMPTS_A_CLIENT * w.concurrency) * each / w.concurrency
    )
    if w.kind == "closed" and requested > count > each:
        weights[each:] = (requested - each) / (count - each)
    return weights


def _latency(values: Array, weights: Array) -> Latency:
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    p50, p90, p99 = (
        float(values[order][min(int(np.searchsorted(share, q)), len(values) - 1)])
        for q in (0.5, 0.9, 0.99)
    )
    return Latency(mean=float(np.average(values, weights=weights)), p50=p50, p90=p90, p99=p99)


LAWS_AVERAGED = 0.5
"""Fraction of a law's error that remains in a whole run, because errors of many shapes average out.
On published servers the kernels' part of the error is about half of that of a single shape."""

OTHER_ARCHITECTURE = 1.15
OTHER_KIND = 1.20
"""Additional 90 % factors if the engine's constants were fitted on another GPU architecture, or on
dense models while this one is a mixture of experts. Published servers of known engines were
predicted within 1.08 to 1.24 on other generations, and within 1.15 to 1.35 on mixtures."""


def _spread(
    parts: tuple[PartTime, ...], engine_factor: float, engine: Engine, server: Server
) -> float:
    """Return the 90 % factor from the errors of laws and engine, and from the fit's distance."""
    total = sum(p.time_s for p in parts)
    above = sum((p.high_s - p.time_s) ** 2 for p in parts if p.group != "engine") ** 0.5
    logs = [math.log(engine_factor), LAWS_AVERAGED * math.log1p(above / total)]
    if engine.fitted_architecture != server.hardware.architecture.split()[0]:
        logs.append(math.log(OTHER_ARCHITECTURE))
    if server.model.experts is not None and not engine.fitted_mixture:
        logs.append(math.log(OTHER_KIND))
    return math.exp(math.hypot(*logs))


def override_limits(engine: Engine, token_budget: int | None, most: int | None = None) -> Engine:
    """Return a copy of an engine with another token budget or maximum number of sequences."""
    update: dict[str, object] = {}
    if token_budget is not None:
        update["token_budget"] = token_budget
    if most is not None:
        update["max_sequences"] = most
    return engine.model_copy(update=update) if update else engine


__all__ = ["GIB", "Server", "ServingPrediction", "ServingWorkload", "override_limits"]
