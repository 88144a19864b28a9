"""Experts of a mixture: a grouped product of few rows each, whose weights are read if hit.

    t = startup + A / activation + ((F (1 + tile / rows) / compute)^3 + (W / bandwidth)^3)^(1/3)

- ``W`` weights of the experts that some token chose, ``E (1 - (1 - k/E)^T)`` of E: at batch 1 that
  is k of them, at a few hundred tokens all.
- *tile*: rows of an expert are padded to a tile, so an expert with three rows costs as if it had
  dozens; ``rows`` is the mean of those that were hit.
- ``A`` activations gathered, written between the two products, scattered and added.
- *imbalance*: of ``ep`` ranks the one whose experts are the favourites finishes last; its load is
  ``ep^imbalance`` times the mean.

One set of constants holds for all sizes of model, which is what tells a model nobody measured.
"""

import numpy as np

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = (
    "startup_s", "compute_flops_per_s", "bandwidth_bytes_per_s", "activation_bytes_per_s",
    "tile_rows", "imbalance_power",
)  # fmt: skip

SHARPNESS = 3.0


def time_s(work: Work, values: Values) -> Array:
    """Time of the experts of one layer on one rank; columns as of the operation ``experts``."""
    c = work.columns
    size = c["hidden"] * c["width"]
    hit = c["experts"] / c["ep"] * (1.0 - (1.0 - c["top_k"] / c["experts"]) ** c["tokens"])
    rows = c["tokens"] * c["top_k"] / c["ep"] * c["ep"] ** values["imbalance_power"]
    # FLOPs of the operation are those of the mean rank; padding adds a tile for each expert hit.
    compute_s = 6.0 * size * (rows + values["tile_rows"] * hit) / values["compute_flops_per_s"]
    activations = rows * (4.0 * c["hidden"] + 6.0 * c["width"])
    traffic_s = (work.bytes - 4.0 * c["tokens"] * c["hidden"]) / values["bandwidth_bytes_per_s"]
    slower = np.maximum(compute_s, traffic_s)
    p = SHARPNESS
    both = slower * ((compute_s / slower) ** p + (traffic_s / slower) ** p) ** (1.0 / p)
    result: Array = values["startup_s"] + activations / values["activation_bytes_per_s"] + both
    return result
