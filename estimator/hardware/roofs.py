"""The least time that an operator can take: what a datasheet allows, and what wider formats show.

A law is a fit, and a fit can promise a few per cent more than the memory delivers, or be slower for
a smaller format because the kernels behind a published table were not tuned. Two rules keep it
honest:

- no operator is faster than its FLOPs at the peak of the highest clock, or than the weights and
  cache that it streams from memory at the peak bandwidth, less what the last-level cache holds;
- fewer bytes are not slower: a kernel can widen weights in registers and compute in the wider
  format (weight-only kernels such as Marlin do), so the time in the wider format is an upper bound
  (https://arxiv.org/abs/2408.11743).
"""

import numpy as np

from groundspeed.estimator.graph.operator import Operator
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.operations import OPERATIONS, Array

WIDER: dict[str, tuple[str, ...]] = {
    "fp8": ("fp8_block", "bfloat16"),
    "fp8_row": ("fp8_block", "bfloat16"),
    "fp8_block": ("bfloat16",),
    "int8": ("bfloat16",),
    "int4_wo": ("bfloat16",),
    "w4a16_mxfp4": ("bfloat16",),
    "w4a8_mxfp4_mxfp8": ("fp8", "fp8_block", "bfloat16"),
    "nvfp4": ("fp8", "fp8_block", "bfloat16"),
}
"""Formats in which a kernel can compute instead, with as many bytes or more. A block-scaled GEMM
does all that a per-tensor one does, and more."""

COMPUTED_IN: dict[str, str] = {
    "int4_wo": "bfloat16",
    "w4a16_mxfp4": "bfloat16",
    "w4a8_mxfp4_mxfp8": "fp8",
    "nvfp4": "fp4",
}
"""Format of the matrix units that formats with quantized weights use."""


def roof_s(operator: Operator, spec: DeviceSpec, cache_bytes: float) -> Array | None:
    """Return the least time of all executions of an operator [s], (N,).

    None if the datasheet lacks the numbers, or the operation neither computes nor streams.
    """
    operation = OPERATIONS[operator.operation]
    floors: list[Array] = []
    dtype = operator.config_key.get("dtype", "")
    peak = spec.roof_flops(COMPUTED_IN.get(dtype, dtype))
    if operation.computes and peak is not None and operator.operation != "experts":
        floors.append(operator.flops / peak)
    if operation.streamed is not None and spec.memory_bandwidth_bytes_per_s is not None:
        each = operation.streamed(operator.columns, operator.config_key)
        # All executions of a step follow each other, so the cache helps once in a step.
        least = np.maximum(operator.count * each - cache_bytes, 0.0)
        floors.append(least / spec.memory_bandwidth())
    if not floors:
        return None
    highest: Array = np.max(floors, axis=0)
    return highest
