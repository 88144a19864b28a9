"""Fit the surface of residuals: how far each reaches, how much is noise, how wide intervals are.

Lengths, amplitude and noise are those under which the residuals are most likely (with priors, for
a few points say little about six numbers). The interval is then checked by leaving each point out
(for a Gaussian process that has a closed form) and scaled so that it holds nine in ten of them.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from groundspeed.profiles.laws.residual_gp import HALF_OF_90, ResidualGP, related
from groundspeed.profiles.operations import Array, Columns

LENGTH_OCTAVES = 5.0
LENGTH_LOG_SD = 0.7
AMPLITUDE_OF_SPREAD = 1.6
"""A surface rises and falls about this many times as far as the middle of its residuals."""

LEAST_AMPLITUDE = 0.02
AMPLITUDE_LOG_SD = 0.3
NOISE = 0.03
NOISE_LOG_SD = 0.6
SMALLEST_NOISE = 0.005
STEPS = 40
FARTHEST = 4.0
"""Standard deviations of its prior that a number may move."""

FAR_BEGIN = (0.5, 1.5, 0.0)
"""A second place to begin: longer, higher. The likelihood often has two maxima."""

SCALE_LIMITS = (0.8, 2.5)
OPTIMISM = 1.0
"""Constants were fitted to the point that is left out too, so its error looks this much smaller."""


def fit_residual_gp(
    columns: Columns,
    names: Sequence[str],
    residual: Array,
    *,
    mean: float = 0.0,
    amplitude: float | None = None,
    noise: float = NOISE,
) -> ResidualGP:
    """Fit a surface to residuals.

    Parameters
    ----------
    columns : mapping of str to (N,) ndarray
    names : sequence of str
        Columns that vary; the others tell nothing.
    residual : (N,) ndarray
        log(measured / form)
    mean : float, default 0
        Residual far from all points.
    amplitude : float, optional
        Expected before; from the spread of the residuals if not given.
    noise : float
        Expected before.
    """
    x = np.stack([np.log2(columns[c]) for c in names], axis=1)
    dimensions = x.shape[1]
    centred = residual - mean
    if amplitude is None:
        spread = 1.4826 * float(np.median(np.abs(centred)))
        amplitude = max(LEAST_AMPLITUDE, AMPLITUDE_OF_SPREAD * spread)
    start = np.log([LENGTH_OCTAVES] * dimensions + [amplitude, noise])
    width = np.array([LENGTH_LOG_SD] * dimensions + [AMPLITUDE_LOG_SD, NOISE_LOG_SD])

    def unlikely(steps: Array) -> float:
        lengths, sd, own = _unpacked(start + width * steps, dimensions)
        covariance = related(x / lengths, x / lengths, sd) + own**2 * np.eye(len(x))
        try:
            lower = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return 1e10
        white = np.linalg.solve(lower, centred)
        prior = 0.5 * (steps**2).sum()
        return float(0.5 * white @ white + np.log(np.diag(lower)).sum() + prior)

    bounds = [(-FARTHEST, FARTHEST)] * len(start)
    begins = (np.zeros_like(start), np.array([*FAR_BEGIN[:1] * dimensions, *FAR_BEGIN[1:]]))
    optimum = min(
        (
            minimize(unlikely, b, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
            for b in begins
        ),
        key=lambda result: float(result.fun),
    )
    lengths, sd, own = _unpacked(start + width * optimum.x, dimensions)
    residual_gp = ResidualGP(
        columns=tuple(names),
        octaves=tuple(lengths.tolist()),
        amplitude=sd,
        noise=own,
        mean=mean,
        points=tuple(tuple(row) for row in x.tolist()),
        residual=tuple(residual.tolist()),
    )
    _, standardized = left_out(residual_gp)
    widest = float(np.quantile(np.abs(standardized), 0.9)) / HALF_OF_90
    scale = float(np.clip(OPTIMISM * widest, *SCALE_LIMITS))
    return residual_gp.model_copy(update={"interval_scale": scale})


def left_out(residual_gp: ResidualGP) -> tuple[Array, Array]:
    """Error at each point from all the others, and the same in standard deviations.

    (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, eq. 5.10 to 5.12)
    """
    x = np.array(residual_gp.points) / np.array(residual_gp.octaves)
    covariance = related(x, x, residual_gp.amplitude) + residual_gp.noise**2 * np.eye(len(x))
    inverse = np.linalg.inv(covariance)
    precision = np.diag(inverse)
    error = inverse @ (np.array(residual_gp.residual) - residual_gp.mean) / precision
    return error, error * np.sqrt(precision)


def _unpacked(theta: Array, dimensions: int) -> tuple[Array, float, float]:
    values = np.exp(theta)
    noise = max(float(values[dimensions + 1]), SMALLEST_NOISE)
    return values[:dimensions], float(values[dimensions]), noise
