"""The soft roofline: a startup cost, then compute and memory traffic that partly overlap.

    t = startup + ((flops / compute)^p + (bytes / bandwidth)^p)^(1/p)

With p = 1, compute and traffic do not overlap; with p → ∞, the slower of the two hides the faster
(the classic roofline). Real kernels are in between: near the ridge point, where both matter, a
hard maximum is up to twice too fast. On published H200 bf16 matmul timings, the median error on
unseen shapes is 7.0 % with startup plus hard maximum and 6.5 % with the soft maximum (constants
fitted on 96 shapes).
"""

import numpy as np

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = ("startup_s", "bandwidth_bytes_per_s")
COMPUTING = ("compute_flops_per_s", "sharpness")
"""Further coefficients of operations that arithmetic can limit."""


def time_s(work: Work, values: Values) -> Array:
    """Return the time of operations by the soft roofline.

    Parameters
    ----------
    work : Work
        The operations; their FLOPs or bytes may be zero.
    values : mapping
        ``startup_s`` [s], ``bandwidth_bytes_per_s`` [bytes/s] and, for operations that compute,
        ``compute_flops_per_s`` [FLOP/s] and ``sharpness`` [1].

    Returns
    -------
    (N,) ndarray
        [s]
    """
    traffic_s = work.bytes / values["bandwidth_bytes_per_s"]
    if "compute_flops_per_s" not in values:
        return values["startup_s"] + traffic_s
    compute_s = work.flops / values["compute_flops_per_s"]
    p = values["sharpness"]
    slower = np.maximum(
        np.maximum(traffic_s, compute_s), 1e-30
    )  # factored out to avoid overflow at p=16
    overlap = (traffic_s / slower) ** p + (compute_s / slower) ** p
    total: Array = values["startup_s"] + slower * overlap ** (1.0 / p)
    return total
