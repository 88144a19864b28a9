"""Read how a row describes separate pools and speculation: short texts that people write.

>>> layout = read_layout("1p x 8 GPU (ep8 dp-attn) + 2d x TP4, NIXL")
>>> layout.prefill
PoolText(replicas=1, devices=8, ep=8, attention_groups=True)
>>> layout.decode
PoolText(replicas=2, devices=4, ep=1, attention_groups=False)
>>> read_speculation("EAGLE3 k=4, accept_len=3.31")
SpeculationText(drafted_tokens=4, tokens_per_step=3.31, looked_up=False)
"""

import re
from dataclasses import dataclass

from groundspeed.profiles.errors import InputError

POOL = re.compile(
    r"(?P<count>\d+)\s*(?P<phase>[pd])(?:refill|ecode)?\b|(?P<count2>\d+)(?P<phase2>[pd])(?=\d)",
    re.IGNORECASE,
)
DEVICES = re.compile(r"tp\s*=?\s*(\d+)|(\d+)\s*GPU", re.IGNORECASE)
EXPERTS = re.compile(r"\bep\s*=?\s*(\d+)", re.IGNORECASE)
GROUPS = re.compile(r"dp.?attn|dp.?attention", re.IGNORECASE)

DRAFTED = re.compile(
    r"\bk\s*=\s*(\d+)|num_speculative_tokens\W+(\d+)|speculative-num-steps[\s=]+(\d+)"
    r"|num_nextn_predict_layers\W+(\d+)",
    re.IGNORECASE,
)
ACCEPTED = re.compile(r"accept(?:ance)?[ _-]?len(?:gth)?\W+(\d+(?:\.\d+)?)", re.IGNORECASE)
LOOKED_UP = re.compile(r"n-?gram|prompt.?lookup|lookahead", re.IGNORECASE)


@dataclass(frozen=True)
class PoolText:
    """One pool of a layout."""

    replicas: int
    devices: int
    """GPUs of each replica; at least as many as ranks of experts."""
    ep: int
    attention_groups: bool
    """Whether each GPU attends to sequences of its own (data-parallel attention)."""


@dataclass(frozen=True)
class Layout:
    """Separate pools of prefill and decode replicas."""

    prefill: PoolText
    decode: PoolText


@dataclass(frozen=True)
class SpeculationText:
    """What a text says of speculative decoding; None where it does not."""

    drafted_tokens: int | None
    tokens_per_step: float | None
    looked_up: bool
    """Whether tokens are looked up in the prompt, without a draft."""


def read_layout(text: str) -> Layout:
    """Return the pools that a text describes.

    Raises
    ------
    InputError
        If it names no prefill or no decode replicas, or a count of 0.
    """
    found = list(POOL.finditer(text))
    pools: dict[str, PoolText] = {}
    ends = [following.start() for following in found[1:]] + [len(text)]
    common = _devices(text[found[-1].end() :]) if found else None
    for this, end in zip(found, ends, strict=False):
        part = text[this.end() : end]
        phase = (this["phase"] or this["phase2"]).lower()
        ep = EXPERTS.search(part)
        ranks = int(ep[1]) if ep else 1
        devices = max(_devices(part) or common or 1, ranks)
        count = int(this["count"] or this["count2"])
        if count < 1:
            raise InputError(f"a pool of no replicas: '{text[:60]}'", where="disagg")
        pools.setdefault(phase, PoolText(count, devices, ranks, bool(GROUPS.search(part))))
    if set(pools) != {"p", "d"}:
        raise InputError(
            f"the pools are not understood: '{text[:60]}'",
            where="disagg",
            remedy="write them like '1p x 8 GPU + 2d x 8 GPU (ep8 dp-attn)'",
        )
    return Layout(pools["p"], pools["d"])


def _devices(text: str) -> int | None:
    found = DEVICES.search(text)
    return int(found[1] or found[2]) if found else None


def read_speculation(text: str) -> SpeculationText:
    """Return what a text says of speculative decoding."""
    drafted, accepted = DRAFTED.search(text), ACCEPTED.search(text)
    return SpeculationText(
        int(next(g for g in drafted.groups() if g)) if drafted else None,
        float(accepted[1]) if accepted else None,
        bool(LOOKED_UP.search(text)),
    )
