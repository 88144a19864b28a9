"""The prefix cache of an engine: which tokens of each prompt of a trace are already computed.

Engines keep the keys and values of finished requests until the memory is needed, the least recently
used block first; of a request, later blocks go before earlier ones, because a block is of no use
without those before it. The cache is followed here in the order of arrivals, as large as the memory
that the engine has for keys and values: running requests hold blocks too, and these are the ones
that were used last.

A block counts if all before it do. The last token of a prompt is always computed.

>>> requests = (TraceRequest(0.0, 40, 9, (1, 2, 3)), TraceRequest(1.0, 50, 9, (1, 2, 4, 5)))
>>> cached_tokens(Trace(requests, block_tokens=16), capacity_tokens=1000.0)
[0, 32]
"""

from collections import OrderedDict

from groundspeed.estimator.traffic.trace import Trace, TraceRequest


def cached_tokens(trace: Trace, capacity_tokens: float) -> list[int]:
    """Return the number of tokens of each prompt that the prefix cache holds.

    Parameters
    ----------
    trace : Trace
        Its blocks say what prompts share.
    capacity_tokens : float
        Size of the cache.
    """
    size = trace.block_tokens
    if not size:
        return [0] * len(trace.requests)
    cache: OrderedDict[int, None] = OrderedDict()
    room = int(capacity_tokens // size)
    found = [0] * len(trace.requests)
    for place in _in_order(trace):
        request = trace.requests[place]
        hits = 0
        for block in request.blocks:
            if block not in cache:
                break
            hits += 1
        if request.before >= 0:
            hits = _with_answer(hits, trace.requests[request.before], size, len(request.blocks))
        found[place] = min(hits * size, (request.prompt_tokens - 1) // size * size)
        for block in reversed(request.blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > room:
            cache.popitem(last=False)
    return found


def _in_order(trace: Trace) -> list[int]:
    """Return the requests by arrival: turns of sessions side by side, not one after the other.

    How long an answer takes is not known here, so a turn comes after as many others as it has
    turns before it, and after the pauses of its session.
    """
    if not trace.waits:
        return list(range(len(trace.requests)))
    when: list[tuple[float, int]] = []
    for request in trace.requests:
        start, turn = when[request.before] if request.waits else (0.0, -1)
        when.append((start + request.arrival_s, turn + 1))
    return sorted(range(len(when)), key=lambda i: when[i])


def _with_answer(hits: int, before: TraceRequest, size: int, blocks: int) -> int:
    """Count the answer of the turn before, whose keys and values decoding has left behind."""
    if hits * size < before.prompt_tokens - size + 1:
        return hits  # its prompt is gone, so is what came after it
    return min(max(hits, (before.prompt_tokens + before.output_tokens) // size), blocks)
