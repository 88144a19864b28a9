"""Gaussian process over the residuals of a model form, with its own uncertainty.

A physical form is right about the shape and off by a few per cent here and there, where a library
switches kernels. The logarithm of measured over predicted, known at the fitted points, is spread
between them by a Gaussian process with a rough kernel (exponential): near a point its residual
counts, far from all of them the form alone stands and the interval is wide.

    log(measured / form) (x) = mean + sum_i weight_i exp(-|x - x_i| / scale) +- spread(x)

Coordinates are logarithms to base two of the columns, each divided by its own length.
"""

from functools import cached_property
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from groundspeed.profiles.operations import Array, Columns
from groundspeed.profiles.record import NonNegative, Positive, Record

CHUNK = 2048
"""Rows at once: the matrix of distances stays in the cache."""

Single = NDArray[np.float32]
"""Predicting is in single precision: a residual of a few per cent needs four digits."""

HALF_OF_90 = 1.645

Finite = Annotated[float, Field(ge=-1e9, le=1e9)]


class ResidualGP(Record):
    """A Gaussian process over some columns, as the points it goes by."""

    columns: tuple[str, ...] = Field(min_length=1)
    octaves: tuple[Positive, ...]
    """Length in each column [octaves] over which residuals are related."""
    amplitude: NonNegative
    """Standard deviation of the residual far from all points, in log time."""
    noise: NonNegative
    """Standard deviation of one measurement, in log time."""
    extra_noise: NonNegative = 0.0
    """Uncertainty from elsewhere, as of a law that was transferred; widens intervals alone."""
    mean: Finite = 0.0
    """Residual far from all points; zero except for unaligned GEMMs."""
    interval_scale: Positive = 1.0
    """Found by leaving points out: what makes the 90 % interval hold 90 % of them."""
    points: tuple[tuple[Finite, ...], ...] = Field(min_length=1)
    """Coordinates of the fitted points: logarithm to base two of each column."""
    residual: tuple[Finite, ...]
    """log(measured / form) at each."""

    @model_validator(mode="after")
    def _fits_together(self) -> "ResidualGP":
        if len(self.points) != len(self.residual):
            raise ValueError("each point has one residual")
        if any(len(p) != len(self.columns) for p in self.points):
            raise ValueError("each point has one coordinate for each column")
        if len(self.octaves) != len(self.columns):
            raise ValueError("each column has one length")
        return self

    def evaluate(self, columns: Columns) -> tuple[Array, Array]:
        """Residual and half width of its 90 % interval at each row [log time].

        Outside the range of the points the nearest edge counts.
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
        """The residual without its interval."""
        return self.evaluate(columns)[0]

    def _coordinates(self, columns: Columns) -> Single:
        points = np.array(self.points)
        raw = np.stack([np.log2(columns[c]) for c in self.columns], axis=1)
        inside = np.clip(raw, points.min(axis=0), points.max(axis=0))
        scaled: Single = (inside / np.array(self.octaves)).astype(np.float32)
        return scaled

    @cached_property
    def _solved(self) -> tuple[Single, Single, Single]:
        """Scaled points, their weights, and what makes covariances with them independent."""
        centres = np.array(self.points) / np.array(self.octaves)
        covariance = related(centres, centres, self.amplitude)
        covariance += max(self.noise, 1e-4) ** 2 * np.eye(len(centres))
        weights = np.linalg.solve(covariance, np.array(self.residual) - self.mean)
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
        single = [a.astype(np.float32) for a in (centres, weights, whitening)]
        return single[0], single[1], single[2]


Real = TypeVar("Real", Array, Single)


def related(a: Real, b: Real, amplitude: float) -> Real:
    """Covariance of residuals at scaled coordinates a (N, D) and b (M, D)."""
    square = -2.0 * (a @ b.T)
    square += (a**2).sum(axis=1)[:, None]
    square += (b**2).sum(axis=1)[None, :]
    np.maximum(square, 0.0, out=square)
    np.sqrt(square, out=square)
    np.negative(square, out=square)
    np.exp(square, out=square)
    square *= amplitude**2
    return square
