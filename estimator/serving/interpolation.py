"""Log-log interpolation of positive functions on log-spaced grids, fast for single lookups.

The grid index is computed instead of searched for, and the arithmetic is plain Python: one lookup
takes half a microsecond, a call into numpy three. Between grid points log(value) is linear in
log(argument); beyond the ends of the grid it is extrapolated with the last slope.

>>> table = Curve1(1.0, 100.0, [10.0, 100.0, 1000.0])
>>> round(table(10.0), 6), round(table(1000.0), 6)
(100.0, 10000.0)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groundspeed.profiles.operations import Array

SMALLEST_VALUE = 1e-12


class Curve1:
    """A tabulated function of one variable: call it with a number, or ``many`` with an array."""

    def __init__(self, low: float, high: float, values: Sequence[float] | Array) -> None:
        self._low = math.log(low)
        self._per = (len(values) - 1) / (math.log(high) - self._low)
        self._log = [math.log(max(float(v), SMALLEST_VALUE)) for v in values]
        self._last = len(values) - 2

    def __call__(self, x: float) -> float:
        """Return the interpolated value at a positive argument."""
        place = (math.log(x) - self._low) * self._per
        i = min(max(int(place), 0), self._last)
        log = self._log
        return math.exp(log[i] + (place - i) * (log[i + 1] - log[i]))

    def many(self, x: Array) -> Array:
        """Return the interpolated values at positive arguments (N,)."""
        place = (np.log(x) - self._low) * self._per
        i = np.clip(place.astype(np.intp), 0, self._last)
        log = np.array(self._log)
        values: Array = np.exp(log[i] + (place - i) * (log[i + 1] - log[i]))
        return values


@dataclass(frozen=True)
class Axis:
    """A log-spaced grid of ``count`` points from ``low`` to ``high``."""

    low: float
    high: float
    count: int

    @property
    def values(self) -> Array:
        """The grid points."""
        result: Array = np.geomspace(self.low, self.high, self.count)
        return result


class Curve2:
    """A tabulated function of two variables; ``values`` has the shape (len(x), len(y))."""

    def __init__(self, x: Axis, y: Axis, values: Array) -> None:
        self._x0, self._y0 = math.log(x.low), math.log(y.low)
        self._per_x = (x.count - 1) / (math.log(x.high) - self._x0)
        self._per_y = (y.count - 1) / (math.log(y.high) - self._y0)
        self._log: list[list[float]] = np.log(np.maximum(values, SMALLEST_VALUE)).tolist()
        self._last_x, self._last_y = x.count - 2, y.count - 2

    def __call__(self, x: float, y: float) -> float:
        """Return the interpolated value at two positive arguments."""
        px = (math.log(x) - self._x0) * self._per_x
        py = (math.log(y) - self._y0) * self._per_y
        i = min(max(int(px), 0), self._last_x)
        j = min(max(int(py), 0), self._last_y)
        u, v = px - i, py - j
        low, high = self._log[i], self._log[i + 1]
        a = low[j] + v * (low[j + 1] - low[j])
        b = high[j] + v * (high[j + 1] - high[j])
        return math.exp(a + u * (b - a))

    def many(self, x: Array, y: Array) -> Array:
        """Return the interpolated values at two arrays of positive arguments, each (N,)."""
        px = (np.log(x) - self._x0) * self._per_x
        py = (np.log(y) - self._y0) * self._per_y
        i = np.clip(px.astype(np.intp), 0, self._last_x)
        j = np.clip(py.astype(np.intp), 0, self._last_y)
        u, v = px - i, py - j
        log = np.array(self._log)
        a = log[i, j] + v * (log[i, j + 1] - log[i, j])
        b = log[i + 1, j] + v * (log[i + 1, j + 1] - log[i + 1, j])
        values: Array = np.exp(a + u * (b - a))
        return values
