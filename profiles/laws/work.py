"""What a law is asked about: the columns of some operations, and the work they stand for."""

from collections.abc import Mapping
from dataclasses import dataclass

from groundspeed.profiles.operations import Array, Columns

Values = Mapping[str, float]
"""Coefficients by name, units in the names."""


@dataclass(frozen=True)
class Work:
    """N operations of one kind and regime."""

    columns: Columns
    """Each (N,), positive."""
    flops: Array
    """[FLOP] (N,) Algorithmic."""
    bytes: Array
    """[bytes] (N,) Each operand once."""
