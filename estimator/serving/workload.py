"""The input and output of a prediction: the load, and the predicted latencies and rates.

TPOT = (E2E - TTFT) / (output tokens - 1), averaged over requests unless ``statistic`` is "median";
requests of one output token have none. TTFT is the time from sending the request to receiving its
first token.
"""

import math
from dataclasses import dataclass
from typing import Literal

from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.traffic.trace import Trace
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

Kind = Literal["closed", "static", "offline", "poisson", "trace"]
Statistic = Literal["mean", "median"]

PROMPTS_A_CLIENT = 10
"""Default number of requests per client, as benchmarks send them."""


@dataclass(frozen=True)
class Workload:
    """A load: lengths, concurrency or arrivals, and speculation."""

    prompt_tokens: int = 1024
    output_tokens: int = 1024
    concurrency: int = 1
    """Number of clients of a closed loop; number of sequences of a static or offline batch."""
    kind: Kind = "closed"
    """``static``: all sequences start together and the batch ends as a whole, with equal lengths.
    ``closed``: each client sends its next request after the answer. ``offline``: all requests are
    there at the start. ``poisson``: random arrivals. ``trace``: arrivals as recorded."""
    length_low: float = 1.0
    length_high: float = 1.0
    """Lengths are uniform between ``length_low`` and ``length_high`` times the nominal length."""
    num_prompts: int | None = None
    """Number of requests; None: ten per client, or as many as an open loop needs to settle."""
    request_rate_per_s: float | None = None
    """[1/s] Mean arrival rate of an open loop. Required if ``kind`` is "poisson"."""
    client_delay_s: float = 0.004
    """[s] Time between the end of a client's request and the start of its next one."""
    cached_share: float | None = None
    """[1] Fraction of each prompt that is already in the prefix cache; None: none of it, or what
    the trace says."""
    drafted_tokens: int = 0
    """Number of tokens that speculative decoding drafts per sequence and step."""
    acceptance: float = 0.0
    """[1] Probability that a draft token is accepted, given that those before it were."""
    acceptance_range: tuple[float, float] | None = None
    """[1] Where the acceptance lies nine times in ten if it is assumed; None: it is known."""
    draft_layers: int = 1
    """Layers of a draft head (multi-token prediction, EAGLE); 0: n-grams, without a draft."""
    draft_model: Model | None = None
    """Draft model of its own; None: a head."""
    statistic: Statistic = "mean"
    trace: Trace | None = None
    """Recorded requests. Where they share prefixes, their hits in the prefix cache are simulated
    unless ``cached_share`` is given."""

    @property
    def cached(self) -> float:
        """[1] Fraction of a prompt that is already in the prefix cache."""
        return self.cached_share or 0.0

    @property
    def accepted_tokens(self) -> float:
        """Mean number of accepted draft tokens per step: a + a^2 + ... + a^drafted_tokens."""
        return sum(self.acceptance**i for i in range(1, self.drafted_tokens + 1))

    @property
    def mean_length(self) -> float:
        """[1] Mean length of requests relative to the nominal one."""
        return (self.length_low + self.length_high) / 2.0

    @property
    def longest_tokens(self) -> float:
        """[tokens] Prompt and output of the longest request."""
        if self.trace is not None:
            return float(self.trace.longest_tokens)
        return self.length_high * (self.prompt_tokens + self.output_tokens)


class Latency(Record):
    """Mean and percentiles of a latency over the requests [s]."""

    mean: float
    p50: float
    p90: float
    p99: float


class PartTime(Record):
    """Time and work of one group of operators in a step, with its 90 % interval."""

    group: str
    time_s: float
    low_s: float
    high_s: float
    share: float
    """[1] Fraction of the step's time."""
    bound: str
    flops: float = 0.0
    bytes: float = 0.0
    extrapolated: bool = False


