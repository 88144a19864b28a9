"""Which load the options of ``groundspeed estimate`` describe, and which options belong to it.

An option without effect is a trap: a user believes that a number holds for a KV cache in 8 bit, and
it does not. Every option is therefore used, or refused in one line.

>>> load_of(["--concurrency", "--slo"])
'closed'
>>> load_of([])
'static'
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from groundspeed.profiles.errors import InputError

Load = Literal["static", "closed", "open"]

ANY = ("static", "closed", "open")
SERVER = ("closed", "open")

BELONGS: dict[str, tuple[str, ...]] = {
    "--batch": ("static",),
    "--concurrency": ("closed",),
    "--rate": ("open",),
    "--trace": ("open",),
    "--measured": ("closed",),
    "--plot": ("closed",),
    "--prefill-decode": ("closed",),
    "--slo": SERVER,
    "--simulate": SERVER,
    "--num-prompts": SERVER,
    "--length-low": SERVER,
    "--length-high": SERVER,
    "--max-sequences": SERVER,
    "--isl": ANY,
    "--osl": ANY,
    "--engine": ANY,
    "--engine-profile": ANY,
    "--engine-version": ANY,
    "--token-budget": ANY,
    "--image-tokens": ("static", "closed", "open"),
    "--memory-fraction": ANY,
    "--gpus-per-node": ANY,
    "--inter-node": ANY,
    "--gpu-link": ANY,
    "--max-model-len": ANY,
    "--price": ANY,
    "--draft-tokens": ANY,
    "--acceptance": ANY,
    "--draft": ANY,
    "--kv-dtype": ANY,
    "--cached": ANY,
    "--tp": ANY,
    "--pp": ANY,
    "--ep": ANY,
    "--dp": ANY,
    "--replicas": ANY,
}
"""The loads that each option belongs to."""

NAIVE = ("--batch", "--isl", "--osl", "--utilization")
"""Options of the back-of-the-envelope method, besides model, GPU, lengths and data type."""

TOGETHER = (
    ("--acceptance", "--draft-tokens"),
    ("--draft", "--draft-tokens"),
    ("--engine-version", "--engine"),
    ("--token-budget", "--engine"),
)
"""Options that need another one in a static batch or everywhere."""

OWN_OF_A_TRACE = ("--rate", "--isl", "--osl", "--num-prompts", "--length-low", "--length-high")

NAMES = {
    "static": "a static batch",
    "closed": "a closed loop (--concurrency)",
    "open": "an open loop (--rate or --trace)",
}


UNMODELLED = {
    "--eager": "steps without captured graphs are not modelled: their launches depend on the host, "
    "and nothing published measures them",
    "--lora-rank": "adapters are not modelled: their grouped GEMMs were not measured",
    "--host-cache": "a tier of the cache in host memory is not modelled",
}
"""Options of engines that change the result and that no prediction covers."""


def refuse_unmodelled(given: Mapping[str, object]) -> None:
    """Reject an option that would change the result in a way that is not modelled.

    Raises
    ------
    InputError
        If one is given; the message says why.
    """
    for name, value in given.items():
        if value:
            raise InputError(UNMODELLED[name], where=name, remedy="leave it out")


def load_of(given: Sequence[str], *, naive: bool = False) -> Load:
    """Return the kind of load that the given options describe.

    Parameters
    ----------
    given : sequence of str
        Names of the options that the user gave.
    naive : bool, default False
        Whether the back-of-the-envelope method was chosen, which knows static batches only.

    Raises
    ------
    InputError
        If two options contradict each other, or one would have no effect.
    """
    if naive:
        other = [name for name in given if name not in NAIVE]
        if other:
            raise InputError(
                "has no effect on the naive method, which knows one device and dense decoders",
                where=other[0],
                remedy="leave it out, or leave out --method",
            )
        return "static"
    if "--utilization" in given:
        raise InputError(
            "has no effect without --method naive",
            where="--utilization",
            remedy="the utilization of the other method is measured",
        )
    load: Load = "static"
    server = [n for n in given if BELONGS[n] in (SERVER, ("closed",)) or n == "--engine"]
    if "--rate" in given or "--trace" in given:
        load = "open"
    elif "--concurrency" in given or (server and "--batch" not in given):
        load = "closed"
    if "--trace" in given:
        for name in OWN_OF_A_TRACE:
            if name in given:
                raise InputError(
                    "a trace has its own arrivals and lengths",
                    where=name,
                    remedy=f"leave out {name} or --trace",
                )
    if "--prefill-decode" in given and "--replicas" in given:
        raise InputError(
            "names the replicas itself", where="--prefill-decode", remedy="leave out --replicas"
        )
    for name in given:
        if load not in BELONGS[name]:
            fits = " or ".join(NAMES[b] for b in BELONGS[name])
            raise InputError(
                f"belongs to {fits}, not to {NAMES[load]}",
                where=name,
                remedy="leave it out, or leave out what asks for the other load",
            )
    for name, needed in TOGETHER:
        # A server has a default engine, whose version or budget may be given.
        default = needed == "--engine" and load != "static"
        if name in given and needed not in given and not default:
            raise InputError(f"needs {needed}", where=name, remedy=f"give {needed} too")
    return load
