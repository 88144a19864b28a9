"""A trace: requests with their arrivals, lengths, shared prefixes and sessions.

Two requests share a prefix where their first *blocks* are the same: a block stands for a fixed
number of tokens and of all tokens before it. A request of a session may have no arrival of its own:
it is sent some time after the answer to the one before.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


class TraceRequest(NamedTuple):
    """One request of a trace."""

    arrival_s: float
    """[s] Arrival; if :attr:`waits`, time after the answer to the turn before."""
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Identity of each block of the prompt; empty: it shares nothing."""
    before: int = -1
    """Index of the turn before in the trace; -1: none."""
    waits: bool = False
    """Whether it is sent after the answer to the turn before, not at a time of its own."""


@dataclass(frozen=True)
class Trace:
    """Requests by arrival; a turn stands after the one before it."""

    requests: tuple[TraceRequest, ...]
    block_tokens: int = 0
    """[tokens] Size of a block; 0: nothing is known of shared prefixes."""

    @cached_property
    def mean_prompt_tokens(self) -> float:
        """Mean length of the prompts, with the history of their sessions."""
        return sum(r.prompt_tokens for r in self.requests) / len(self.requests)

    @cached_property
    def mean_output_tokens(self) -> float:
        """Mean length of the answers."""
        return sum(r.output_tokens for r in self.requests) / len(self.requests)

    @cached_property
    def longest_tokens(self) -> int:
        """Prompt and output of the longest request."""
        return max(r.prompt_tokens + r.output_tokens for r in self.requests)

    @cached_property
    def waits(self) -> bool:
        """Whether some requests are sent after the answer to the turn before."""
        return any(r.waits for r in self.requests)

    def share(self, groups: float) -> "Trace":
        """Return what one of several groups gets: every n-th request, sessions kept together."""
        every = max(1, round(groups))
        if every == 1:
            return self
        place: dict[int, int] = {}
        kept: list[TraceRequest] = []
        roots = 0
        for index, request in enumerate(self.requests):
            if request.before < 0:
                mine, before = roots % every == 0, -1
                roots += 1
            else:
                mine, before = request.before in place, place.get(request.before, -1)
            if mine:
                place[index] = len(kept)
                kept.append(request._replace(before=before))
        return Trace(tuple(kept), self.block_tokens)
