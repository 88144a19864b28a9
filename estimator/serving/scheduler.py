"""Simulate a server iteration by iteration: where TTFT comes from.

TTFT under load is scheduling, not hardware: a prompt waits for those before it, for the tokens a
step may hold, for the policy. So the scheduler runs, with the step times of the model in place of
the device:

- ``mixed`` (vLLM, TensorRT-LLM): a step decodes all running sequences and fills the rest of its
  token budget with prompts, in chunks;
- ``prefill_first`` (SGLang): while prompts wait, a step is nothing but prompts, and decode stands
  still;
- ``whole_batch``: all prompts at once, then decode.

Stretches that only decode are skipped in one jump to the next end or arrival. In a closed loop
each client sends its next request when the last has ended.
"""

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np

from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.serving.step_time import StepTimes
from groundspeed.profiles.operations import Array

EPSILON = 1e-9


@dataclass(frozen=True)
class Load:
    """Requests that arrive.

    Attributes
    ----------
    prompt_tokens, output_tokens : (N,) ndarray
        Of each request, in order.
    clients : int or None
        Of a closed loop; None if ``arrival_s`` says when each arrives.
    arrival_s : (N,) ndarray or None
        [s]
    delay_s : float
        Between a client's end of one request and its next.
    cached_tokens : float
        Share of each prompt that a prefix cache already holds.
    """

    prompt_tokens: Array
    output_tokens: Array
    clients: int | None = None
    arrival_s: Array | None = None
    delay_s: float = 0.004
    cached_share: float = 0.0
    tokens_per_step: float = 1.0
    """Above 1 with speculative decoding: tokens a sequence gains a step, on average."""


@dataclass(frozen=True)
class Outcome:
    """What each request met; all (N,) [s]."""

    arrival_s: Array
    first_s: Array
    end_s: Array
    gap_s: Array
    """(K, 2): times between a sequence's tokens, and how many of them there were."""
    output_tokens: Array
    queued: int
    """Requests that had to wait for memory or a place."""
    busy_s: float


def simulate(steps: StepTimes, engine: Engine, load: Load, cache_tokens: float) -> Outcome:
    """Run a load through a scheduler.

    Parameters
    ----------
    steps : StepTimes
    engine : Engine
    load : Load
    cache_tokens : float
        Tokens that the cache holds.

    Returns
    -------
    Outcome
    """
    return _Server(steps, engine, load, cache_tokens).run()


