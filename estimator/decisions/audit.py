"""Check a published claim: whether it says what is needed, is possible, and what it means.

A claim is a rate (tokens a second) and what it counts. A total of 170 tokens a second at 3200 in
and 800 out is not 170 tokens anybody waits for: a request of 4000 tokens takes 23.5 s, in which 800
are written, 34 a second. Swap the lengths and the same hardware shows a quarter of the total. So a
claim is turned into the time of a request and the rate of each phase, held against the roof of the
datasheet and against a prediction, and shown at swapped lengths.

The article this begins from takes the whole request as decode; beside it stands what prefill really
takes, by prediction.
"""

from dataclasses import dataclass
from typing import Literal

from groundspeed.estimator.engines.engine import Costs, Engine
from groundspeed.estimator.hardware.law_lookup import DatasheetHardware, Hardware
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.deployment import Deployment
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import ServingWorkload
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

Counts = Literal["total", "output"]
Severity = Literal["ok", "warning", "wrong"]

NEEDED = ("counts", "isl", "osl", "concurrency", "gpus", "dtype")
"""What a rate means nothing without."""

SURPRISING = 1.5
"""A claim this many times off a prediction wants an explanation."""


@dataclass(frozen=True)
class Claim:
    """What somebody published; None is what they did not say."""

    tokens_per_s: float
    model: Model
    gpu: str
    counts: Counts | None = None
    isl: int | None = None
    osl: int | None = None
    concurrency: int | None = None
    gpus: int | None = None
    dtype: str | None = None
    label: str = "the claim"


class Check(Record):
    """One thing that was looked at."""

    name: str
    severity: Severity
    text: str


class Figure(Record):
    """One number that follows from a claim."""

    name: str
    value: float
    unit: str
    how: str


class Audit(Record):
    """What a claim says, and whether it can be true."""

    label: str
    model: str
    gpu: str
    checks: tuple[Check, ...]
    figures: tuple[Figure, ...]
    passes: bool
    """Nothing in it is wrong."""


def audit_claim(
    claim: Claim, hardware: Hardware, datasheet: DeviceSpec | None, engine: Engine
) -> Audit:
    """Check a claim.

    Parameters
    ----------
    claim : Claim
    hardware : Hardware
        What is known of the device best.
    datasheet : DeviceSpec or None
        For the roof.
    engine : Engine
        Whose scheduling a prediction takes.

    Raises
    ------
    InputError
        If the rate is not positive, or the prediction cannot be made.
    """
    if not claim.tokens_per_s > 0:
        raise InputError(f"a claim of {claim.tokens_per_s} tokens a second claims nothing")
    missing = [name for name in NEEDED if getattr(claim, name) is None]
    checks = [
        Check(name="stated", severity="ok", text="everything that is needed is stated")
        if not missing
        else Check(
            name="stated",
            severity="warning",
            text=f"not stated: {', '.join(missing)}; {_why(missing)}",
        )
    ]
    figures: list[Figure] = []
    if claim.isl is None or claim.osl is None or claim.concurrency is None:
        checks.append(_range_of_truths(claim, hardware, engine))
        return _audit(claim, checks, figures)
    for counts in ("total", "output") if claim.counts is None else (claim.counts,):
        figures += _figures(claim, counts, hardware, engine)
    if datasheet is not None:
        checks.append(_roof(claim, datasheet, engine))
    checks.append(_against_prediction(claim, hardware, engine))
    return _audit(claim, checks, figures)


def _audit(claim: Claim, checks: list[Check], figures: list[Figure]) -> Audit:
    return Audit(
        label=claim.label,
        model=claim.model.id,
        gpu=claim.gpu,
        checks=tuple(checks),
        figures=tuple(figures),
        passes=all(c.severity != "wrong" for c in checks),
    )


def _why(missing: list[str]) -> str:
    reasons = {
        "counts": "input and output together are several times output alone",
        "isl": "a prompt's tokens are computed many times faster than they are written",
        "osl": "the share of output decides what a total means",
        "concurrency": "throughput rises and every user slows down with it",
        "gpus": "per system or per GPU",
        "dtype": "half the bits is up to twice the speed",
    }
    return "; ".join(reasons[m] for m in missing)


