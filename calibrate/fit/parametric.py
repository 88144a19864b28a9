"""Fit the law of a GPU kernel: physical constants first, then a Gaussian process on the residuals.

The constants of the model form (launch latency, compute rate, bandwidth, ...) are fitted to
log(time) by robust least squares with priors. A Gaussian process (residual GP) then models
log(measured / predicted); together they reach the noise floor of the data. Matmuls with m above 16
and not a multiple of 16 fill no whole tile and get a second Gaussian process, on what the first
one leaves (from four points on). The recorded error leaves each point out of the Gaussian process
in turn.

    law = fit_parametric("matmul", {"dtype": "bfloat16"}, {"m": m, "n": n, "k": k}, time_s,
                         datasheet=None, origin="measured", source="this machine")
"""

import numpy as np
from scipy.optimize import least_squares

from groundspeed.calibrate.fit.priors import Prior, priors, roofs, starting_point
from groundspeed.calibrate.fit.residual_gp import fit_residual_gp, leave_one_out_errors
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import MODEL_FORMS, Coefficient, HeldOutError, Law, ResidualGP
from groundspeed.profiles.laws.law import Origin, is_unaligned
from groundspeed.profiles.laws.work import Work
from groundspeed.profiles.operations import OPERATIONS, Array, Columns, ConfigKey

FEWEST_POINTS = 5
FEWEST_UNALIGNED = 4
ROBUST = 0.06
"""Scale of the robust loss, in log time: larger residuals count linearly. It is the spread of the
residuals of the model forms on published timings."""

UNALIGNED_AMPLITUDE = 0.12
UNALIGNED_NOISE = 0.08
SHRINK_POINTS = 4.0
"""Strength of the shrinkage of the unaligned points' median residual towards 0, as a number of
points with a residual of 0."""


def fit_parametric(
    operation: str,
    config_key: ConfigKey,
    columns: Columns,
    time_s: Array,
    *,
    datasheet: DeviceSpec | None,
    origin: Origin,
    source: str,
) -> Law:
    """Fit the law of one operation and config key.

    Parameters
    ----------
    operation : str
        An operation with a parametric form, e.g. ``matmul``.
    config_key : mapping of str to str
        Config key that all points share, e.g. ``{"dtype": "bfloat16"}``.
    columns : mapping of str to (N,) ndarray
        The operation's numeric columns.
    time_s : (N,) ndarray
        [s] Measured times.
    datasheet : DeviceSpec or None
        Datasheet whose peaks set the priors. None: the priors are set from the best measured
        rates.
    origin : {'measured', 'imported', 'transferred'}
        How the times were obtained.
    source : str
        Description of the data, stored in the law.

    Raises
    ------
    InputError
        If there are fewer than five points, or a value is not positive and finite.
    """
    spec = OPERATIONS[operation]
    name = f"{operation} {' '.join(config_key.values())}".strip()
    arrays = {c: np.asarray(columns[c], dtype=np.float64) for c in spec.columns}
    times = np.asarray(time_s, dtype=np.float64)
    for label, given in {**arrays, "time": times}.items():
        if not (np.isfinite(given).all() and (given > 0).all()):
            raise InputError(f"{label} of {name} must be positive and finite in every row")
    odd = is_unaligned(arrays)
    if (~odd).sum() < FEWEST_POINTS:
        odd = np.zeros_like(odd)  # too few aligned points: fit all points together
    if times.size < FEWEST_POINTS:
        raise InputError(
            f"fitting a law for {name} needs at least {FEWEST_POINTS} points, "
            f"but there are {times.size}"
        )
    work = Work(arrays, spec.flops(arrays, config_key), spec.bytes(arrays, config_key))
    even = _rows(work, ~odd)
    model_form, constants = priors(
        operation, config_key, roofs(datasheet, config_key, even, times[~odd]), times
    )
    coefficients = _fit_form(model_form, constants, even, times[~odd])
    values = {n: c.value for n, c in coefficients.items()}
    residual = np.log(times / MODEL_FORMS[model_form].time_s(work, values))
    varying = [c for c in spec.columns if np.unique(arrays[c]).size > 1] or [spec.columns[0]]
    residual_gp = fit_residual_gp(even.columns, varying, residual[~odd])
    unaligned = None
    if odd.sum() >= FEWEST_UNALIGNED:
        rest = _rows(work, odd)
        beside = residual[odd] - residual_gp.residual_only(rest.columns)
        mean = float(np.median(beside)) * odd.sum() / (odd.sum() + SHRINK_POINTS)
        unaligned = fit_residual_gp(
            rest.columns,
            varying,
            beside,
            mean=mean,
            amplitude=UNALIGNED_AMPLITUDE,
            noise=UNALIGNED_NOISE,
        )
    done = {n: v for n, v in (("flops", work.flops), ("bytes", work.bytes)) if (v > 0).all()}
    return Law(
        operation=operation,
        config_key=dict(config_key),
        model_form=model_form,
        coefficients=coefficients,
        fit_range={c: (float(v.min()), float(v.max())) for c, v in {**done, **arrays}.items()},
        residual_gp=residual_gp,
        unaligned=unaligned,
        points=times.size,
        held_out=_held_out(residual_gp),
        origin=origin,
        source=source,
    )


def _rows(work: Work, chosen: np.ndarray) -> Work:
    columns = {c: v[chosen] for c, v in work.columns.items()}
    return Work(columns, work.flops[chosen], work.bytes[chosen])


def _fit_form(
    model_form: str, constants: dict[str, Prior], work: Work, time_s: Array
) -> dict[str, Coefficient]:
    """Return the MAP estimate of the constants and 90 % intervals (Laplace approximation)."""
    free, start, width = starting_point(constants)
    fixed = {n: p.value for n, p in constants.items() if n not in free}

    def residuals(theta: Array) -> Array:
        values = fixed | dict(zip(free, np.exp(theta).tolist(), strict=True))
        r = np.log(time_s / MODEL_FORMS[model_form].time_s(work, values)) / ROBUST
        soft = np.sign(r) * np.sqrt(2.0 * (np.sqrt(1.0 + r * r) - 1.0))
        return np.concatenate([soft, (theta - start) / width])

    solution = least_squares(residuals, start)
    jacobian = np.asarray(solution.jac, dtype=np.float64)
    covariance = np.linalg.inv(jacobian.T @ jacobian)
    sd = np.sqrt(np.diag(covariance))
    coefficients = {
        n: Coefficient(
            value=float(np.exp(x)),
            low=float(np.exp(x - 1.645 * s)),
            high=float(np.exp(x + 1.645 * s)),
        )
        for n, x, s in zip(free, solution.x, sd, strict=True)
    }
    for n, value in fixed.items():
        coefficients[n] = Coefficient(value=value, low=value, high=value)
    return coefficients


def _held_out(residual_gp: ResidualGP) -> HeldOutError:
    error, _ = leave_one_out_errors(residual_gp)
    fraction = np.abs(np.exp(-error) - 1.0)
    q05, q50, q95 = np.clip(np.quantile(error, (0.05, 0.5, 0.95)), -20.0, 20.0)
    return HeldOutError(
        points=error.size,
        method="leave one out of the residual GP",
        median_fraction=float(np.median(fraction)),
        q90_fraction=float(np.quantile(fraction, 0.9)),
        log_q05=float(q05),
        log_q50=float(q50),
        log_q95=float(q95),
    )
