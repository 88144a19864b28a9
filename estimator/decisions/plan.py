"""Plan a deployment: search all, keep the Pareto front, find the cheapest that meets the SLO.

Every parallelism of a model on some GPUs (tensor, expert and data parallel, replicas) is evaluated
at every concurrency with the closed form. The Pareto front trades tokens/s per GPU against tokens/s
per user. The best candidates are then simulated, because the closed form of queueing is too
inaccurate to decide whether an SLO is met.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from groundspeed.estimator.deployment.deployment import Deployment, require_valid
from groundspeed.estimator.deployment.memory import most_sequences, plan_memory
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.catalog import hub_name
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.closed_form import Loads, closed_form
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.step_time import StepTimes, step_graph
from groundspeed.estimator.serving.workload import Prediction, Workload
from groundspeed.profiles.errors import InputError, PhysicsError
from groundspeed.profiles.record import Record

MOST_CONCURRENCY = 4096
SIMULATED = 6
"""Number of candidates that are simulated, best first."""


class PlanPoint(Record):
    """Predicted performance and cost of one deployment at one concurrency."""

    gpu: str
    engine: str
    tp: int
    ep: int
    dp: int
    replicas: int
    gpus: int
    concurrency: int
    ttft_s: float
    tpot_s: float
    ttft_high_s: float
    tpot_high_s: float
    output_tokens_per_s: float
    tokens_per_s_per_gpu: float
    tokens_per_s_per_user: float
    cost_per_million_output_tokens: float | None
    meets: bool
    """True if the predicted means meet the objective."""
    surely: bool
    """True if the upper ends of the 90 % intervals meet the objective, too."""
    simulated: bool
    on_front: bool = False


class Plan(Record):
    """Result of the search."""

    model: str
    prompt_tokens: int
    output_tokens: int
    ttft_limit_s: float | None
    tpot_limit_s: float | None
    points: tuple[PlanPoint, ...]
    """The Pareto front, and every candidate that was simulated."""
    best: PlanPoint | None
    """The cheapest that meets the objective; without a price, the most tokens/s per GPU."""
    tried: int
    launch: str | None
    advice: str
    skipped: tuple[str, ...] = ()
    """Deployments whose prediction would break physics, an error of this program."""


@dataclass(frozen=True)
class Candidate:
    """A device to consider, with its engine, number of GPUs and price."""

    name: str
    hardware: Hardware
    engine: Engine
    gpus: int
    price_per_hour: float | None


def make_plan(
    model: Model,
    candidates: Sequence[Candidate],
    workload: Workload,
    *,
    ttft_limit_s: float | None = None,
    tpot_limit_s: float | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
) -> Plan:
    """Search the deployments of a model on the candidate devices.

    Parameters
    ----------
    model : Model
        The model to deploy.
    candidates : sequence of Candidate
        Devices to consider.
    workload : Workload
        Prompt and output lengths; its concurrency is ignored, because it is searched.
    ttft_limit_s, tpot_limit_s : float, optional
        Limits of mean TTFT and TPOT [s], above 0. Not given: no limit.
    dtype, kv_dtype : str, optional
        Formats of weights and KV cache. Not given: the checkpoint's.

    Raises
    ------
    InputError
        If a limit or price is not positive, or nothing fits.
    """
    for name, value in (("TTFT", ttft_limit_s), ("TPOT", tpot_limit_s)):
        if value is not None and not value > 0:
            raise InputError(f"the {name} limit must be above 0 s, not {value} s")
    candidates_tried: list[tuple[PlanPoint, Server, Workload]] = []
    first_error = ""
    for candidate in candidates:
        if candidate.price_per_hour is not None and not 0 < candidate.price_per_hour < 10_000:
            raise InputError(
                f"the price of a GPU-hour must be above 0 and below 10,000, "
                f"not {candidate.price_per_hour}",
                where="--price",
                remedy="give the price of one GPU-hour, such as 2.5",
            )
        for deployment in _placements(model, candidate.gpus, dtype, kv_dtype):
            try:
                candidates_tried += _points(
                    model, candidate, deployment, workload, ttft_limit_s, tpot_limit_s
                )
            except InputError as error:
                first_error = str(error)  # of the most devices: it says what is missing
    if not candidates_tried:
        raise InputError(f"no deployment is possible: {first_error or 'no parallelism fits'}")
    front = _front([p for p, _, _ in candidates_tried])
    order = sorted(candidates_tried, key=lambda f: _rank(f[0]))
    simulated: list[PlanPoint] = []
    skipped: list[str] = []
    for entry in order:
        try:
            simulated.append(_simulated(entry, ttft_limit_s, tpot_limit_s))
        except PhysicsError as error:
            skipped.append(str(error))
        if len(simulated) == SIMULATED:
            break
    meets_objective = [p for p in simulated if p.meets]
    best = min(meets_objective, key=_rank) if meets_objective else None
    kept = {_key(p): p.model_copy(update={"on_front": True}) for p in front}
    for p in simulated:
        kept[_key(p)] = p.model_copy(update={"on_front": _key(p) in kept})
    points = tuple(sorted(kept.values(), key=lambda p: -p.tokens_per_s_per_gpu))
    return Plan(
        model=model.id,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        ttft_limit_s=ttft_limit_s,
        tpot_limit_s=tpot_limit_s,
        points=points,
        best=best,
        tried=len(candidates_tried),
        launch=launch_command(model, best, dtype, workload, kv_dtype) if best else None,
        skipped=tuple(skipped),
        advice=_advice(best, [p for p, _, _ in candidates_tried], ttft_limit_s, tpot_limit_s),
    )


def _placements(
    model: Model, gpus: int, dtype: str | None, kv_dtype: str | None
) -> list[Deployment]:
    """Return every parallelism of one replica on up to ``gpus`` GPUs."""
    if gpus < 1:
        raise InputError(f"--gpus must be at least 1, not {gpus}")
    placements = []
    tp = 1
    while tp <= gpus:
        ways = [(tp, 1, 1)]
        if model.experts is not None and tp > 1:
            ways += [(tp, tp, 1), (1, tp, tp)]
        for attention, ep, dp in ways:
            trial = Deployment(tp=attention, ep=ep, dp=dp, dtype=dtype, kv_dtype=kv_dtype)
            try:
                require_valid(model, trial)
            except InputError:
                continue
            placements.append(trial)
        tp *= 2
    return placements


def _points(
    model: Model,
    candidate: Candidate,
    deployment: Deployment,
    workload: Workload,
    ttft_limit_s: float | None,
    tpot_limit_s: float | None,
) -> list[tuple[PlanPoint, Server, Workload]]:
    """Evaluate the closed form of one deployment at every concurrency that fits its KV cache."""
    engine, hardware = candidate.engine, candidate.hardware
    tokens = workload.longest_tokens
    memory = plan_memory(model, deployment, engine, hardware)
    fit = most_sequences(model, deployment, memory, tokens)
    if fit < 1:
        raise InputError(f"{model.id} does not fit {deployment.devices} x {candidate.name}")
    replicas = candidate.gpus // deployment.devices
    top = min(fit, MOST_CONCURRENCY)
    clients = np.unique(np.append(2.0 ** np.arange(0.0, math.log2(top) + 1e-9), float(top)))
    graph = step_graph(model, deployment, engine)
    steps = StepTimes(graph, hardware, engine, top, tokens)
    mean = (workload.length_low + workload.length_high) / 2.0
    loads = Loads(
        np.full(clients.shape, mean * workload.prompt_tokens),
        np.full(clients.shape, mean * workload.output_tokens),
        clients,
        fixed=workload.length_low == workload.length_high,
    )
    estimates = closed_form(steps, engine, loads)
    server = Server(model, deployment, engine, hardware)
    groups = deployment.dp * replicas
    points = []
    for i, each in enumerate(clients):
        ttft, tpot = float(estimates.ttft_s[i]), float(estimates.tpot_s[i])
        output = float(estimates.requests_per_s[i]) * groups * mean * workload.output_tokens
        gpus = replicas * deployment.devices
        point = _point(
            candidate, deployment, replicas, int(each) * groups, ttft, tpot, output, gpus,
            (ttft * engine.interval_ttft, tpot * engine.interval_tpot),
            (ttft_limit_s, tpot_limit_s), simulated=False,
        )  # fmt: skip
        points.append((point, server, replace(workload, concurrency=int(each) * deployment.dp)))
    return points


def _point(
    candidate: Candidate,
    d: Deployment,
    replicas: int,
    concurrency: int,
    ttft: float,
    tpot: float,
    output: float,
    gpus: int,
    high: tuple[float, float],
    limits: tuple[float | None, float | None],
    *,
    simulated: bool,
) -> PlanPoint:
    price = candidate.price_per_hour
    cost = price * gpus / (output * 3600.0) * 1e6 if price is not None else None
    return PlanPoint(
        gpu=candidate.name,
        engine=candidate.engine.name,
        tp=d.tp,
        ep=d.ep,
        dp=d.dp,
        replicas=replicas,
        gpus=gpus,
        concurrency=concurrency,
        ttft_s=ttft,
        tpot_s=tpot,
        ttft_high_s=high[0],
        tpot_high_s=high[1],
        output_tokens_per_s=output,
        tokens_per_s_per_gpu=output / gpus,
        tokens_per_s_per_user=1.0 / tpot,
        cost_per_million_output_tokens=cost,
        meets=_meets((ttft, tpot), limits),
        surely=_meets(high, limits),
        simulated=simulated,
    )


def _meets(times: tuple[float, float], limits: tuple[float | None, float | None]) -> bool:
    return all(limit is None or time <= limit for time, limit in zip(times, limits, strict=True))


def _simulated(
    entry: tuple[PlanPoint, Server, Workload],
    ttft_limit_s: float | None,
    tpot_limit_s: float | None,
) -> PlanPoint:
    """Replace the closed-form values of a point by simulated ones."""
    point, server, workload = entry
    prediction: Prediction = server.predict(workload)
    tpot_s, tpot_high_s = prediction.tpot_s or 0.0, prediction.tpot_high_s or 0.0
    output = prediction.output_tokens_per_s * point.replicas
    limits = (ttft_limit_s, tpot_limit_s)
    cost = point.cost_per_million_output_tokens
    return point.model_copy(
        update={
            "ttft_s": prediction.ttft_s,
            "tpot_s": tpot_s,
            "ttft_high_s": prediction.ttft_high_s,
            "tpot_high_s": tpot_high_s,
            "output_tokens_per_s": output,
            "tokens_per_s_per_gpu": output / point.gpus,
            "tokens_per_s_per_user": 1.0 / tpot_s if tpot_s else 0.0,
            "cost_per_million_output_tokens": cost * point.output_tokens_per_s / output
            if cost is not None
            else None,
            "meets": _meets((prediction.ttft_s, tpot_s), limits) and not prediction.saturated,
            "surely": _meets((prediction.ttft_high_s, tpot_high_s), limits)
            and not prediction.saturated,
            "simulated": True,
        }
    )


def _rank(p: PlanPoint) -> tuple[bool, float]:
    """Sort key: first points that meet the objective, then by cost, else by tokens/s per GPU."""
    cost = p.cost_per_million_output_tokens
    return (not p.meets, cost if cost is not None else -p.tokens_per_s_per_gpu)


def _key(p: PlanPoint) -> tuple[object, ...]:
    return (p.gpu, p.engine, p.tp, p.ep, p.dp, p.concurrency)


def _front(points: Sequence[PlanPoint]) -> list[PlanPoint]:
    """Return the Pareto front of tokens/s per GPU and tokens/s per user."""
    front: list[PlanPoint] = []
    best = 0.0
    for p in sorted(points, key=lambda p: (-p.tokens_per_s_per_user, -p.tokens_per_s_per_gpu)):
        if p.tokens_per_s_per_gpu > best:
            front.append(p)
            best = p.tokens_per_s_per_gpu
    return front


def _advice(
    best: PlanPoint | None,
    points: Sequence[PlanPoint],
    ttft_limit_s: float | None,
    tpot_limit_s: float | None,
) -> str:
    if ttft_limit_s is None and tpot_limit_s is None:
        return "no objective was given: the Pareto front shows the possible trade-offs"
    if best is not None:
        if best.surely:
            return "the upper ends of its intervals meet the objective, too"
        return (
            "its means meet the objective, but the upper ends of its intervals do not: "
            "measure it before you decide"
        )
    parts = []
    if tpot_limit_s is not None:
        fastest = min(points, key=lambda p: p.tpot_s)
        if fastest.tpot_s > tpot_limit_s:
            parts.append(
                f"the fastest TPOT is {fastest.tpot_s * 1e3:.1f} ms (tp {fastest.tp} on "
                f"{fastest.gpu}): try more devices per replica, fewer bits, or a faster GPU"
            )
    if ttft_limit_s is not None:
        quickest = min(points, key=lambda p: p.ttft_s)
        if quickest.ttft_s > ttft_limit_s:
            parts.append(
                f"the shortest TTFT is {quickest.ttft_s * 1e3:.0f} ms (tp {quickest.tp}, "
                f"{quickest.concurrency} clients): try shorter prompts, a prefix cache, or more "
                "devices"
            )
    return "nothing meets the objective; " + (
        "; ".join(parts) or "each limit alone can be met, but not both together: relax one"
    )


def launch_command(
    model: Model, p: PlanPoint, dtype: str | None, workload: Workload, kv_dtype: str | None = None
) -> str:
    """Return the shell command that starts one replica of a point."""
    name = hub_name(model)
    length = math.ceil(workload.longest_tokens)
    each = -(-p.concurrency // p.replicas)
    if p.engine == "sglang":
        words = [
            "python -m sglang.launch_server",
            f"--model-path {name}",
            f"--tp {p.tp * p.dp}",
        ]
        words += [f"--dp {p.dp} --enable-dp-attention"] if p.dp > 1 else []
        words += [f"--ep-size {p.ep}"] if p.ep > 1 else []
        words += [f"--context-length {length}", f"--max-running-requests {each}"]
    elif p.engine == "trtllm":
        words = ["trtllm-serve", name, f"--tp_size {p.tp * p.dp}"]
        words += [f"--ep_size {p.ep}"] if p.ep > 1 else []
        words += [f"--max_batch_size {each}", f"--max_seq_len {length}"]
    else:
        words = ["vllm serve", name, f"--tensor-parallel-size {p.tp}"]
        words += [f"--data-parallel-size {p.dp}"] if p.dp > 1 else []
        words += ["--enable-expert-parallel"] if p.ep > 1 else []
        words += [f"--max-model-len {length}", f"--max-num-seqs {each}"]
    if dtype in ("fp8",) and model.weights is None and p.engine != "trtllm":
        words.append("--quantization fp8")
    if kv_dtype is not None and p.engine in ("vllm", "sglang"):
        name = {"fp8": "fp8" if p.engine == "vllm" else "fp8_e4m3"}.get(kv_dtype, "auto")
        words.append(f"--kv-cache-dtype {name}")
    if p.engine == "trtllm" and (dtype or kv_dtype):
        words.append("  # takes its formats from the checkpoint: give a quantized one")
    return " ".join(words)
