"""What a plan is asked and what it answers: devices and limits in, points and a command out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from groundspeed.estimator.decisions.objective import Limit
from groundspeed.estimator.decisions.placements import Formats
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles.record import Record


class PlanPoint(Record):
    """Predicted performance and cost of one deployment at one concurrency, simulated."""

    gpu: str
    engine: str
    tp: int
    pp: int = 1
    ep: int
    dp: int
    replicas: int
    gpus: int
    concurrency: int
    ttft_s: float
    tpot_s: float
    ttft_high_s: float
    tpot_high_s: float
    ttft_p99_s: float
    tpot_p99_s: float
    output_tokens_per_s: float
    tokens_per_s_per_gpu: float
    tokens_per_s_per_user: float
    cost_per_million_output_tokens: float | None
    meets: bool
    """True if the predictions meet the objective."""
    surely: bool
    """True if the upper ends of the 90 % intervals meet the objective, too; never of a datasheet,
    which is a bound."""
    stands_on: str
    """``measured``, ``imported``, ``transferred`` or ``datasheet`` (a bound)."""
    on_front: bool = False


class PoolPoint(Record):
    """Prefill and decode on pools of their own, in a steady state."""

    prefill: str
    """Replicas, parallelism and GPU of the prefill pool."""
    decode: str
    gpus: int
    concurrency: int
    ttft_s: float
    tpot_s: float
    ttft_high_s: float
    tpot_high_s: float
    tokens_per_s_per_gpu: float
    tokens_per_s_per_user: float
    cost_per_million_output_tokens: float | None
    meets: bool
    limited_by: str


class Plan(Record):
    """Result of the search."""

    model: str
    prompt_tokens: int
    output_tokens: int
    objective: tuple[str, ...]
    tpot_limit_s: float | None = None
    """[s] The tightest limit on the mean of TPOT, if there is one."""
    points: tuple[PlanPoint, ...]
    """The Pareto front, and the best."""
    best: PlanPoint | None
    """The cheapest that meets the objective; without a price, the most tokens/s per GPU."""
    pools: tuple[PoolPoint, ...] = ()
    """Separate pools for prefill and decode that meet the objective, best first."""
    gpus: tuple[str, ...] = ()
    """Kinds of GPU on which a deployment was possible, in the order of the request."""
    tried: int
    """Deployments times concurrencies that were evaluated."""
    simulated: int
    launch: str | None
    """Command of one replica."""
    router: str | None = None
    """Command of what distributes requests over the replicas."""
    remark: str = ""
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


@dataclass(frozen=True)
class Request:
    """What is planned."""

    model: Model
    candidates: Sequence[Candidate]
    workload: Workload
    """Lengths, cache and speculation; its concurrency is searched."""
    limits: tuple[Limit, ...] = ()
    formats: Formats = field(default_factory=Formats)
    served_as: str | None = None
    """Name or folder of the model for the engine; None: the hub's name of a shipped model."""
    pools: bool = True
    """Whether separate pools for prefill and decode are tried, too."""


@dataclass(frozen=True)
class Rough:
    """A deployment at a concurrency, by the closed form."""

    candidate: Candidate
    server: Server
    workload: Workload
    replicas: int
    tpot_s: float
    tokens_per_s_per_gpu: float

    @property
    def gpus(self) -> int:
        """GPUs of all replicas."""
        return self.replicas * self.server.deployment.devices

    @property
    def price(self) -> float:
        """Price of a million output tokens, else the inverse of tokens/s per GPU."""
        each = self.candidate.price_per_hour
        return (each if each is not None else 1.0) / self.tokens_per_s_per_gpu
