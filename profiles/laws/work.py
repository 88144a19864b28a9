"""The input of a law: the columns of some operations, and their FLOPs and bytes."""

from collections.abc import Mapping
from dataclasses import dataclass

from groundspeed.profiles.operations import Array, Columns

Values = Mapping[str, float]
"""Coefficients by name, units in the names."""


@dataclass(frozen=True)
class Work:
    """N operations of one kind and config key."""

    columns: Columns
    """Each (N,), positive."""
    flops: Array
    """[FLOP] (N,) Algorithmic."""
    bytes: Array
    """[bytes] (N,) Each operand once."""
