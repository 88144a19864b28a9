"""Fit a soft roofline to measured points, and estimate its error by cross-validation.

Timing errors are multiplicative, so the fit minimizes log(measured / predicted). The loss
(soft L1) grows only linearly for outliers, so that one disturbed sample does not distort the law.
The recorded error is that of held-out points, not the residual of the fit.

    law = fit_roofline("stream", {"mode": "copy", "dtype": "float64"}, {"bytes": size_bytes},
                       time_s, origin="measured", source="this machine")
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import Coefficient, HeldOutError, Law, soft_roofline
from groundspeed.profiles.laws.law import Origin
from groundspeed.profiles.laws.work import Work
from groundspeed.profiles.operations import OPERATIONS, Array, Columns, ConfigKey

MIN_POINTS = 5
FOLDS = 10
BOOTSTRAPS = 30
ROBUST_SCALE = 0.05
"""Scale of the soft L1 loss, in log time: larger residuals count linearly. It is about the noise of
a good measurement (5 %)."""

MAX_SHARPNESS = 16.0


@dataclass(frozen=True)
class _Data:
    flops: Array
    bytes: Array
    time_s: Array

    @property
    def work(self) -> Work:
        """Input of a model form: FLOPs and bytes without columns."""
        return Work({}, self.flops, self.bytes)

    def rows(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "_Data":
        return _Data(self.flops[index], self.bytes[index], self.time_s[index])


def fit_roofline(
    operation: str,
    config_key: ConfigKey,
    columns: Columns,
    time_s: Array,
    *,
    origin: Origin,
    source: str,
    seed: int = 0,
) -> Law:
    """Fit a soft roofline to the points of one config key.

    Parameters
    ----------
    operation : str
        Name of an operation, e.g. ``stream``.
    config_key : mapping of str to str
        Config key that all points share, e.g. ``{"dtype": "bfloat16"}``.
    columns : mapping of str to (N,) ndarray
        The operation's numeric columns.
    time_s : (N,) ndarray
        [s] Measured times.
    origin : {'measured', 'imported'}
        How the times were obtained.
    source : str
        Who measured, and on which device; stored in the law.
    seed : int, default 0
        Random seed of the cross-validation folds and of the bootstrap.

    Raises
    ------
    InputError
        If there are fewer than five points, or a value is not positive and finite.
    """
    spec = OPERATIONS[operation]
    name = f"{operation} {' '.join(config_key.values())}".strip()
    arrays = {c: np.asarray(columns[c], dtype=np.float64) for c in spec.columns}
    time_s = np.asarray(time_s, dtype=np.float64)
    if time_s.size < MIN_POINTS:
        raise InputError(
            f"fitting a law for {name} needs at least {MIN_POINTS} points, "
            f"but there are {time_s.size}"
        )
    for label, values in {**arrays, "time": time_s}.items():
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise InputError(f"{label} of {name} must be positive and finite in every row")
    data = _Data(spec.flops(arrays, config_key), spec.bytes(arrays, config_key), time_s)
    best = _fit(data, None)
    generator = np.random.default_rng(seed)
    resampled = [
        _fit(data.rows(generator.integers(0, time_s.size, time_s.size)), best)
        for _ in range(BOOTSTRAPS)
    ]
    coefficients = {}
    for key, value in best.items():
        low, high = np.quantile([r[key] for r in resampled], (0.05, 0.95))
        coefficients[key] = Coefficient(
            value=value, low=min(float(low), value), high=max(float(high), value)
        )
    work = {n: v for n, v in (("flops", data.flops), ("bytes", data.bytes)) if (v > 0).all()}
    return Law(
        operation=operation,
        config_key=dict(config_key),
        model_form="soft_roofline",
        coefficients=coefficients,
        fit_range={c: (float(v.min()), float(v.max())) for c, v in {**arrays, **work}.items()},
        points=time_s.size,
        held_out=_held_out(data, best, generator),
        origin=origin,
        source=source,
    )


def _fit(data: _Data, start: dict[str, float] | None) -> dict[str, float]:
    """Fit the log coefficients by robust least squares.

    Without ``start``, the starting values come from the best rates in the data.
    """
    computes = bool((data.flops > 0).any())
    fastest = float(data.time_s.min())
    flops_rate = float((data.flops / data.time_s).max())
    bytes_rate = float((data.bytes / data.time_s).max())
    # A fitted rate is at least the best measured rate (less noise) and at most 100 times that.
    low = [np.log(fastest * 1e-4), np.log(bytes_rate * 0.7)]
    high = [np.log(fastest * 1.2), np.log(bytes_rate * 100.0)]
    guesses = [[np.log(fastest * 0.5), np.log(bytes_rate)]]
    if computes:
        low += [np.log(flops_rate * 0.7), 0.0]
        high += [np.log(flops_rate * 100.0), np.log(MAX_SHARPNESS)]
        guesses = [
            [*guesses[0], np.log(flops_rate), np.log(2.0)],
            [np.log(fastest * 0.1), np.log(bytes_rate * 3.0), np.log(flops_rate), np.log(1.5)],
        ]
    if start is not None:
        guesses = [[np.log(v) for v in start.values()]]

    def residuals(x: Array) -> Array:
        predicted = soft_roofline.time_s(data.work, _named(x))
        return np.log(data.time_s / predicted)

    best = None
    for guess in guesses:
        inside = np.clip(guess, np.array(low) + 1e-6, np.array(high) - 1e-6)
        solution = least_squares(
            residuals, inside, bounds=(low, high), loss="soft_l1", f_scale=ROBUST_SCALE
        )
        if best is None or solution.cost < best.cost:
            best = solution
    assert best is not None
    return _named(best.x)


def _named(x: Array) -> dict[str, float]:
    names = ("startup_s", "bandwidth_bytes_per_s", "compute_flops_per_s", "sharpness")
    return {name: float(np.exp(value)) for name, value in zip(names, x, strict=False)}


def _held_out(data: _Data, best: dict[str, float], generator: np.random.Generator) -> HeldOutError:
    """Cross-validate: predict each point from a fit to the folds that do not contain it."""
    n = data.time_s.size
    folds = n if n <= 2 * FOLDS else FOLDS
    turn = generator.permutation(n) % folds
    log_ratio = np.empty(n)
    for fold in range(folds):
        out = turn == fold
        law = _fit(data.rows(~out), best)
        unseen = data.rows(out)
        log_ratio[out] = np.log(unseen.time_s / soft_roofline.time_s(unseen.work, law))
    error = np.abs(np.exp(-log_ratio) - 1.0)
    q05, q50, q95 = np.quantile(log_ratio, (0.05, 0.5, 0.95))
    return HeldOutError(
        points=n,
        method="leave one out" if folds == n else f"{folds}-fold cross-validation",
        median_fraction=float(np.median(error)),
        q90_fraction=float(np.quantile(error, 0.9)),
        log_q05=float(q05),
        log_q50=float(q50),
        log_q95=float(q95),
    )
