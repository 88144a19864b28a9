"""Gaussian process over the residuals of a model form, with its own uncertainty.

A physical model form has the right shape, but is off by a few per cent where a library switches
kernels. The residual log(measured / form) is known at the fitted points, and a Gaussian process
with an exponential kernel interpolates it. Near a fitted point the prediction follows the residual
of that point; far from all points it follows the model form alone and the interval is wide.

    log(measured / form) (x) = mean + sum_i weight_i exp(-|x - x_i| / scale) +- spread(x)

Coordinates are logarithms to base two of the columns, each divided by its length scale.
"""

from functools import cached_property
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from groundspeed.profiles.operations import Array, Columns
from groundspeed.profiles.record import NonNegative, Positive, Record

CHUNK = 2048
"""Number of rows that are evaluated at once, so that the distance matrix stays in the cache."""

Single = NDArray[np.float32]
"""Predictions use single precision: a residual of a few per cent needs four digits."""

HALF_OF_90 = 1.645
"""Half width of the 90 % interval of a normal distribution, in standard deviations."""

Finite = Annotated[float, Field(ge=-1e9, le=1e9)]


class ResidualGP(Record):
    """A Gaussian process over some columns, stored as its kernel and its fitted points."""

    columns: tuple[str, ...] = Field(min_length=1)
    octaves: tuple[Positive, ...]
    """[octaves] Length scale of the kernel in each column."""
    amplitude: NonNegative
    """[log time] Standard deviation of the residual far from all points."""
    noise: NonNegative
    """[log time] Standard deviation of one measurement."""
    extra_noise: NonNegative = 0.0
    """[log time] Other uncertainty, e.g. of a transferred law; widens only the interval."""
    mean: Finite = 0.0
    """[log time] Residual far from all points; zero except for unaligned GEMMs."""
    interval_scale: Positive = 1.0
    """Factor on the interval, found by cross-validation, so that it contains 90 % of the points."""
    points: tuple[tuple[Finite, ...], ...] = Field(min_length=1)
    """Coordinates of the fitted points: logarithm to base two of each column."""
    residual: tuple[Finite, ...]
    """[log time] log(measured / form) at each fitted point."""

    @model_validator(mode="after")
    def _fits_together(self) -> "ResidualGP":
        if len(self.points) != len(self.residual):
            raise ValueError("points and residual must have the same length")
        if any(len(p) != len(self.columns) for p in self.points):
            raise ValueError("each point must have one coordinate for each column")
        if len(self.octaves) != len(self.columns):
            raise ValueError("octaves must have one length scale for each column")
        return self

    def evaluate(self, columns: Columns) -> tuple[Array, Array]:
        """Return the residual and the half width of its 90 % interval for each row [log time].

        Outside the range of the points, the value at the nearest edge of the range is used.
        """
        x = self._coordinates(columns)
        centres, weights, whitening = self._solved
        residual = np.zeros(len(x), dtype=np.float64)
        known = np.zeros(len(x), dtype=np.float64)
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            near = related(x[rows], centres, self.amplitude)
            residual[rows] = near @ weights
            white = near @ whitening
            known[rows] = np.einsum("ij,ij->i", white, white)
        variance = np.maximum(self.amplitude**2 - known, 0.0) + self.noise**2
        variance += self.extra_noise**2
        spread: Array = HALF_OF_90 * self.interval_scale * np.sqrt(variance)
        return self.mean + residual, spread

    def residual_only(self, columns: Columns) -> Array:
        """Return the residual without its interval."""
        return self.evaluate(columns)[0]

    def _coordinates(self, columns: Columns) -> Single:
        low, high, octaves = self._range
        raw = np.log2(np.stack([columns[c] for c in self.columns], axis=1))
        scaled: Single = (np.minimum(np.maximum(raw, low), high) / octaves).astype(np.float32)
        return scaled

    @cached_property
    def _range(self) -> tuple[Array, Array, Array]:
        """Return the lowest and highest coordinates of the points, and the length scales."""
        points = np.array(self.points)
        return points.min(axis=0), points.max(axis=0), np.array(self.octaves)

    @cached_property
    def _solved(self) -> tuple[Single, Single, Single]:
        """Return the scaled points, their weights, and the whitening matrix of their covariance."""
        centres = np.array(self.points) / np.array(self.octaves)
        covariance = related(centres, centres, self.amplitude)
        covariance += max(self.noise, 1e-4) ** 2 * np.eye(len(centres))
        weights = np.linalg.solve(covariance, np.array(self.residual) - self.mean)
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
        single = [a.astype(np.float32) for a in (centres, weights, whitening)]
        return single[0], single[1], single[2]


Real = TypeVar("Real", Array, Single)


def related(a: Real, b: Real, amplitude: float) -> Real:
    """Return the covariance of residuals at scaled coordinates a (N, D) and b (M, D)."""
    square = -2.0 * (a @ b.T)
    square += (a**2).sum(axis=1)[:, None]
    square += (b**2).sum(axis=1)[None, :]
    np.maximum(square, 0.0, out=square)
    np.sqrt(square, out=square)
    np.negative(square, out=square)
    np.exp(square, out=square)
    square *= amplitude**2
    return square
