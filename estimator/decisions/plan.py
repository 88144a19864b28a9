"""Plan a deployment: search all, keep the Pareto front, find the cheapest that meets the SLO.

Every placement of a model on some GPUs is evaluated at every concurrency with the closed form, and
those that can lie on the front (tokens/s per GPU against tokens/s per user) or be the cheapest are
simulated, because the closed form of queueing is too inaccurate to decide whether an SLO is met. A
candidate is left out only if a simulated one is better than it by more than the closed form errs.
Between the doubled concurrencies the largest that meets the objective is looked for by halving.
What is shown is simulated, all of it.

Prefill and decode on pools of their own (``plan_pools``) are a steady state, shown apart.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from groundspeed.estimator.decisions.launch import Chosen, Launch, launch
from groundspeed.estimator.decisions.objective import Limit
from groundspeed.estimator.decisions.placements import placements, useful
from groundspeed.estimator.decisions.plan_pools import plan_pools
from groundspeed.estimator.decisions.plan_records import (
    Candidate,
    Plan,
    PlanPoint,
    PoolPoint,
    Request,
    Rough,
)
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.deployment.memory import most_sequences, plan_memory
from groundspeed.estimator.engines.engine import NO_ENGINE
from groundspeed.estimator.hardware.nodes import in_nodes, used_links
from groundspeed.estimator.serving.closed_form import Loads, closed_form
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.speculation import cache_factor, drafter, with_draft
from groundspeed.estimator.serving.step_time import StepTimes, step_graph
from groundspeed.profiles.errors import InputError, PhysicsError
from groundspeed.profiles.files import user_path

MOST_CONCURRENCY = 1024
"""Most clients of one attention group; engines run no more sequences by default."""

CLOSED_FORM_ERRS = 1.2
"""Factor within which the closed form of TPOT and throughput agrees with the simulation (closed
against simulated on the shipped profiles: 15 %)."""

MOST_SIMULATED = 80
"""Most points that are simulated."""

MOST_REFINED, REFINED_TO = 30, 1.12
"""Most numbers of clients tried between the doubled ones, and the step at which that ends."""


def served_as(name: str) -> str | None:
    """Return what an engine is told of a model given by this name: the folder of a config.json.

    >>> served_as("qwen2.5-7b") is None
    True
    """
    path = user_path(name)
    if not path.exists():
        return name if "/" in name and not name.endswith(".json") else None
    return str((path if path.is_dir() else path.parent).resolve())


def make_plan(request: Request) -> Plan:
    """Search the deployments of a model on the candidate devices.

    Raises
    ------
    InputError
        If a limit or price is not positive, or nothing fits.
    """
    for candidate in request.candidates:
        _require_candidate(candidate)
    roughs, first_error = _all_roughs(request)
    if not roughs:
        raise InputError(f"no deployment is possible: {first_error or 'no parallelism fits'}")
    search = _Search(request, roughs)
    search.run()
    search.refine()
    front = _front(search.points)
    meeting = [p for p in search.points if p.meets]
    best = min(meeting, key=_rank) if meeting and request.limits else None
    if best is None and not request.limits:
        best = min(search.points, key=_rank)
    kept = {id(p): p for p in front}
    if best is not None:
        kept[id(best)] = best
    fronts = {id(p) for p in front}
    points = [p.model_copy(update={"on_front": id(p) in fronts}) for p in kept.values()]
    started = search.command(best) if best is not None else None
    pools: tuple[PoolPoint, ...] = ()
    if request.pools:
        pools = plan_pools(request, roughs)
    return Plan(
        model=request.model.id,
        prompt_tokens=request.workload.prompt_tokens,
        output_tokens=request.workload.output_tokens,
        objective=tuple(str(limit) for limit in request.limits),
        tpot_limit_s=min(
            (x.seconds for x in request.limits if (x.metric, x.statistic) == ("tpot", "mean")),
            default=None,
        ),
        points=tuple(sorted(points, key=lambda p: -p.tokens_per_s_per_gpu)),
        best=best,
        pools=pools,
        gpus=tuple(dict.fromkeys(r.candidate.name for r in roughs)),
        tried=len(roughs),
        simulated=len(search.points),
        launch=started.server if started else None,
        router=started.router if started else None,
        remark=started.remark if started else "",
        skipped=tuple(search.skipped),
        advice=_advice(best, search.points, request.limits),
    )


def _require_candidate(candidate: Candidate) -> None:
    price = candidate.price_per_hour
    if price is not None and not 0 < price < 10_000:
        raise InputError(
            f"the price of a GPU-hour must be above 0 and below 10,000, not {price}",
            where="--price",
            remedy="give the price of one GPU-hour, such as 2.5",
        )
    if candidate.engine.name == NO_ENGINE:
        raise InputError(
            "bare is no engine, so it serves nothing",
            where="--engine",
            remedy="give vllm, sglang, trtllm or atom",
        )


def _all_roughs(request: Request) -> tuple[list[Rough], str]:
    """Return every deployment at every concurrency, and why the largest did not fit."""
    roughs: list[Rough] = []
    reason = ""
    stated = request.formats.network
    unused = {name for name, value in vars(stated).items() if value is not None}
    for candidate in request.candidates:
        one_fits = False
        nodes = in_nodes(candidate.hardware, stated)
        for trial in placements(request.model, candidate.gpus, request.formats):
            if not useful(trial, candidate.gpus, one_fits):
                continue
            links = used_links(stated, nodes, trial.devices)
            deployment = replace(trial, network=links)
            unused -= {name for name, value in vars(links).items() if value is not None}
            try:
                found = _roughs(request, candidate, deployment)
            except InputError as error:
                reason = str(error)  # of the most devices: it says what is missing
                continue
            one_fits |= deployment.devices == 1
            roughs += found
    if unused:
        options = {"per_node": "--gpus-per-node", "inter_node_bytes_per_s": "--inter-node",
                   "device_link_bytes_per_s": "--gpu-link"}  # fmt: skip
        raise InputError("has no effect on any deployment of these GPUs",
                         where=options[min(unused)], remedy="leave it out")  # fmt: skip
    return roughs, reason


def _roughs(request: Request, candidate: Candidate, deployment: Deployment) -> list[Rough]:
    """Evaluate the closed form of one deployment at every concurrency that fits its KV cache."""
    model, engine, w = request.model, candidate.engine, request.workload
    server = Server(model, deployment, engine, candidate.hardware)
    tokens = w.longest_tokens
    memory = with_draft(plan_memory(model, deployment, engine, server.nodes), w, model, deployment)
    fit = most_sequences(model, deployment, memory, tokens) / cache_factor(w, model, deployment)
    fit = int(fit) // deployment.pp
    if fit < 1:
        raise InputError(f"{model.id} does not fit {deployment.devices} x {candidate.name}")
    top = min(fit, engine.max_sequences, MOST_CONCURRENCY)
    clients = np.unique(np.append(2.0 ** np.arange(0.0, math.log2(top) + 1e-9), float(top)))
    graph = step_graph(model, deployment, engine, per_node=server.nodes.per_node)
    proposed = drafter(w, model, deployment, engine, server.nodes, top)
    steps = StepTimes(graph, server.nodes, engine, top, tokens, proposed)
    mean = w.mean_length
    loads = Loads(
        np.full(clients.shape, max(mean * w.prompt_tokens * (1.0 - w.cached), 1.0)),
        np.full(clients.shape, mean * w.output_tokens / (1.0 + w.accepted_tokens)),
        clients,
        fixed=w.length_low == w.length_high,
    )
    estimates = closed_form(steps, engine, loads)
    replicas = candidate.gpus // deployment.devices
    rate = estimates.requests_per_s * mean * w.output_tokens * deployment.groups
    return [
        Rough(
            candidate, server, replace(w, concurrency=int(each) * deployment.groups), replicas,
            float(estimates.tpot_s[i]) / (1.0 + w.accepted_tokens),
            float(rate[i]) / deployment.devices,
        )
        for i, each in enumerate(clients)
    ]  # fmt: skip


class _Search:
    """Simulates the candidates that can still matter, most promising first."""

    def __init__(self, request: Request, roughs: Sequence[Rough]) -> None:
        self.request = request
        self.open = list(roughs)
        self.of_server: dict[int, list[Rough]] = {}
        for rough in roughs:
            self.of_server.setdefault(id(rough.server), []).append(rough)
        self.points: list[PlanPoint] = []
        self.of_point: dict[int, Rough] = {}
        self.skipped: list[str] = []

    def run(self) -> None:
        while self.open and len(self.points) < MOST_SIMULATED:
            chosen = self._cheapest() or self._widest()
            if chosen is None:
                return
            self.open.remove(chosen)
            self._try(chosen)

    def refine(self) -> None:
        """Look for the most clients that meet the objective between the doubled numbers.

        The closed form steps by two. A deployment that meets the objective with 8 clients and not
        with 16 may do so with 13, at a price in proportion.
        """
        for _ in range(MOST_REFINED if self.request.limits else 0):
            between = [b for roughs in self.of_server.values() if (b := self._between(roughs))]
            if not between:
                return
            chosen = min(between, key=lambda rough: rough.price)
            self.of_server[id(chosen.server)].append(chosen)
            self._try(chosen)

    def _between(self, roughs: Sequence[Rough]) -> Rough | None:
        """Return a number of clients between the most that can do and the fewest that cannot."""
        meets = {self._clients(r): p.meets for p in self.points
                 if (r := self.of_point[id(p)]).server is roughs[0].server}  # fmt: skip
        failing = [n for n, fine in meets.items() if not fine]
        if not failing:
            return None
        high = min(failing)
        fewer = [self._clients(r) for r in roughs if self._clients(r) < high]
        if not fewer:
            return None
        low, groups = max(fewer), roughs[0].server.deployment.groups
        clients = round(math.sqrt(low * high) / groups) * groups
        if high <= low * REFINED_TO or not low < clients < high:
            return None
        above = next(r for r in roughs if self._clients(r) == high)
        # The most that it can give lies between the rates at both ends.
        if self._best_price() * CLOSED_FORM_ERRS < above.price:
            return None
        return replace(above, workload=replace(above.workload, concurrency=clients))

    @staticmethod
    def _clients(rough: Rough) -> int:
        return rough.workload.concurrency

    def _best_price(self) -> float:
        """Return the price of the best that meets the objective, infinite if none does."""
        meeting = [p for p in self.points if p.meets]
        if not meeting:
            return math.inf
        best = min(meeting, key=_rank)
        each = self.of_point[id(best)].candidate.price_per_hour
        return (each if each is not None else 1.0) / best.tokens_per_s_per_gpu

    def _try(self, rough: Rough) -> None:
        try:
            point = self._simulate(rough)
        except PhysicsError as error:
            self.skipped.append(str(error))
            return
        self.points.append(point)
        self.of_point[id(point)] = rough

    def _cheapest(self) -> Rough | None:
        """Return the cheapest that may meet the objective and may beat the best so far."""
        tpot = [x.seconds for x in self.request.limits if x.metric == "tpot"]
        fast = [r for r in self.open if not tpot or r.tpot_s / CLOSED_FORM_ERRS <= min(tpot)]
        if not fast or not self.request.limits:
            return None
        first = min(fast, key=lambda r: r.price)
        return None if first.price / CLOSED_FORM_ERRS > self._best_price() else first

    def _widest(self) -> Rough | None:
        """Return one that the simulated points do not dominate, most tokens/s per GPU first."""
        for rough in sorted(self.open, key=lambda r: -r.tokens_per_s_per_gpu):
            rate = rough.tokens_per_s_per_gpu * CLOSED_FORM_ERRS
            user = CLOSED_FORM_ERRS / rough.tpot_s
            if not any(
                p.tokens_per_s_per_gpu >= rate and p.tokens_per_s_per_user >= user
                for p in self.points
            ) and self._on_rough_front(rough):
                return rough
        return None

    def _on_rough_front(self, rough: Rough) -> bool:
        return not any(
            other.tokens_per_s_per_gpu > rough.tokens_per_s_per_gpu * CLOSED_FORM_ERRS
            and other.tpot_s * CLOSED_FORM_ERRS < rough.tpot_s
            for other in self.open
        )

    def _simulate(self, rough: Rough) -> PlanPoint:
        prediction = rough.server.predict(rough.workload)
        d, replicas = rough.server.deployment, rough.replicas
        tpot = prediction.tpot_s or 0.0
        output = prediction.output_tokens_per_s * replicas
        price = rough.candidate.price_per_hour
        gpus = rough.gpus
        fine = not prediction.saturated
        limits = self.request.limits
        known = prediction.origin != "datasheet"
        return PlanPoint(
            gpu=rough.candidate.name, engine=rough.candidate.engine.name,
            tp=d.tp, pp=d.pp, ep=d.ep, dp=d.dp, replicas=replicas, gpus=gpus,
            concurrency=prediction.concurrency * replicas,
            ttft_s=prediction.ttft_s, tpot_s=tpot,
            ttft_high_s=prediction.ttft_high_s, tpot_high_s=prediction.tpot_high_s or 0.0,
            ttft_p99_s=prediction.ttft.p99,
            tpot_p99_s=prediction.tpot.p99 if prediction.tpot else 0.0,
            output_tokens_per_s=output, tokens_per_s_per_gpu=output / gpus,
            tokens_per_s_per_user=1.0 / tpot if tpot else 0.0,
            cost_per_million_output_tokens=price * gpus / (output * 3600.0) * 1e6
            if price is not None else None,
            meets=fine and all(x.value(prediction) <= x.seconds for x in limits),
            surely=fine and known and all(x.high(prediction) <= x.seconds for x in limits),
            stands_on=prediction.origin,
        )  # fmt: skip

    def command(self, point: PlanPoint) -> Launch:
        rough = self.of_point[id(point)]
        server = rough.server
        each = -(-point.concurrency // (point.replicas * server.deployment.dp))
        return launch(
            Chosen(
                self.request.model, server.deployment, server.engine, rough.replicas, each,
                self.request.workload, server.nodes.per_node, self.request.served_as,
            )
        )  # fmt: skip


def _rank(p: PlanPoint) -> tuple[bool, float]:
    """Sort key: first points that meet the objective, then by cost, else by tokens/s per GPU."""
    cost = p.cost_per_million_output_tokens
    return (not p.meets, cost if cost is not None else -p.tokens_per_s_per_gpu)


def _front(points: Sequence[PlanPoint]) -> list[PlanPoint]:
    """Return the Pareto front of tokens/s per GPU and tokens/s per user."""
    front: list[PlanPoint] = []
    best = 0.0
    for p in sorted(points, key=lambda p: (-p.tokens_per_s_per_user, -p.tokens_per_s_per_gpu)):
        if p.tokens_per_s_per_gpu > best:
            front.append(p)
            best = p.tokens_per_s_per_gpu
    return front


def _advice(best: PlanPoint | None, points: Sequence[PlanPoint], limits: Sequence[Limit]) -> str:
    if not limits:
        return "no objective was given: the Pareto front shows the possible trade-offs"
    if best is not None:
        if best.surely:
            return "the upper ends of its intervals meet the objective, too"
        if best.stands_on == "datasheet":
            return (
                "nothing was measured of this GPU: its datasheet is a bound that no kernel "
                "reaches, so measure it before you decide (groundspeed calibrate)"
            )
        return (
            "its predictions meet the objective, but the upper ends of its intervals do not: "
            "measure it before you decide"
        )
    parts = []
    for metric, name, more in (
        ("tpot", "fastest TPOT", "more devices per replica, fewer bits, or a faster GPU"),
        ("ttft", "shortest TTFT", "shorter prompts, a prefix cache, or more devices"),
    ):
        wanted = [x.seconds for x in limits if x.metric == metric]
        if not wanted:
            continue
        quickest = min(points, key=lambda p: getattr(p, f"{metric}_s"))
        value = getattr(quickest, f"{metric}_s")
        if value > min(wanted):
            parts.append(
                f"the {name} is {value * 1e3:.1f} ms (tp {quickest.tp} on {quickest.gpu}, "
                f"{quickest.concurrency} clients): try {more}"
            )
    return "nothing meets the objective; " + (
        "; ".join(parts) or "each limit alone can be met, but not all together: relax one"
    )
