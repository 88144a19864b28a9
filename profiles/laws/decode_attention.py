"""Attention of one new token each over a cache: a stream with a floor and a share served by L2.

    t = startup + split log2(1 + kv/128) + tile tiles/units + B ((1 - f)/bandwidth + f/l2)
    f = 1 / (1 + (B / l2_bytes)^6)

The cache is split along its length among the units, and the parts are joined: each doubling costs
a little. Each key-value head of each sequence is a tile of work. A cache that fits L2 and was just
read comes from there, which flatters a benchmark that reads one cache again and again.
"""

import numpy as np

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = (
    "startup_s", "bandwidth_bytes_per_s", "split_s", "tile_s", "l2_bandwidth_bytes_per_s",
    "l2_bytes", "compute_units",
)  # fmt: skip

BLOCK = 128.0
GROUP_TILE = 64.0
"""Query heads of a group that one tile holds."""

SHARPNESS = 6.0
"""How suddenly a cache stops fitting."""


def time_s(work: Work, values: Values) -> Array:
    """Time of decode attention; columns ``batch``, ``kv_len``, ``heads``, ``kv_heads``."""
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