def request_time_s(claim: Claim, counts: Counts) -> float:
    """Time of one request if all clients are always busy: tokens it counts, over its share."""
    assert claim.isl is not None and claim.osl is not None and claim.concurrency is not None
    counted = claim.isl + claim.osl if counts == "total" else claim.osl
    return counted * claim.concurrency / claim.tokens_per_s


def _server(claim: Claim, hardware: Hardware, engine: Engine) -> Server:
    devices = claim.gpus or 1
    return Server(claim.model, Deployment(tp=devices, dtype=claim.dtype), engine, hardware)


def _workload(claim: Claim) -> ServingWorkload:
    return ServingWorkload(claim.isl or 1024, claim.osl or 1024, claim.concurrency or 1)


def _figures(claim: Claim, counts: Counts, hardware: Hardware, engine: Engine) -> list[Figure]:
    """Request time, rate of decode read both ways, and the swap of lengths."""
    isl, osl, clients = claim.isl or 1, claim.osl or 1, claim.concurrency or 1
    time = request_time_s(claim, counts)
    as_decode = osl / time
    prediction = _server(claim, hardware, engine).predict(_workload(claim))
    prefill = min(prediction.ttft_s, 0.95 * time)
    decode = (osl - 1) / (time - prefill) if osl > 1 else as_decode
    swapped = isl / as_decode
    honest = prefill * osl / isl + (isl - 1) / decode
    total = isl + osl
    say = f" (if it counts {counts} tokens)" if claim.counts is None else ""
    return [
        _figure(f"time of a request{say}", time, "s", "tokens counted x clients / rate"),
        _figure("output a user sees", as_decode, "token/s",
                "output / time of the request: the whole request taken as decode"),
        _figure("time of a token, so read", 1e3 / as_decode, "ms", "its inverse"),
        _figure("prefill, predicted", prefill, "s", f"TTFT of {hardware.id} with {engine.title}"),
        _figure("decode alone", decode, "token/s", "output over the rest of the time"),
        _figure("the same with lengths swapped", swapped, "s",
                f"{osl} in, {isl} out, all as decode"),
        _figure("its total rate", total * clients / swapped, "token/s",
                "the same number of tokens in another mix"),
        _figure("swapped, prefill apart", honest, "s", "prefill in proportion, then decode"),
        _figure("its total rate, so read", total * clients / honest, "token/s", ""),
        _figure("output only", claim.tokens_per_s * osl / total if counts == "total"
                else claim.tokens_per_s, "token/s", "never compare this with a total"),
    ]  # fmt: skip


def _figure(name: str, value: float, unit: str, how: str) -> Figure:
    return Figure(name=name, value=value, unit=unit, how=how)


def _roof(claim: Claim, datasheet: DeviceSpec, engine: Engine) -> Check:
    """The most that the peaks of the datasheet allow, without any overhead."""
    nothing = Costs(step_s=0.0, layer_s=0.0, sequence_s=0.0, collective_s=0.0, request_s=0.0)
    bare = engine.model_copy(
        update={"costs": nothing, "overhead_bytes": 0.0, "memory_fraction": 1.0}
    )
    server = _server(claim, DatasheetHardware(datasheet), bare)
    bound = server.predict(_workload(claim))
    roof = bound.total_tokens_per_s if claim.counts != "output" else bound.output_tokens_per_s
    share = claim.tokens_per_s / roof
    if share > 1.0:
        return Check(
            name="possible",
            severity="wrong",
            text=f"{share:.2f} times the roof: the datasheet's peaks allow {roof:,.0f} tokens/s "
            f"({claim.counts or 'total'}) of this workload",
        )
    return Check(
        name="possible",
        severity="ok",
        text=f"{share:.0%} of what the datasheet's peaks allow ({roof:,.0f} tokens/s)",
    )


