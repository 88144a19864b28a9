"""One operation of a model's step, with its shapes, FLOPs and bytes.

A step of a model is a list of operators (:mod:`groundspeed.estimator.graph.step`). Each knows how
often it runs and its sizes; a datasheet or the laws of a profile give it a time. The sizes are
arrays, so one list describes a whole grid of steps at once.

>>> import numpy as np
>>> gemm = matmul("mlp", np.array([8.0]), 28672, 4096, 32, "bfloat16")
>>> round(float(gemm.flops[0]) / 1e9, 1)
60.1
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from groundspeed.profiles.operations import OPERATIONS, Array, require_config_key


@dataclass(frozen=True)
class Operator:
    """One operation of a step, executed ``count`` times."""

    group: str
    """Part of the model: qkv, attention, out, mlp, experts, head, norm, ..."""
    operation: str
    config_key: Mapping[str, str]
    columns: Mapping[str, Array]
    """(N,) Sizes of the operation, one value for each step of a grid."""
    count: float

    def __post_init__(self) -> None:
        require_config_key(self.operation, self.config_key)

    @property
    def flops(self) -> Array:
        """[FLOP] (N,) FLOPs of all executions in one step."""
        return self.count * OPERATIONS[self.operation].flops(self.columns, self.config_key)

    @property
    def bytes(self) -> Array:
        """[bytes] (N,) Bytes moved by all executions in one step."""
        return self.count * OPERATIONS[self.operation].bytes(self.columns, self.config_key)

    def with_key(self, **entries: str) -> "Operator":
        """Return this operator with more entries in its config key."""
        return replace(self, config_key={**self.config_key, **entries})


def constant(like: Array, value: float) -> Array:
    """Return an array of one value with the shape of another."""
    return np.full(like.shape, float(value))


def matmul(group: str, m: Array, n: float | Array, k: float, count: float, dtype: str) -> Operator:
    """Return GEMMs of (m, k) activations with (n, k) weights."""
    wide = n if isinstance(n, np.ndarray) else constant(m, n)
    columns = {"m": m, "n": wide, "k": constant(m, k)}
    return Operator(group, "matmul", {"dtype": dtype}, columns, count)


def elementwise(
    group: str, op: str, rows: Array, width: float | Array, count: float, dtype: str
) -> Operator:
    """Return an operation between the GEMMs, on rows of ``width`` input elements."""
    wide = width if isinstance(width, np.ndarray) else constant(rows, width)
    columns = {"rows": rows, "width": wide}
    return Operator(group, "elementwise", {"op": op, "dtype": dtype}, columns, count)


def collective(op: str, size_bytes: Array, ranks: int, count: float) -> Operator:
    """Return collectives of ``size_bytes`` as nccl-tests counts them."""
    config_key = {"op": op, "world_size": str(ranks)}
    return Operator("communication", "collective", config_key, {"bytes": size_bytes}, count)


def split(width: int, ways: int) -> int:
    """Return a rank's share of a width, rounded up (the width is padded)."""
    return -(-width // ways)
