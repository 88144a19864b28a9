"""Matrix products on a GPU: a roofline with the things that keep a kernel below it.

    t = startup + quantize + k_latency(k) + ((F c(k) w(m, n) / compute)^p + (B / bandwidth)^p)^(1/p)

- *start-up*: launch, prologue, epilogue.
- *k latency*: the loop over k is a chain of dependent steps; a library splits it when it is long
  and there are units to spare, so it saturates: ``per_k k / (1 + k / split_k)``.
- *ramp* ``c = 1 + ramp_k / k``: a short loop never fills the pipeline.
- *rounding and waves* ``w``: rows are padded to the tile (128), and the last wave of tiles leaves
  units idle, each to a fitted power (near 0 for cuBLAS, which picks among hundreds of kernels,
  near 0.8 for a library with few).
- *quantize*: where activations are rounded to 8 bit on the way, they are read in 16 bit and
  written in 8; half of the start-up hides it.

On published H200 bf16 timings these terms leave 4.0 % median and 13.6 % at the 90 % quantile over
all shapes in range, before any residual.
"""

import numpy as np

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = (
    "startup_s", "compute_flops_per_s", "bandwidth_bytes_per_s", "sharpness", "per_k_s", "split_k",
    "ramp_k", "rounding_power", "wave_power", "compute_units",
)  # fmt: skip
OPTIONAL = ("quantize_bytes_per_s",)

TILE = 128.0
ROUNDED_FROM = 64.0
"""Products of fewer rows have tiles of their own."""

QUANTIZE_BYTES = 3.0
"""[bytes] Traffic of quantizing one activation: read in 16 bit, written in 8."""

HIDDEN = 0.5
"""Share of the start-up during which quantizing goes on anyway."""


def time_s(work: Work, values: Values) -> Array:
    """Time of products.

    Parameters
    ----------
    work : Work
        With columns ``m``, ``n``, ``k``.
    values : mapping
        The coefficients above.

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