def _against_prediction(claim: Claim, hardware: Hardware, engine: Engine) -> Check:
    prediction = _server(claim, hardware, engine).predict(_workload(claim))
    rate = (
        prediction.total_tokens_per_s
        if claim.counts != "output"
        else prediction.output_tokens_per_s
    )
    ratio = claim.tokens_per_s / rate
    low, high = (
        prediction.tpot_s / prediction.tpot_high_s,
        prediction.tpot_s / prediction.tpot_low_s,
    )
    text = (
        f"{ratio:.2f} times the prediction of {rate:,.0f} tokens/s "
        f"[{rate * low:,.0f}, {rate * high:,.0f}] ({hardware.id}, {engine.title} "
        f"{engine.from_version} on)"
    )
    if low <= ratio <= high:
        return Check(name="plausible", severity="ok", text=text)
    if 1.0 / SURPRISING <= ratio <= SURPRISING:
        return Check(name="plausible", severity="ok", text=text + ": outside the interval")
    what = (
        "faster: speculation, a cache of prefixes, or other lengths than stated"
        if ratio > 1.0
        else "slower: an older engine, no captured graphs, or a system that was not tuned"
    )
    return Check(name="plausible", severity="warning", text=f"{text}; {what}?")


def _range_of_truths(claim: Claim, hardware: Hardware, engine: Engine) -> Check:
    """What the same words allow: predictions over the lengths and clients left open."""
    isls = [claim.isl] if claim.isl else [128, 1024, 8192]
    osls = [claim.osl] if claim.osl else [128, 1024, 4096]
    clients = [claim.concurrency] if claim.concurrency else [1, 16, 128]
    server = _server(claim, hardware, engine)
    rates: list[tuple[float, str]] = []
    for isl in isls:
        for osl in osls:
            for n in clients:
                try:
                    prediction = server.predict(ServingWorkload(isl, osl, n))
                except InputError:
                    continue
                for counts, rate in (
                    ("total", prediction.total_tokens_per_s),
                    ("output", prediction.output_tokens_per_s),
                ):
                    if claim.counts in (None, counts):
                        rates.append((rate, f"{isl}/{osl}, {n} clients, {counts}"))
    if not rates:
        raise InputError(f"{claim.model.id} cannot be served by {claim.gpus or 1} x {claim.gpu}")
    low, high = min(rates), max(rates)
    return Check(
        name="range",
        severity="warning",
        text=f"with what is left open the same system may show {low[0]:,.0f} ({low[1]}) to "
        f"{high[0]:,.0f} tokens/s ({high[1]})",
    )


class FairComparison(Record):
    """Two claims on one footing."""

    names: tuple[str, str]
    comparable: bool
    differences: tuple[str, ...]
    output_per_gpu: tuple[float | None, float | None]
    """Output tokens a second a GPU, where it follows."""
    ratio: float | None
    verdict: str


def compare_claims(first: Claim, second: Claim) -> FairComparison:
    """Put two claims side by side: what differs beside the hardware, and what is left of it."""
    differences = []
    for name, label in (
        ("isl", "input length"), ("osl", "output length"), ("concurrency", "concurrency"),
        ("dtype", "precision"), ("counts", "what is counted"),
    ):  # fmt: skip
        a, b = getattr(first, name), getattr(second, name)
        if a is None or b is None:
            differences.append(f"{label} is not stated by both")
        elif a != b:
            differences.append(f"{label}: {a} against {b}")
    if first.model.id != second.model.id:
        differences.append(f"model: {first.model.id} against {second.model.id}")
    rates = tuple(_output_per_gpu(c) for c in (first, second))
    ratio = rates[0] / rates[1] if rates[0] and rates[1] else None
    harmless = [d for d in differences if d.startswith("what is counted:")]
    comparable = len(differences) == len(harmless)
    if not comparable:
        verdict = "not comparable: " + "; ".join(d for d in differences if d not in harmless)
    elif ratio is None:
        verdict = "cannot be put on one footing: something needed is missing"
    else:
        faster = first.label if ratio >= 1.0 else second.label
        verdict = f"{faster} writes {max(ratio, 1 / ratio):.2f} times the output a GPU"
    return FairComparison(
        names=(first.label, second.label),
        comparable=comparable,
        differences=tuple(differences),
        output_per_gpu=(rates[0], rates[1]),
        ratio=ratio,
        verdict=verdict,
    )


def _output_per_gpu(c: Claim) -> float | None:
    if c.counts is None or not c.gpus or c.osl is None or c.isl is None:
        return None
    share = c.osl / (c.isl + c.osl) if c.counts == "total" else 1.0
    return c.tokens_per_s * share / c.gpus


__all__ = ["Audit", "Claim", "FairComparison", "audit_claim", "compare_claims"]
