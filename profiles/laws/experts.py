"""Model form of the experts of an MoE layer: a grouped GEMM that reads the activated experts only.

    t = startup + A / activation + ((F (1 + tile / rows) / compute)^3 + (W / bandwidth)^3)^(1/3)

- ``W`` is the weight traffic of the activated experts, ``E (1 - (1 - k/E)^T)`` of the E experts:
  k experts at batch 1, all of them at a few hundred tokens.
- *tile*: the rows of an expert are padded to a tile, so an expert with three rows costs as much as
  one with dozens; ``rows`` is the mean over the activated experts.
- ``A`` is the activation traffic: gathered, written between the two GEMMs, scattered and added.
- *imbalance*: of the ``ep`` ranks, the one with the most popular experts finishes last; its load is
  ``ep^imbalance`` times the mean.

One set of constants holds for all model sizes, so the law also predicts models without
measurements.
"""

import numpy as np

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = (
    "startup_s", "compute_flops_per_s", "bandwidth_bytes_per_s", "activation_bytes_per_s",
    "tile_rows", "imbalance_power",
)  # fmt: skip

SHARPNESS = 3.0
"""Exponent of the soft maximum of compute and memory time."""


def time_s(work: Work, values: Values) -> Array:
    """Return the time [s] of one layer's experts on one rank; columns as for ``experts``."""
    c = work.columns
    size = c["hidden"] * c["width"]
    hit = c["experts"] / c["ep"] * (1.0 - (1.0 - c["top_k"] / c["experts"]) ** c["tokens"])
    rows = c["tokens"] * c["top_k"] / c["ep"] * c["ep"] ** values["imbalance_power"]
    # work.flops is that of the mean rank; padding adds a tile for each activated expert.
    compute_s = 6.0 * size * (rows + values["tile_rows"] * hit) / values["compute_flops_per_s"]
    activations = rows * (4.0 * c["hidden"] + 6.0 * c["width"])
    traffic_s = (work.bytes - 4.0 * c["tokens"] * c["hidden"]) / values["bandwidth_bytes_per_s"]
    slower = np.maximum(compute_s, traffic_s)
    p = SHARPNESS
    both = slower * ((compute_s / slower) ** p + (traffic_s / slower) ** p) ** (1.0 / p)
    result: Array = values["startup_s"] + activations / values["activation_bytes_per_s"] + both
    return result
