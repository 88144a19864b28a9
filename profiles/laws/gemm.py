"""Model form of a GEMM on a GPU: a soft roofline with the effects that keep a kernel below it.

    t = startup + quantize + k_latency(k) + ((F c(k) w(m, n) / compute)^p + (B / bandwidth)^p)^(1/p)

- *startup*: launch, prologue and epilogue.
- *k latency*: the loop over k is a chain of dependent steps. A library splits the loop when it is
  long and compute units are idle, so the latency saturates: ``per_k k / (1 + k / split_k)``.
- *ramp* ``c = 1 + ramp_k / k``: a short loop does not fill the pipeline.
- *rounding and waves* ``w``: rows are padded to the tile (128), and the last wave of tiles leaves
  compute units idle. Each effect has a fitted exponent, near 0 for cuBLAS, which selects among
  hundreds of kernels, and near 0.8 for a library with few kernels.
- *quantize*: if activations are quantized to 8 bit before the GEMM, they are read in 16 bit and
  written in 8 bit; half of the startup overlaps with this.

On published H200 bf16 timings, the error of these terms without the residual GP is 4.0 % (median)
and 13.6 % (90 % quantile) over all shapes in range.
"""

import numpy as np

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = (
    "startup_s", "compute_flops_per_s", "bandwidth_bytes_per_s", "sharpness", "per_k_s", "split_k",
    "ramp_k", "rounding_power", "wave_power", "compute_units",
)  # fmt: skip
OPTIONAL = ("quantize_bytes_per_s",)
"""Coefficients that only laws with quantized activations have."""

TILE = 128.0
"""Rows and columns of a tile."""

ROUNDED_FROM = 64.0
"""Smallest m that is padded to a whole tile: libraries use smaller tiles for fewer rows."""

QUANTIZE_BYTES = 3.0
"""[bytes] Traffic of quantizing one activation, which is read in 16 bit and written in 8 bit."""

HIDDEN = 0.5
"""Share of the startup that overlaps with quantization."""


def time_s(work: Work, values: Values) -> Array:
    """Return the time of GEMMs.

    Parameters
    ----------
    work : Work
        GEMMs with the columns ``m``, ``n`` and ``k``.
    values : mapping
        Value of each name in ``COEFFICIENTS``, and optionally of those in ``OPTIONAL``.

    Returns
    -------
    (N,) ndarray
        [s]
    """
    m, n, k = (work.columns[c] for c in ("m", "n", "k"))
    rows = np.ceil(m / TILE)
    rounded = np.where(m >= ROUNDED_FROM, rows * TILE / m, 1.0) ** values["rounding_power"]
    waves = rows * np.ceil(n / TILE) / values["compute_units"]
    idle = (np.ceil(waves) / waves) ** values["wave_power"]
    compute_s = work.flops * (1.0 + values["ramp_k"] / k) / values["compute_flops_per_s"]
    compute_s = compute_s * rounded * idle
    traffic_s = work.bytes / values["bandwidth_bytes_per_s"]
    slower = np.maximum(compute_s, traffic_s)
    p = values["sharpness"]
    both = slower * ((compute_s / slower) ** p + (traffic_s / slower) ** p) ** (1.0 / p)
    startup = values["startup_s"]
    if "quantize_bytes_per_s" in values:
        quantize_s = QUANTIZE_BYTES * m * k / values["quantize_bytes_per_s"]
        start = (1.0 - HIDDEN) * startup + np.hypot(HIDDEN * startup, quantize_s)
    else:
        start = np.full_like(m, startup)
    result: Array = start + values["per_k_s"] * k / (1.0 + k / values["split_k"]) + both
    return result
