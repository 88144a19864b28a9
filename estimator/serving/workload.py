"""The input and output of a server prediction: the load, and the predicted latencies and rates.

TPOT = (E2E - TTFT) / (output tokens - 1), averaged over requests unless ``statistic`` is "median".
TTFT is the time from sending the request to receiving its first token.
"""

from dataclasses import dataclass
from typing import Literal

from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

Kind = Literal["closed", "static", "offline", "poisson", "trace"]
Statistic = Literal["mean", "median"]

PROMPTS_A_CLIENT = 10
"""Default number of requests per client, as benchmarks send them."""

SIMULATED_ROUNDS = 5
"""Number of simulated rounds of a closed loop; later rounds behave like the last of these."""


@dataclass(frozen=True)
class ServingWorkload:
    """The load on a server: lengths, concurrency or arrivals, and speculation."""

    prompt_tokens: int
    output_tokens: int
    concurrency: int = 1
    kind: Kind = "closed"
    length_low: float = 1.0
    length_high: float = 1.0
    """Lengths are uniform between ``length_low`` and ``length_high`` times the nominal length."""
    num_prompts: int | None = None
    """Number of requests; None: ten per client."""
    request_rate_per_s: float | None = None
    """[1/s] Mean arrival rate of an open loop. Required if ``kind`` is "poisson"."""
    client_delay_s: float = 0.004
    """[s] Time between the end of a client's request and the start of its next one."""
    cached_share: float = 0.0
    """[1] Fraction of each prompt that is already in the prefix cache."""
    drafted_tokens: int = 0
    """Number of tokens that speculative decoding drafts per sequence and step."""
    acceptance: float = 0.0
    """[1] Probability that a draft token is accepted, given that those before it were."""
    statistic: Statistic = "mean"
    arrivals: tuple[tuple[float, int, int], ...] | None = None
    """Requests of a trace: (arrival time [s], prompt tokens, output tokens) of each."""

    @property
    def accepted_tokens(self) -> float:
        """Mean number of accepted draft tokens per step: a + a^2 + ... + a^drafted_tokens."""
        return sum(self.acceptance**i for i in range(1, self.drafted_tokens + 1))


class Latency(Record):
    """Mean and percentiles of a latency over the requests [s]."""

    mean: float
    p50: float
    p90: float
    p99: float


class PartTime(Record):
    """Time of one group of operators in a step, with its 90 % interval."""

    group: str
    time_s: float
    low_s: float
    high_s: float
    share: float
    bound: str
    extrapolated: bool = False


class ServingPrediction(Record):
    """Predicted latencies, rates, memory and energy of a deployment under a load."""

    model: str
    hardware: str
    origin: str
    engine: str
    engine_version: str
    formats: str
    devices: int
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float
    e2e_s: float
    ttft_low_s: float
    ttft_high_s: float
    tpot_low_s: float
    tpot_high_s: float
    ttft: Latency
    tpot: Latency
    itl: Latency
    e2e: Latency
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    goodput_requests_per_s: float | None = None
    power_w: float | None = None
    """[W] Power of one device under load."""
    power_origin: str | None = None
    """``measured``, or ``cap`` (the power limit): tokens per joule are then a lower bound."""
    output_tokens_per_joule: float | None = None
    cost_per_million_output_tokens: float | None = None
    """Cost in the currency of ``price_per_hour``."""
    saturated: bool
    """True if requests wait for KV cache or a sequence slot: TTFT is then mostly queueing time."""
    most_sequences: int
    """Number of sequences of this length that the KV caches of all attention groups hold."""
    weight_bytes: float
    cache_bytes_per_sequence: float
    cache_bytes: float
    decode_parts: tuple[PartTime, ...]
    prefill_parts: tuple[PartTime, ...]
    ttft_explained: str
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    tpot_definition: str = "TPOT = (E2E - TTFT) / (output tokens - 1)"


def require_workload(model: Model, w: ServingWorkload) -> None:
    """Reject a workload that is out of range or longer than the model's context.

    Raises
    ------
    InputError
        If a value is out of range; the message names the value and what is allowed.
    """
    for name, value in (
        ("prompt tokens", w.prompt_tokens),
        ("output tokens", w.output_tokens),
        ("concurrency", w.concurrency),
    ):
        if not 1 <= value <= 100_000_000:
            raise InputError(f"{name} must lie between 1 and 100,000,000, not {value}")
    if not 0.0 < w.length_low <= w.length_high <= 2.0:
        raise InputError(
            f"the length range must satisfy 0 < low <= high <= 2, not {w.length_low} to "
            f"{w.length_high}",
            remedy="give fractions of the nominal length such as 0.8 and 1.0",
        )
    if not (0.0 <= w.acceptance <= 1.0 and 0 <= w.drafted_tokens <= 64):
        raise InputError(
            f"{w.drafted_tokens} draft tokens with acceptance {w.acceptance} are out of range",
            remedy="give 0 to 64 draft tokens and an acceptance between 0 and 1",
        )
    if not 0.0 <= w.cached_share < 1.0:
        raise InputError(
            f"the cached fraction of a prompt must be at least 0 and below 1, not {w.cached_share}"
        )
    length = w.prompt_tokens + w.output_tokens
    if model.max_context is not None and length > model.max_context:
        raise InputError(
            f"prompt and output have {length} tokens, more than the maximum context of "
            f"{model.id} ({model.max_context})",
            remedy="shorten the prompt or the output",
        )
    if w.num_prompts is not None and w.num_prompts < 1:
        raise InputError(f"the number of prompts must be at least 1, not {w.num_prompts}")
