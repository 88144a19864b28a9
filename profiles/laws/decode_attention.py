"""Model form of decode attention: reading the KV cache, with fixed costs and a share from L2.

    t = startup + split log2(1 + kv/128) + tile tiles/units + B ((1 - f)/bandwidth + f/l2)
    f = 1 / (1 + (B / l2_bytes)^6)

- *split*: the KV cache is split along its length among the compute units and the partial results
  are combined, so each doubling of the length adds a small cost.
- *tiles*: each KV head of each sequence is one tile of work.
- *L2*: ``B`` is the traffic in bytes, ``f`` the share of it that L2 serves. A KV cache that fits in
  L2 and was just read comes from L2, which makes a benchmark that reads one cache repeatedly look
  too fast.
"""

import numpy as np

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = (
    "startup_s", "bandwidth_bytes_per_s", "split_s", "tile_s", "l2_bandwidth_bytes_per_s",
    "l2_bytes", "compute_units",
)  # fmt: skip

BLOCK = 128.0
"""[tokens] Length of KV cache above which the cost of splitting sets in."""

GROUP_TILE = 64.0
"""Number of query heads of a KV head that fit in one tile."""

SHARPNESS = 6.0
"""Exponent that sets how abruptly the share served by L2 falls when the KV cache exceeds L2."""


def time_s(work: Work, values: Values) -> Array:
    """Return the time [s] from the columns ``batch``, ``kv_len``, ``heads`` and ``kv_heads``."""
    c = work.columns
    tiles = c["batch"] * c["kv_heads"] * np.ceil(c["heads"] / c["kv_heads"] / GROUP_TILE)
    served = 1.0 / (1.0 + (work.bytes / values["l2_bytes"]) ** SHARPNESS)
    per_byte = (1.0 - served) / values["bandwidth_bytes_per_s"]
    per_byte = per_byte + served / values["l2_bandwidth_bytes_per_s"]
    result: Array = (
        values["startup_s"]
        + values["split_s"] * np.log2(1.0 + c["kv_len"] / BLOCK)
        + values["tile_s"] * tiles / values["compute_units"]
        + work.bytes * per_byte
    )
    return result
