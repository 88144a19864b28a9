"""Check whether a published throughput claim is complete and possible, and what it means.

A claim is a rate (tokens/s) of either all tokens or output tokens. A total of 170 tokens/s at 3200
tokens in and 800 out does not mean that a user receives 170 tokens/s: a request of 4000 tokens
takes 23.5 s and produces 800 output tokens, 34 per second. With the lengths swapped, the same
hardware shows a quarter of the total. The audit therefore converts a claim to the time of a request
and the rate of each phase, compares it with the datasheet roof and with a prediction, and shows the
rate at swapped lengths.

The article that this follows treats the whole request as decode; the audit also shows the result
with the predicted prefill time separated.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from groundspeed.estimator.deployment.deployment import Deployment, require_valid
from groundspeed.estimator.engines.costs import Costs
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.law_lookup import DatasheetHardware, Hardware
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

Counts = Literal["total", "output"]
Severity = Literal["ok", "warning", "wrong"]

NEEDED = ("counts", "isl", "osl", "concurrency", "gpus", "dtype")
"""Fields that a claim must state; without them the rate cannot be interpreted."""

SURPRISING = 1.5
"""Ratio to the prediction above which (or below whose inverse) a claim gets a warning."""


@dataclass(frozen=True)
class Claim:
    """A published throughput claim; None marks what was not stated."""

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
    """Result of one check of a claim."""

    name: str
    severity: Severity
    text: str


class Figure(Record):
    """One number derived from a claim."""

    name: str
    value: float
    unit: str
    how: str


class Audit(Record):
    """All checks and derived figures of a claim."""

    label: str
    model: str
    gpu: str
    checks: tuple[Check, ...]
    figures: tuple[Figure, ...]
    passes: bool
    """True if no check has the severity "wrong"."""


def audit_claim(
    claim: Claim, hardware: Hardware, datasheet: DeviceSpec | None, engine: Engine
) -> Audit:
    """Check a claim for completeness, possibility and plausibility.

    Parameters
    ----------
    claim : Claim
        The published claim.
    hardware : Hardware
        Profile of the device, or its datasheet if there is no profile.
    datasheet : DeviceSpec or None
        Datasheet for the upper bound; None: this check is skipped.
    engine : Engine
        Engine that the prediction assumes.

    Raises
    ------
    InputError
        If the rate is not positive, or the prediction cannot be made.
    """
    if not claim.tokens_per_s > 0:
        raise InputError(f"the claimed rate must be above 0 tokens/s, not {claim.tokens_per_s}")
    if claim.counts not in (None, "total", "output"):
        raise InputError(f"a rate counts total or output tokens, not '{claim.counts}'")
    for name in ("isl", "osl", "concurrency", "gpus"):
        value = getattr(claim, name)
        if value is not None and value < 1:
            raise InputError(f"{name} of the claim must be at least 1, not {value}")
    missing = [name for name in NEEDED if getattr(claim, name) is None]
    checks = [
        Check(name="stated", severity="ok", text="all required information is stated")
        if not missing
        else Check(
            name="stated",
            severity="warning",
            text=f"not stated: {', '.join(missing)}; {_why(missing)}",
        )
    ]
    figures: list[Figure] = []
    if claim.isl is None or claim.osl is None or claim.concurrency is None:
        checks.append(_range_of_rates(claim, hardware, engine))
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
        "counts": "input plus output tokens are several times the output tokens alone",
        "isl": "prompt tokens are processed many times faster than output tokens",
        "osl": "the fraction of output tokens determines what a total rate means",
        "concurrency": "with more clients throughput rises and every user gets slower",
        "gpus": "the rate may be per system or per GPU",
        "dtype": "half the bits can give up to twice the speed",
    }
    return "; ".join(reasons[m] for m in missing)


def request_time_s(claim: Claim, counts: Counts) -> float:
    """Return the time of one request [s] if all clients are always busy (Little's law)."""
    assert claim.isl is not None and claim.osl is not None and claim.concurrency is not None
    counted = claim.isl + claim.osl if counts == "total" else claim.osl
    return counted * claim.concurrency / claim.tokens_per_s


def _layouts(claim: Claim) -> list[Deployment]:
    """Return the ways to place the model on the GPUs, the widest tensor parallelism first.

    A claim does not say how its GPUs work together: all as one group, or as independent replicas.
    """
    devices = claim.gpus or 1
    found = []
    for tp in (d for d in range(devices, 0, -1) if devices % d == 0):
        trial = Deployment(tp=tp, replicas=devices // tp, dtype=claim.dtype)
        with suppress(InputError):
            require_valid(claim.model, trial)
            found.append(trial)
    if not found:
        raise InputError(f"{claim.model.id} cannot be placed on {devices} GPUs")
    return found


def _server(claim: Claim, hardware: Hardware, engine: Engine) -> Server:
    return Server(claim.model, _layouts(claim)[0], engine, hardware)


def _workload(claim: Claim) -> Workload:
    return Workload(claim.isl or 1024, claim.osl or 1024, claim.concurrency or 1)


def _figures(claim: Claim, counts: Counts, hardware: Hardware, engine: Engine) -> list[Figure]:
    """Return request time, decode rate with and without prefill, and rates at swapped lengths."""
    isl, osl, clients = claim.isl or 1, claim.osl or 1, claim.concurrency or 1
    time = request_time_s(claim, counts)
    as_decode = osl / time
    prediction = _server(claim, hardware, engine).predict(_workload(claim))
    prefill = min(prediction.ttft_s, 0.95 * time)
    decode = (osl - 1) / (time - prefill) if osl > 1 else as_decode
    swapped = isl / as_decode
    swapped_with_prefill = prefill * osl / isl + (isl - 1) / decode
    total = isl + osl
    say = f" (if it counts {counts} tokens)" if claim.counts is None else ""
    return [
        _figure(f"request time{say}", time, "s", "counted tokens x clients / rate"),
        _figure("output per user", as_decode, "token/s",
                "output / request time: the whole request counted as decode"),
        _figure("time per output token", 1e3 / as_decode, "ms", "inverse of output per user"),
        _figure("prefill, predicted", prefill, "s", f"TTFT of {hardware.id} with {engine.title}"),
        _figure("decode alone", decode, "token/s", "output / (request time - prefill)"),
        _figure("request time, lengths swapped", swapped, "s",
                f"{osl} in, {isl} out, all counted as decode"),
        _figure("total rate, lengths swapped", total * clients / swapped, "token/s",
                "the same number of tokens in another mix"),
        _figure("swapped, with prefill separate", swapped_with_prefill, "s",
                "prefill in proportion to its length, then decode"),
        _figure("total rate, with prefill separate", total * clients / swapped_with_prefill,
                "token/s", ""),
        _figure("output only", claim.tokens_per_s * osl / total if counts == "total"
                else claim.tokens_per_s, "token/s", "do not compare this with a total rate"),
    ]  # fmt: skip


def _figure(name: str, value: float, unit: str, how: str) -> Figure:
    return Figure(name=name, value=value, unit=unit, how=how)


def _roof(claim: Claim, datasheet: DeviceSpec, engine: Engine) -> Check:
    """Compare the claim with the rate at datasheet peaks, without any overhead."""
    nothing = Costs(step_s=0.0, layer_s=0.0, sequence_s=0.0, collective_s=0.0, request_s=0.0)
    bare = engine.model_copy(
        update={
            "costs": nothing,
            "overhead_bytes": 0.0,
            "memory_fraction": 1.0,
            "memory_rule": "everything",
        }
    )
    roof, refused = 0.0, ""
    for layout in _layouts(claim):
        try:
            server = Server(claim.model, layout, bare, DatasheetHardware(datasheet))
            bound = server.predict(_workload(claim))
        except InputError as error:
            refused = refused or str(error)
            continue
        counted = (
            bound.total_tokens_per_s if claim.counts != "output" else bound.output_tokens_per_s
        )
        roof = max(roof, counted)
    if not roof:
        raise InputError(refused)
    share = claim.tokens_per_s / roof
    if share > 1.0:
        return Check(
            name="possible",
            severity="wrong",
            text=f"{share:.2f} times the upper bound: the datasheet peaks allow {roof:,.0f} "
            f"tokens/s ({claim.counts or 'total'}) for this workload",
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
    low, high = prediction.rate_factors
    text = (
        f"{ratio:.2f} times the prediction of {rate:,.0f} tokens/s "
        f"[{rate * low:,.0f}, {rate * high:,.0f}] ({hardware.id}, {engine.title} "
        f"{engine.from_version} or later)"
    )
    if low <= ratio <= high:
        return Check(name="plausible", severity="ok", text=text)
    if 1.0 / SURPRISING <= ratio <= SURPRISING:
        return Check(name="plausible", severity="ok", text=text + ": outside the interval")
    what = (
        "possible reasons: speculative decoding, prefix caching, or lengths other than stated"
        if ratio > 1.0
        else "possible reasons: an older engine, no CUDA graphs, or an untuned system"
    )
    return Check(name="plausible", severity="warning", text=f"{text}; {what}")


def _range_of_rates(claim: Claim, hardware: Hardware, engine: Engine) -> Check:
    """Predict the range of rates over the lengths and client counts that are not stated."""
    isls = [claim.isl] if claim.isl else [128, 1024, 8192]
    osls = [claim.osl] if claim.osl else [128, 1024, 4096]
    clients = [claim.concurrency] if claim.concurrency else [1, 16, 128]
    server = _server(claim, hardware, engine)
    rates: list[tuple[float, str]] = []
    for isl in isls:
        for osl in osls:
            for n in clients:
                try:
                    prediction = server.predict(Workload(isl, osl, n))
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
        text=f"depending on what is not stated, this system can reach {low[0]:,.0f} ({low[1]}) to "
        f"{high[0]:,.0f} tokens/s ({high[1]})",
    )


class FairComparison(Record):
    """Comparison of two claims."""

    names: tuple[str, str]
    comparable: bool
    differences: tuple[str, ...]
    output_per_gpu: tuple[float | None, float | None]
    """[tokens/s] Output rate per GPU of each claim; None if it cannot be computed."""
    ratio: float | None
    verdict: str


def compare_claims(first: Claim, second: Claim) -> FairComparison:
    """Compare two claims: list differences besides the hardware, and the output rate per GPU."""
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
        verdict = "not comparable: the lengths, the GPU count or what is counted is not stated"
    else:
        faster = first.label if ratio >= 1.0 else second.label
        verdict = f"{faster} has {max(ratio, 1 / ratio):.2f} times the output rate per GPU"
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
