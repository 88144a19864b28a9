"""A load on a server, and what is expected to come of it.

TPOT = (E2E - TTFT) / (output tokens - 1), the mean of requests unless a statistic is named. TTFT
begins when a client sends and ends with the first token.
"""

from dataclasses import dataclass
from typing import Literal

from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

Kind = Literal["closed", "static", "offline", "poisson", "trace"]
Statistic = Literal["mean", "median"]

PROMPTS_A_CLIENT = 10
"""Requests that benchmarks send for each client, where nothing else is said."""

SIMULATED_ROUNDS = 5
"""Rounds of a closed loop that are simulated; those after look like the later of them."""


@dataclass(frozen=True)
class ServingWorkload:
    """What a server is asked to do."""

    prompt_tokens: int
    output_tokens: int
    concurrency: int = 1
    kind: Kind = "closed"
    length_low: float = 1.0
    length_high: float = 1.0
    """Lengths are drawn evenly between these fractions of nominal."""
    num_prompts: int | None = None
    """None is ten a client."""
    request_rate_per_s: float | None = None
    """Of a Poisson load."""
    client_delay_s: float = 0.004
    cached_share: float = 0.0
    """Of each prompt, already in a prefix cache."""
    drafted_tokens: int = 0
    """Tokens that speculation proposes for each sequence and step."""
    acceptance: float = 0.0
    """Chance that one of them is right, given those before it are."""
    statistic: Statistic = "mean"
    arrivals: tuple[tuple[float, int, int], ...] | None = None
    """Of a trace: when [s], prompt tokens, output tokens."""

    @property
    def accepted_tokens(self) -> float:
        """Tokens that speculation adds to a step, on average: a + a^2 + ... of those drafted."""
        return sum(self.acceptance**i for i in range(1, self.drafted_tokens + 1))


class Latency(Record):
    """A latency over the requests [s]."""

    mean: float
    p50: float
    p90: float
    p99: float


class PartTime(Record):
    """One part of a step."""

    group: str
    time_s: float
    low_s: float
    high_s: float
    share: float
    bound: str
    extrapolated: bool = False


class ServingPrediction(Record):
    """What a deployment is expected to do under a load."""

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
    """Of one device under load."""
    power_origin: str | None = None
    """``measured``, or the ``cap``: then tokens a joule are a lower bound."""
    output_tokens_per_joule: float | None = None
    cost_per_million_output_tokens: float | None = None
    """In the currency of the price that was given."""
    saturated: bool
    """Requests wait for memory or a place: TTFT is a queue's length, no property of the machine."""
    most_sequences: int
    """That the cache holds at these lengths, all attention groups together."""
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
    """Refuse what no server can be asked.

    Raises
    ------
    InputError
        With the number that makes no sense.
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
            f"lengths from {w.length_low} to {w.length_high} of nominal are no range",
            remedy="give fractions such as 0.8 and 1.0",
        )
    if not (0.0 <= w.acceptance <= 1.0 and 0 <= w.drafted_tokens <= 64):
        raise InputError(
            f"speculation of {w.drafted_tokens} tokens at acceptance {w.acceptance} makes no sense",
            remedy="give up to 64 drafted tokens and an acceptance between 0 and 1",
        )
    if not 0.0 <= w.cached_share < 1.0:
        raise InputError(f"a prefix cache holds a share in [0, 1), not {w.cached_share}")
    length = w.prompt_tokens + w.output_tokens
    if model.max_context is not None and length > model.max_context:
        raise InputError(
            f"{length} tokens are more than {model.id} can hold ({model.max_context})",
            remedy="shorten the prompt or the output",
        )
    if w.num_prompts is not None and w.num_prompts < 1:
        raise InputError(f"a benchmark of {w.num_prompts} prompts measures nothing")
