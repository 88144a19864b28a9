"""Fit the residual GP: a Gaussian process on log(measured / model form).

The correlation lengths, the amplitude and the noise maximize the posterior. They have priors,
because a few points carry little information on six numbers. The 90 % interval is then checked by
leave-one-out prediction, which has a closed form for a Gaussian process, and is scaled so that it
holds nine in ten of the points.

    residual_gp = fit_residual_gp(columns, ["m", "n", "k"], np.log(measured_s / predicted_s))
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from groundspeed.profiles.laws.residual_gp import HALF_OF_90, ResidualGP, related
from groundspeed.profiles.operations import Array, Columns

LENGTH_OCTAVES = 5.0
LENGTH_LOG_SD = 0.7
AMPLITUDE_OF_SPREAD = 1.6
"""Prior mean of the amplitude, as a multiple of the residuals' robust standard deviation (from
their median absolute deviation)."""

LEAST_AMPLITUDE = 0.02
AMPLITUDE_LOG_SD = 0.3
NOISE = 0.03
NOISE_LOG_SD = 0.6
SMALLEST_NOISE = 0.005
STEPS = 40
MAX_PRIOR_SDS = 4.0
"""Largest distance of a fitted hyperparameter from its prior mean, in prior standard deviations."""

SECOND_START = (0.5, 1.5, 0.0)
"""Second starting point, in prior standard deviations (length, amplitude, noise): longer and higher
than the first. The likelihood often has two maxima."""

SCALE_LIMITS = (0.8, 2.5)
"""Smallest and largest factor by which the leave-one-out check may scale the 90 % interval."""
OPTIMISM = 1.0
"""Factor by which leave-one-out errors look too small, because the constants of the model form were
fitted to the left-out point too."""


def fit_residual_gp(
    columns: Columns,
    names: Sequence[str],
    residual: Array,
    *,
    mean: float = 0.0,
    amplitude: float | None = None,
    noise: float = NOISE,
) -> ResidualGP:
    """Fit a Gaussian process to residuals.

    Parameters
    ----------
    columns : mapping of str to (N,) ndarray
        The operation's columns; values must be positive.
    names : sequence of str
        Names of the columns to use as coordinates: those that vary. A constant column carries no
        information.
    residual : (N,) ndarray
        log(measured / model form) of each point.
    mean : float, default 0
        Residual that is predicted far from all points.
    amplitude : float, optional
        Prior mean of the GP's standard deviation, in log time. Not given: derived from the spread
        of the residuals.
    noise : float, default 0.03
        Prior mean of the standard deviation of one measurement, in log time.
    """
    x = np.stack([np.log2(columns[c]) for c in names], axis=1)
    dimensions = x.shape[1]
    centred = residual - mean
    if amplitude is None:
        spread = 1.4826 * float(np.median(np.abs(centred)))
        amplitude = max(LEAST_AMPLITUDE, AMPLITUDE_OF_SPREAD * spread)
    start = np.log([LENGTH_OCTAVES] * dimensions + [amplitude, noise])
    width = np.array([LENGTH_LOG_SD] * dimensions + [AMPLITUDE_LOG_SD, NOISE_LOG_SD])

    def negative_log_posterior(steps: Array) -> float:
        lengths, sd, own = _unpacked(start + width * steps, dimensions)
        covariance = related(x / lengths, x / lengths, sd) + own**2 * np.eye(len(x))
        try:
            lower = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return 1e10
        white = np.linalg.solve(lower, centred)
        prior = 0.5 * (steps**2).sum()
        return float(0.5 * white @ white + np.log(np.diag(lower)).sum() + prior)

    bounds = [(-MAX_PRIOR_SDS, MAX_PRIOR_SDS)] * len(start)
    begins = (np.zeros_like(start), np.array([*SECOND_START[:1] * dimensions, *SECOND_START[1:]]))
    optimum = min(
        (
            minimize(
                negative_log_posterior,
                b,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": STEPS},
            )
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
    _, standardized = leave_one_out_errors(residual_gp)
    widest = float(np.quantile(np.abs(standardized), 0.9)) / HALF_OF_90
    scale = float(np.clip(OPTIMISM * widest, *SCALE_LIMITS))
    return residual_gp.model_copy(update={"interval_scale": scale})


def leave_one_out_errors(residual_gp: ResidualGP) -> tuple[Array, Array]:
    """Return the leave-one-out error of each point, in log time and in standard deviations.

    The formulas are from Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
    eq. 5.10 to 5.12.
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