class _Server:
    def __init__(self, steps: StepTimes, engine: Engine, load: Load, cache_tokens: float) -> None:
        self.steps, self.engine, self.load = steps, engine, load
        self.prompt: list[float] = (load.prompt_tokens * (1.0 - load.cached_share)).tolist()
        self.past: list[float] = (load.prompt_tokens * load.cached_share).tolist()
        self.output: list[float] = load.output_tokens.tolist()
        count = len(self.prompt)
        self.arrival = [0.0] * count
        self.first = [0.0] * count
        self.end = [0.0] * count
        self.coming: list[tuple[float, int]] = []
        self.next_request = count
        if load.arrival_s is not None:
            self.arrival = load.arrival_s.tolist()
            self.coming = [(a, i) for i, a in enumerate(self.arrival)]
        else:
            clients = min(load.clients or count, count)
            self.coming = [(0.0, i) for i in range(clients)]
            self.next_request = clients
        heapq.heapify(self.coming)
        self.waiting: deque[int] = deque()
        self.prefilling: deque[list[float]] = deque()  # request, tokens left, tokens done
        self.running: list[tuple[float, int]] = []  # the step at which it ends, request
        self.done_steps = 0.0
        self.context_sum = 0.0
        """Of the running sequences' contexts as if all had joined at step 0."""
        self.free = cache_tokens
        self.now = 0.0
        self.stall = 0.0
        self.gaps: list[tuple[float, float]] = []
        self.queued = 0
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
            else:  # what waits can never be admitted: it runs alone, over what memory holds
                self.take(self.waiting.popleft())
        gaps = np.array(self.gaps) if self.gaps else np.zeros((0, 2))
        return Outcome(
            np.array(self.arrival), np.array(self.first), np.array(self.end), gaps,
            np.array(self.output), self.queued, self.busy,
        )  # fmt: skip

    def arrive(self) -> None:
        while self.coming and self.coming[0][0] <= self.now + EPSILON:
            when, request = heapq.heappop(self.coming)
            self.arrival[request] = when
            self.waiting.append(request)

    def need(self, request: int) -> float:
        whole = self.prompt[request] + self.past[request]
        return whole + self.engine.reserve_output * self.output[request]

    def admit(self) -> None:
        while self.waiting:
            request = self.waiting[0]
            places = self.engine.max_sequences - len(self.running) - len(self.prefilling)
            if places <= 0 or self.need(request) > self.free:
                self.queued += 1 if self.now > self.arrival[request] + 1.0 else 0
                return
            self.take(self.waiting.popleft())

    def take(self, request: int) -> None:
        self.free -= self.need(request)
        self.prefilling.append([request, self.prompt[request], self.past[request]])

    def mean_context(self) -> float:
        return self.context_sum / len(self.running) + self.done_steps

    def prefill_step(self) -> None:
        mixed = self.engine.policy == "mixed"
        decoding = len(self.running) if mixed else 0
        budget = float(self.engine.token_budget)
        room = max(budget - decoding, 1.0)
        if self.engine.policy == "whole_batch":
            room = float("inf")
        chunk = prompts = past = 0.0
        finished: list[int] = []
        for entry in self.prefilling:
            if room < 1.0:
                break
            whole = self.engine.policy == "prefill_first" and entry[1] <= budget
            if whole and entry[1] > room:
                break  # a prompt that fits a step is not cut
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
            self.done_steps += self.load.tokens_per_step
            self.retire()
        elif self.running:
            self.stall += took
        for request in finished:
            self.start(request)
        while self.prefilling and self.prefilling[0][1] < 1e-6:
            self.prefilling.popleft()

    def start(self, request: int) -> None:
        self.first[request] = self.now
        left = self.output[request] - 1.0
        if left <= 0:
            self.finish(request)
            return
        heapq.heappush(self.running, (self.done_steps + left, request))
        self.context_sum += self.prompt[request] + self.past[request] + 1.0 - self.done_steps

    def decode_stretch(self) -> None:
        count = len(self.running)
        gain = self.load.tokens_per_step
        tokens = max(self.running[0][0] - self.done_steps, EPSILON)
        context = self.mean_context()
        begin = self.steps.decode_s(count, context)
        many = max(1.0, -(-tokens // gain))
        if self.coming:
            until = max(self.coming[0][0] - self.now, 0.0)
            many = max(1.0, min(many, float(-(-until // begin))))
        took = 0.5 * many * (begin + self.steps.decode_s(count, context + many * gain))
        if self.stall:
            self.gaps.append((self.stall + begin, float(count)))
            self.stall = 0.0
        self.gaps.append((took / many, many * count))
        self.advance_time(took)
        self.done_steps += many * gain
        self.retire()

    def retire(self) -> None:
        while self.running and self.running[0][0] <= self.done_steps + 1e-6:
            ends, request = heapq.heappop(self.running)
            # As it was counted in: its context then, less the steps until then.
            joined = ends - (self.output[request] - 1.0)
            self.context_sum -= self.prompt[request] + self.past[request] + 1.0 - joined
            self.finish(request)

    def finish(self, request: int) -> None:
        self.end[request] = self.now
        self.free += self.need(request)
        if self.next_request < len(self.prompt):
            heapq.heappush(self.coming, (self.now + self.load.delay_s, self.next_request))
            self.next_request += 1

    def advance_time(self, took: float) -> None:
        self.now += took
        self.busy += took
