"""The soft roofline: a start-up cost, then compute and memory traffic that overlap in part.

    t = startup + ((flops / compute)^p + (bytes / bandwidth)^p)^(1/p)

With p = 1 arithmetic and traffic take turns, with p → ∞ the slower hides the faster (the classic
roofline). Real kernels lie between: near the ridge, where both matter, a hard maximum is up to
twice too fast. On published H200 bf16 matmul timings the start-up plus hard maximum leaves 7.0 %
median error on unseen shapes, the soft one 6.5 % (constants fitted on 96 shapes).
"""

import numpy as np

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = ("startup_s", "bandwidth_bytes_per_s")
COMPUTING = ("compute_flops_per_s", "sharpness")
"""Coefficients of operations that compute, beside those of all."""


def time_s(work: Work, values: Values) -> Array:
    """Time of operations by the soft roofline.

    Parameters
    ----------
    work : Work
        FLOPs or bytes may be zero.
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
    )  # factored out: no overflow at p=16
    overlap = (traffic_s / slower) ** p + (compute_s / slower) ** p
    total: Array = values["startup_s"] + slower * overlap ** (1.0 / p)
    return total
