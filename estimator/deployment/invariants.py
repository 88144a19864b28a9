"""Hold every prediction against physics before it leaves the program.

- *Bytes*: a decode step reads the weights that its tokens activate, and the cache that its
  sequences attend to, less what the last-level cache can hold. No memory is faster than its data
  sheet.
- *FLOPs*: no phase computes faster than the data sheet's peak at the highest clock.
- *Clients*: N clients with one request each cannot have more than N requests in progress, so the
  request rate is at most N / E2E (Little's law), and the output rate follows.
- *Requests*: what is served is at most what is offered; if it is less, the rest queues.
- *Memory*: sequences that run have their cache.

A violation is an error of this program, never of its user: the message holds the inputs.
"""

import math

from groundspeed.estimator.deployment.deployment import Deployment, formats
from groundspeed.estimator.deployment.stored import step_weight_bytes
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.quantization import STORED_BYTES
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.workload import Prediction, Workload
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import PhysicsError

TOLERANCE = 0.02
"""[1] Relative error that interpolation, rounding and ramps may cause."""


def require_physics(
    p: Prediction, w: Workload, model: Model, d: Deployment, hardware: Hardware
) -> None:
    """Raise an error if the prediction of a load breaks physics.

    Raises
    ------
    PhysicsError
        If it does; the message says what is violated, and holds the inputs.
    """
    broken = _first_violation(p, w, model, d, hardware)
    if broken is not None:
        raise PhysicsError(
            f"{broken} ({p.model} on {p.devices} x {p.hardware}, {p.engine}, tp {d.tp} pp {d.pp} "
            f"ep {d.ep} dp {d.dp} replicas {d.replicas}, {p.formats}, {p.kind}, concurrency "
            f"{p.concurrency}, {p.prompt_tokens} in, {p.output_tokens} out)"
        )


def _first_violation(
    p: Prediction, w: Workload, model: Model, d: Deployment, hardware: Hardware
) -> str | None:
    values = [p.ttft_s, p.e2e_s, p.output_tokens_per_s, p.requests_per_s]
    values += [p.tpot_s] if p.tpot_s is not None else []
    if not all(math.isfinite(v) and v > 0.0 for v in values):
        return f"a time or rate is not a positive number: {values}"
    if p.kind in ("closed", "static", "offline"):
        most = p.concurrency / p.e2e.mean
        if p.requests_per_s > (1.0 + TOLERANCE) * most:
            return f"{p.requests_per_s:.4g} requests/s, but its clients can have {most:.4g}"
    if p.offered_requests_per_s is not None:
        offered = p.offered_requests_per_s
        if p.requests_per_s > (1.0 + TOLERANCE) * offered:
            return f"{p.requests_per_s:.4g} requests/s served of {offered:.4g} offered"
    spec = hardware.datasheet
    return None if spec is None else _roofs(p, w, model, d, hardware, spec)


def _roofs(
    p: Prediction,
    w: Workload,
    model: Model,
    d: Deployment,
    hardware: Hardware,
    spec: DeviceSpec,
) -> str | None:
    """Return the roof of the data sheet that a phase exceeds, if it does."""
    cached = hardware.last_level_cache_bytes or 0.0
    if p.decode_parts and spec.memory_bandwidth_bytes_per_s is not None:
        step_s = sum(part.time_s for part in p.decode_parts)
        read = decode_bytes(w, model, d)
        needed = max(read - cached, 0.0) / spec.memory_bandwidth()
        if step_s < (1.0 - TOLERANCE) * needed:
            return (
                f"a decode step of {step_s * 1e3:.4g} ms, but reading {read / 1e9:.4g} GB takes "
                f"{needed * 1e3:.4g} ms at the data sheet's bandwidth"
            )
        counted = sum(part.bytes for part in p.decode_parts)
        if counted < (1.0 - TOLERANCE) * read:
            return f"a decode step counts {counted / 1e9:.4g} GB, but must read {read / 1e9:.4g}"
    f = formats(model, d)
    roofs = [spec.roof_flops(name) for name in {f.linear, f.experts, f.activations, f.cache}]
    known = [roof for roof in roofs if roof is not None]
    if not known or len(known) < len(roofs):
        return None
    for name, parts in (("prefill", p.prefill_parts), ("decode step", p.decode_parts)):
        time_s, flops = sum(q.time_s for q in parts), sum(q.flops for q in parts)
        if time_s * max(known) * (1.0 + TOLERANCE) < flops:
            return (
                f"a {name} of {time_s * 1e3:.4g} ms for {flops / 1e12:.4g} TFLOP is faster than "
                f"the data sheet's {max(known) / 1e12:.4g} TFLOPS"
            )
    return None


def decode_bytes(w: Workload, model: Model, d: Deployment) -> float:
    """Return the least bytes that a decode step of a load must read on one device.

    Of a server only one sequence is counted, because the batch follows from the simulation.
    """
    sequences = w.concurrency / d.groups if w.kind == "static" else 1.0
    context = w.mean_length * w.prompt_tokens
    item = STORED_BYTES[formats(model, d).cache]
    cache = sum(m.read_items(context) / m.cache_ways(d.tp) for m in model.mixers)
    return step_weight_bytes(model, d, sequences / d.dp) + item * sequences * cache