class Prediction(Record):
    """Predicted latencies, rates, memory and energy of a deployment under a load."""

    schema_version: Literal[2] = 2
    model: str
    hardware: str
    origin: str
    engine: str
    engine_version: str
    formats: str
    devices: int
    kind: Kind
    concurrency: int
    """Number of clients or sequences; of an open loop, the mean number of requests in progress."""
    running_sequences: int = 1
    """Number of sequences in a decode step of all groups together: those that have a cache."""
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float | None
    """[s] Time per output token; None if there is only one output token."""
    e2e_s: float
    ttft_low_s: float
    ttft_high_s: float
    tpot_low_s: float | None
    tpot_high_s: float | None
    ttft: Latency
    tpot: Latency | None
    itl: Latency | None
    e2e: Latency
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    offered_requests_per_s: float | None = None
    """[1/s] Arrival rate of an open loop; what is not served queues."""
    goodput_requests_per_s: float | None = None
    power_w: float | None = None
    """[W] Power of one device under load."""
    power_origin: str | None = None
    """``measured``, or ``cap`` (the power limit): tokens per joule are then a lower bound."""
    output_tokens_per_joule: float | None = None
    cost_per_million_output_tokens: float | None = None
    """Cost in the currency of ``price_per_hour``."""
    prefix_hits: float | None = None
    """[1] Fraction of the prompts of a trace that the prefix cache held."""
    saturated: bool
    """True if requests wait for KV cache or a sequence slot, or arrive faster than they are
    served: TTFT is then mostly queueing time."""
    most_sequences: int
    """Number of sequences of this length that the KV caches of all devices hold."""
    weight_bytes: float
    cache_bytes_per_sequence: float
    cache_bytes: float
    """[bytes] Memory of each device for the cache."""
    cache_tokens: int
    """[tokens] What the cache of one attention group holds, in sequences of --max-model-len, else
    of the longest request: the size that engines print at start."""
    max_model_len: int | None = None
    """[tokens] Longest request that must fit; None: the longest of the load."""
    reserved_bytes: float
    """[bytes] Memory of each device that the engine keeps for activations, graphs and buffers."""
    decode_parts: tuple[PartTime, ...]
    """Time of a decode step by group; empty if there is only one output token."""
    prefill_parts: tuple[PartTime, ...]
    """Time of the prefill of one request by group; of a static batch, of all of them."""
    answered_by: tuple[str, ...] = ()
    """Which profile answered for which operations, and the origin of its laws."""
    limits: str
    """A sentence that names the bottleneck of each phase."""
    ttft_explained: str
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    tpot_definition: str = "TPOT = (E2E - TTFT) / (output tokens - 1)"

    @property
    def e2e_low_s(self) -> float:
        """[s] Lower end of the 90 % interval: errors of both phases are correlated."""
        return self.ttft_low_s + max(self.output_tokens - 1, 0) * (self.tpot_low_s or 0.0)

    @property
    def e2e_high_s(self) -> float:
        """[s] Upper end of the 90 % interval."""
        return self.ttft_high_s + max(self.output_tokens - 1, 0) * (self.tpot_high_s or 0.0)

    @property
    def rate_factors(self) -> tuple[float, float]:
        """Factors on the rates at the lower and the upper end of their 90 % intervals."""
        if self.tpot_s is None or self.tpot_low_s is None or self.tpot_high_s is None:
            return self.ttft_s / self.ttft_high_s, self.ttft_s / self.ttft_low_s
        return self.tpot_s / self.tpot_high_s, self.tpot_s / self.tpot_low_s


def require_workload(model: Model, w: Workload) -> None:
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
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{name} must be a whole number, not {value!r}")
        if not 1 <= value <= 100_000_000:
            raise InputError(f"{name} must lie between 1 and 100,000,000, not {value}")
    if not 0.0 < w.length_low <= w.length_high <= 2.0:
        raise InputError(
            f"the length range must satisfy 0 < low <= high <= 2, not {w.length_low} to "
            f"{w.length_high}",
            remedy="give fractions of the nominal length such as 0.8 and 1.0",
        )
    if w.kind == "static" and (w.length_low, w.length_high) != (1.0, 1.0):
        raise InputError(
            "the sequences of a static batch have one length",
            remedy="leave --length-low and --length-high out, or predict a server (--concurrency)",
        )
    if not (0.0 <= w.acceptance <= 1.0 and 0 <= w.drafted_tokens <= 64):
        raise InputError(
            f"{w.drafted_tokens} draft tokens with acceptance {w.acceptance} are out of range",
            remedy="give 0 to 64 draft tokens and an acceptance between 0 and 1",
        )
    if w.draft_model is not None and w.draft_model.vocabulary != model.vocabulary:
        raise InputError(
            f"{w.draft_model.id} has {w.draft_model.vocabulary:,} tokens in its vocabulary, "
            f"{model.id} {model.vocabulary:,}: it cannot draft for it",
            remedy="give a smaller model of the same family",
        )
    if not 0.0 <= w.cached < 1.0:
        raise InputError(
            f"the cached fraction of a prompt must be at least 0 and below 1, not {w.cached}"
        )
    if w.kind == "poisson" and not (
        w.request_rate_per_s is not None
        and math.isfinite(w.request_rate_per_s)
        and 0.0 < w.request_rate_per_s <= 1e6
    ):
        raise InputError(
            f"the arrival rate must be above 0 and at most a million requests/s, "
            f"not {w.request_rate_per_s}",
            where="--rate",
            remedy="give the mean number of requests per second, such as 2.5",
        )
    if model.max_context is not None and w.longest_tokens > model.max_context:
        raise InputError(
            f"prompt and output have {w.longest_tokens:.0f} tokens, more than the maximum context "
            f"of {model.id} ({model.max_context})",
            remedy="shorten the prompt or the output",
        )
    if w.num_prompts is not None and w.num_prompts < 1:
        raise InputError(f"the number of prompts must be at least 1, not {w.num_prompts}")
