"""Simulate the continuous-batching scheduler of a server step by step, mainly to predict TTFT.

TTFT under load depends more on scheduling than on hardware: a prompt waits for earlier prompts, is
limited by the token budget of a step, and depends on the scheduling policy. Therefore the scheduler
itself is simulated, with predicted step times instead of a device:

- ``mixed`` (vLLM, TensorRT-LLM): a step decodes all running sequences and fills the rest of its
  token budget with chunks of prompts;
- ``prefill_first`` (SGLang): while prompts wait, a step contains only prompts, and decode pauses;
- ``whole_batch``: all prompts are prefilled at once, then decoded.

Consecutive decode-only steps are simulated in one jump to the next completion or arrival. In a
closed loop each client sends its next request after its previous one has ended.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.profiles.operations import Array

EPSILON = 1e-9

HANDLING_S = 0.001
"""[s] Time between two requests that clients send at once: the server's front end reads and
tokenizes them one after the other. An idle engine begins with the first and does not wait for the
rest, which breaks the step of requests that ended together. Its order of magnitude is what matters:
0.3 ms predicts the TTFT of published rows as well (17.3 % against 17.1), 0 does not (17.9), nor the
two long prompts of a real server (``tests/engine_fit/test_replay.py``)."""


@dataclass(frozen=True)
class Load:
    """The requests sent to one attention group.

    Attributes
    ----------
    prompt_tokens, output_tokens : (N,) ndarray
        Lengths of each request, in the order in which the requests are sent.
    clients : int or None
        Number of clients of a closed loop; None if ``arrival_s`` is given.
    arrival_s : (N,) ndarray or None
        [s] Arrival time of each request in an open loop; None in a closed loop.
    delay_s : float
        [s] Time between the end of a client's request and the start of its next one.
    handling_s : float
        [s] Time that the front end takes for a request before the next one; 0: there is none.
    cached_tokens : (N,) ndarray or None
        Tokens of each prompt that the prefix cache already holds; None: none.
    follows : tuple of int
        The request after whose answer each is sent, ``arrival_s`` later; -1: it has an arrival of
        its own. Empty: all have.
    """

    prompt_tokens: Array
    output_tokens: Array
    clients: int | None = None
    arrival_s: Array | None = None
    delay_s: float = 0.004
    handling_s: float = HANDLING_S
    cached_tokens: Array | None = None
    follows: tuple[int, ...] = ()
    drafted_tokens: int = 0
    """Number of tokens that speculative decoding drafts per sequence and step."""
    acceptance: float = 0.0
    """[1] Probability that a draft token is accepted, given that those before it were."""

    @property
    def tokens_per_step(self) -> float:
        """Mean number of tokens that a sequence gains per step; above 1 with speculation."""
        return 1.0 + sum(self.acceptance**i for i in range(1, self.drafted_tokens + 1))

    def steps_needed(self) -> Array:
        """Return the number of decode steps of each request, (N,).

        With speculation the accepted tokens of each step are drawn: sequences that are lucky end
        earlier, and the batch does not advance in lockstep.
        """
        left = np.maximum(self.output_tokens - 1.0, 0.0)
        if not (self.drafted_tokens and self.acceptance):
            return left
        rng = np.random.default_rng(1)
        needed = np.zeros_like(left)
        for i, tokens in enumerate(left):
            gained = 0.0
            while gained < tokens:
                block = max(1, math.ceil((tokens - gained) / self.tokens_per_step))
                lucky = rng.random((block, self.drafted_tokens)) < self.acceptance
                gains = 1.0 + np.cumprod(lucky, axis=1).sum(axis=1)
                reached = gained + np.cumsum(gains)
                used = min(int(np.searchsorted(reached, tokens)) + 1, block)
                needed[i] += used
                gained = float(reached[used - 1])
        return needed


@dataclass(frozen=True)
class Outcome:
    """Times of each simulated request; the arrays are (N,) and in seconds unless stated."""

    arrival_s: Array
    first_s: Array
    end_s: Array
    gap_s: Array
    """(K, 2) Column 0: [s] inter-token latency; column 1: number of tokens that had it."""
    output_tokens: Array
    queued: int
    """Number of requests that waited for KV cache or a free sequence slot."""
    busy_s: float


def simulate(steps: StepTimes, engine: Engine, load: Load, cache_tokens: float) -> Outcome:
    """Simulate a load on the scheduler of an engine.

    Parameters
    ----------
    steps : StepTimes
        Step times of the deployment.
    engine : Engine
        Scheduling policy, token budget and maximum number of sequences.
    load : Load
        The requests.
    cache_tokens : float
        Number of tokens that the KV cache holds.

    Returns
    -------
    Outcome
        Arrival, first-token and end time of each request.
    """
    return _Simulation(steps, engine, load, cache_tokens).run()


class _Simulation:
    def __init__(self, steps: StepTimes, engine: Engine, load: Load, cache_tokens: float) -> None:
        self.steps, self.engine, self.load = steps, engine, load
        cached = load.cached_tokens if load.cached_tokens is not None else 0.0 * load.prompt_tokens
        self.prompt: list[float] = (load.prompt_tokens - cached).tolist()
        self.past: list[float] = cached.tolist()
        self.output: list[float] = load.output_tokens.tolist()
        self.steps_left: list[float] = load.steps_needed().tolist()
        count = len(self.prompt)
        self.arrival = [0.0] * count
        self.first = [0.0] * count
        self.end = [0.0] * count
        self.coming: list[tuple[float, int]] = []
        self.handled = 0.0
        """[s] When the front end hands the last request to the engine."""
        self.turns: dict[int, list[int]] = {}
        """Requests that are sent after the answer to another one."""
        self.next_request = count
        if load.arrival_s is not None:
            self.arrival = load.arrival_s.tolist()
            follows = load.follows or (-1,) * count
            self.coming = [(a, i) for i, a in enumerate(self.arrival) if follows[i] < 0]
            for i, before in enumerate(follows):
                if before >= 0:
                    self.turns.setdefault(before, []).append(i)
        else:
            clients = min(load.clients or count, count)
            self.coming = [(load.handling_s * i, i) for i in range(clients)]
            self.next_request = clients
            self.handled = load.handling_s * (clients - 1)
        heapq.heapify(self.coming)
        self.waiting: deque[int] = deque()
        self.prefilling: deque[list[float]] = deque()  # request, tokens left, tokens done
        self.running: list[tuple[float, int]] = []  # heap of (step at which it ends, request)
        self.done_steps = 0.0
        self.gain = load.tokens_per_step
        self.context_sum = 0.0
        """[tokens] Sum of the contexts of the running sequences, each minus what all have gained
        since the start of the simulation."""
        self.free = cache_tokens
        self.now = 0.0
        self.stall = 0.0
        self.gaps: list[tuple[float, float]] = []
        self.queued: set[int] = set()
        self.busy = 0.0

    def run(self) -> Outcome:
        while self.coming or self.waiting or self.prefilling or self.running:
            self.arrive()
            self.admit()
            if self.prefilling:
                self.prefill_step()
            elif self.running:
                self.decode_stretch()
            elif self.coming:
                self.now = max(self.now, self.coming[0][0])
            else:  # a request larger than the whole cache: run it alone, so that the loop ends
                self.take(self.waiting.popleft())
        gaps = np.array(self.gaps) if self.gaps else np.zeros((0, 2))
        return Outcome(
            np.array(self.arrival), np.array(self.first), np.array(self.end), gaps,
            np.array(self.output), len(self.queued), self.busy,
        )  # fmt: skip

    def arrive(self) -> None:
        while self.coming and self.coming[0][0] <= self.now + EPSILON:
            _, request = heapq.heappop(self.coming)
            self.waiting.append(request)

    def need(self, request: int) -> float:
        whole = self.prompt[request] + self.past[request]
        return whole + self.engine.reserve_output * self.output[request]

    def admit(self) -> None:
        while self.waiting:
            request = self.waiting[0]
            places = self.engine.max_sequences - len(self.running) - len(self.prefilling)
            if places <= 0 or self.need(request) > self.free:
                self.queued.add(request)
                return
            self.take(self.waiting.popleft())

    def take(self, request: int) -> None:
        self.free -= self.need(request)
        self.prefilling.append([request, self.prompt[request], self.past[request]])

    def mean_context(self) -> float:
        return self.context_sum / len(self.running) + self.gain * self.done_steps

    def prefill_step(self) -> None:
        mixed = self.engine.policy == "mixed"
        decoding = len(self.running) if mixed else 0
        budget = float(self.engine.token_budget)
        room = max(budget - decoding * self.steps.rows_a_sequence, 1.0)
        if self.engine.policy == "whole_batch":
            room = float("inf")
        chunk = prompts = past = 0.0
        finished: list[int] = []
        for entry in self.prefilling:
            if room < 1.0:
                break
            whole = self.engine.policy == "prefill_first" and entry[1] <= budget
            if whole and entry[1] > room:
                break  # prefill_first does not split a prompt that fits into one step
            part = min(entry[1], room)
            chunk, prompts, past = chunk + part, prompts + 1.0, past + part * entry[2]
            room -= part
            entry[1] -= part
            entry[2] += part
            if entry[1] < 1e-6:
                finished.append(int(entry[0]))
        chunk = max(chunk, 1.0)
        context = self.mean_context() if decoding else 0.0
        took = self.steps.step_s(decoding, context, chunk, prompts, past / chunk)
        self.advance_time(took)
        if decoding:
            self.gaps.append((took + self.stall, float(decoding)))
            self.stall = 0.0
            self.done_steps += 1.0
            self.retire()
        elif self.running:
            self.stall += took
        for request in finished:
            self.start(request)
        while self.prefilling and self.prefilling[0][1] < 1e-6:
            self.prefilling.popleft()

    def start(self, request: int) -> None:
        self.first[request] = self.now
        left = self.steps_left[request]
        if left <= 0:
            self.finish(request)
            return
        heapq.heappush(self.running, (self.done_steps + left, request))
        self.context_sum += self.joined(request) - self.gain * self.done_steps

    def joined(self, request: int) -> float:
        """Return the context of a request when it begins to decode."""
        return self.prompt[request] + self.past[request] + 1.0

    def decode_stretch(self) -> None:
        count = len(self.running)
        left = max(self.running[0][0] - self.done_steps, EPSILON)
        context = self.mean_context()
        begin = self.steps.decode_s(count, context)
        many = max(1.0, float(math.ceil(left - EPSILON)))
        if self.coming:
            until = max(self.coming[0][0] - self.now, 0.0)
            many = max(1.0, min(many, float(-(-until // begin))))
        took = 0.5 * many * (begin + self.steps.decode_s(count, context + many * self.gain))
        if self.stall:
            self.gaps.append((self.stall + begin, float(count)))
            self.stall = 0.0
        self.gaps.append((took / many, many * count))
        self.advance_time(took)
        self.done_steps += many
        self.retire()

    def retire(self) -> None:
        while self.running and self.running[0][0] <= self.done_steps + 1e-6:
            ends, request = heapq.heappop(self.running)
            # Subtract exactly what start() added: the context then minus the steps until then.
            began = ends - self.steps_left[request]
            self.context_sum -= self.joined(request) - self.gain * began
            self.finish(request)

    def finish(self, request: int) -> None:
        self.end[request] = self.now
        self.free += self.need(request)
        for turn in self.turns.pop(request, ()):
            self.arrival[turn] += self.now
            heapq.heappush(self.coming, (self.arrival[turn], turn))
        if self.next_request < len(self.prompt):
            sent = self.arrival[self.next_request] = self.now + self.load.delay_s
            self.handled = max(sent, self.handled + self.load.handling_s)
            heapq.heappush(self.coming, (self.handled, self.next_request))
            self.next_request += 1

    def advance_time(self, took: float) -> None:
        self.now += took
        self.busy += took
