"""What the constants of engines are before anything was measured, and how far they vary.

Set by hand: what a serving engine costs on top of its kernels. Engines of one kernel library differ
less in the factors than in the work of their hosts. What a constant is worth stands in the
measurements; where they say nothing, it stays here.
"""

import math

from groundspeed.estimator.deployment.deployment import formats
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles.operations import WEIGHT_BYTES

PRIOR: dict[str, tuple[float, float, float, float, float]] = {
    # constant: median, and standard deviations of the log of the engine as a whole, and of the
    # effects of platform, architecture and version
    "step_s": (0.5e-3, 0.5, 0.3, 0.2, 0.4),
    "layer_s": (6e-6, 0.5, 0.3, 0.2, 0.4),
    "sequence_s": (15e-6, 0.7, 0.3, 0.2, 0.8),
    "collective_s": (2e-6, 0.5, 0.3, 0.2, 0.2),
    "request_s": (16e-3, 0.5, 0.2, 0.2, 0.4),
    "launch_s": (60e-6, 0.7, 0.3, 0.6, 0.5),
    "stream_steps": (0.5, 0.7, 0.3, 2.5, 0.4),
    "indexed_latent_layer_s": (30e-6, 0.7, 1.0, 0.7, 0.7),
    "gemm_factor": (1.0, 0.05, 0.15, 0.12, 0.05),
    "prefill_factor": (1.06, 0.08, 0.1, 0.1, 0.08),
    "attention_factor": (1.05, 0.15, 0.15, 0.1, 0.12),
    "experts_factor": (1.05, 0.12, 0.2, 0.2, 0.15),
    "int4_experts_factor": (1.0, 0.15, 0.6, 0.3, 0.2),
    "fp4_experts_factor": (1.0, 0.12, 0.2, 0.15, 0.15),
    "latent_decode_factor": (1.05, 0.2, 0.3, 0.2, 0.25),
    "latent_prefill_factor": (1.05, 0.3, 0.3, 0.2, 0.3),
    "recurrent_factor": (1.2, 0.3, 0.3, 0.2, 0.2),
}

SORTS = {"engine": 1, "platform": 2, "architecture": 3, "version": 4}
"""Place of each sort of effect in an entry of ``PRIOR``."""


HOST = ("step_s", "sequence_s", "request_s", "launch_s", "stream_steps")
"""Constants that are work of the host: its processor, the version and the flags decide them."""


def own_spread(name: str) -> float:
    """Return how far a constant of one server may lie from what is published, in log units.

    A host may be anything, so all effects vary; gaps and kernels are the device's and the
    version's.
    """
    effects = PRIOR[name][1:]
    return math.hypot(*(effects if name in HOST else effects[2:]))


def relevant(server: Server, workload: Workload) -> tuple[str, ...]:
    """Return the constants that a prediction depends on."""
    model, names = server.model, set(PRIOR)
    if model.experts is None:
        names -= {"experts_factor", "int4_experts_factor", "fp4_experts_factor"}
    else:
        stored = formats(model, server.deployment).experts
        if stored not in WEIGHT_BYTES or stored.startswith("int"):
            names -= {"fp4_experts_factor"}
        if stored not in WEIGHT_BYTES or not stored.startswith("int"):
            names -= {"int4_experts_factor"}
    if model.attends_latents:
        names -= {"attention_factor"}
    else:
        names -= {"latent_decode_factor", "latent_prefill_factor"}
    if not model.indexed_latent_layers:
        names -= {"indexed_latent_layer_s"}
    if model.recurrent is None:
        names -= {"recurrent_factor"}
    if workload.kind == "static":
        names -= {"request_s", "stream_steps"}
    if server.deployment.world == 1:
        names -= {"collective_s"}
    return tuple(n for n in PRIOR if n in names)
