"""Piecewise linear law, for curves whose physics changes with size, such as those of collectives.

The time of a message of a few bytes is a latency; that of a large one is its size divided by a
bandwidth. In between, a library switches protocols and algorithms, each with its own alpha
(latency) and beta (bandwidth). The law therefore consists of alpha-beta pieces: time is linear in
size between two knots.

    t(bytes) = t_i + (bytes - bytes_i) / beta_i     for bytes_i <= bytes <= bytes_{i+1}

Below the first knot the time is constant (latency); above the last knot the bandwidth of the last
piece applies. Curves that are not linear, such as experts over tokens, use pieces that are linear
in the logarithms of size and time instead.

>>> pieces = PiecewiseLinear(column="bytes", scale="linear", at=(1e3, 1e6),
...                          time_s=(1e-5, 2e-5), log_spread=(0.1, 0.02))
>>> pieces.evaluate(np.array([500.0, 1e3, 1e6, 1.999e6]))
array([1.e-05, 1.e-05, 2.e-05, 3.e-05])
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from groundspeed.profiles.operations import Array
from groundspeed.profiles.record import NonNegative, Positive, Record


class PiecewiseLinear(Record):
    """Monotone linear pieces in one column, with the spread of measurements around them."""

    column: str
    """Column of the operation over which time is piecewise linear, e.g. ``bytes``."""
    scale: Literal["linear", "log"]
    """Whether pieces are linear in size and time, or in the logarithms of both."""
    at: tuple[Positive, ...] = Field(min_length=2)
    """Values of the column at the knots, in increasing order."""
    time_s: tuple[Positive, ...]
    """[s] Time at each knot; must not decrease."""
    log_spread: tuple[NonNegative, ...]
    """Half width of the 90 % interval of log(measured / law) at each knot."""

    @model_validator(mode="after")
    def _is_a_chain(self) -> "PiecewiseLinear":
        if not len(self.at) == len(self.time_s) == len(self.log_spread):
            raise ValueError("at, time_s and log_spread must have the same length")
        if any(b <= a for a, b in zip(self.at, self.at[1:], strict=False)):
            raise ValueError("knots (at) must be in increasing order")
        if any(b < a for a, b in zip(self.time_s, self.time_s[1:], strict=False)):
            raise ValueError("time_s must not decrease from one knot to the next")
        return self

    def evaluate(self, values: Array) -> Array:
        """Return the time [s] at each value of the column."""
        at, times = np.array(self.at), np.array(self.time_s)
        if self.scale == "log":
            inside = np.exp(np.interp(np.log(values), np.log(at), np.log(times)))
            slope = np.log(times[-1] / times[-2]) / np.log(at[-1] / at[-2])
            beyond = times[-1] * (np.maximum(values, at[-1]) / at[-1]) ** max(slope, 0.0)
        else:
            inside = np.interp(values, at, times)
            per_unit = (times[-1] - times[-2]) / (at[-1] - at[-2])
            beyond = times[-1] + per_unit * (np.maximum(values, at[-1]) - at[-1])
        result: Array = np.where(values > at[-1], beyond, inside)
        return result

    def spread(self, values: Array) -> Array:
        """Return the half width of the 90 % interval of log time at each value of the column."""
        result: Array = np.interp(np.log(values), np.log(np.array(self.at)), self.log_spread)
        return result

    def pieces(self) -> list[tuple[float, float]]:
        """Return alpha [s] and bandwidth [bytes/s] of each linear piece.

        The bandwidth of a flat piece is infinite.
        """
        pieces = []
        for i in range(len(self.at) - 1):
            rise = self.time_s[i + 1] - self.time_s[i]
            run = self.at[i + 1] - self.at[i]
            beta = run / rise if rise > 0 else float("inf")
            pieces.append((self.time_s[i] - self.at[i] / beta, beta))
        return pieces
