"""The input of a model form: the columns of N operations, with their FLOPs and bytes."""

from collections.abc import Mapping
from dataclasses import dataclass

from groundspeed.profiles.operations import Array, Columns

Values = Mapping[str, float]
"""Value of each coefficient by name; the names include the units."""


@dataclass(frozen=True)
class Work:
    """N cases of one operation with one config key."""

    columns: Columns
    """(N,) Positive values of each column."""
    flops: Array
    """[FLOP] (N,) Algorithmic FLOPs."""
    bytes: Array
    """[bytes] (N,) Bytes moved if each operand crosses the memory bus once."""
