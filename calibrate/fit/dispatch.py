"""Choose the model form for a measured curve and fit its law.

The form is a property of the operation (:data:`groundspeed.profiles.operations.OPERATIONS`); this
is the only place that calls the fit of a form.

    law = fit_curve_law(curve, "nccl-tests, all_reduce.txt", datasheet=datasheet, on_cpu=False)
"""

import numpy as np

from groundspeed.calibrate.fit.parametric import fit_parametric
from groundspeed.calibrate.fit.piecewise import FEWEST_SIZES, fit_piecewise, fit_token_counts
from groundspeed.calibrate.fit.roofline import MIN_POINTS, fit_roofline
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.laws import Law
from groundspeed.profiles.laws.law import Origin
from groundspeed.profiles.operations import OPERATIONS, Array, Columns, ConfigKey
from groundspeed.profiles.schema import Curve
from groundspeed.profiles.summary import SELECTED


def fit_curve_law(
    curve: Curve, source: str, *, datasheet: DeviceSpec | None, on_cpu: bool, seed: int = 0
) -> Law | None:
    """Fit the law of a curve.

    Parameters
    ----------
    curve : Curve
        The measured or imported points. Points that are invalid, or that were selected because
        they are fast, are not used.
    source : str
        Description of the data, stored in the law: the tool, file or publication.
    datasheet : DeviceSpec or None
        Datasheet of the device; its peaks set the priors of the constants. None: the priors are
        set from the best measured rates.
    on_cpu : bool
        True fits the soft roofline, because tile and wave quantization do not describe CPU
        timings.
    seed : int, default 0
        Random seed of the cross-validation folds and of the bootstrap.

    Returns
    -------
    Law or None
        None for operations that have no law, and for curves with too few valid points.
    """
    points = [p for p in curve.points if p.valid and not SELECTED & set(p.tags)]
    spec = OPERATIONS.get(curve.operation)
    if spec is None:
        return None
    columns = {c: np.array([p.case[c] for p in points]) for c in spec.columns}
    times = np.array([p.time_s for p in points])
    if not enough(curve.operation, columns, len(points)):
        return None
    return fit_columns(
        curve.operation, curve.config_key, columns, times,
        datasheet=datasheet, on_cpu=on_cpu, origin=curve.origin, source=source, seed=seed,
    )  # fmt: skip


def enough(operation: str, columns: Columns, points: int) -> bool:
    """Return whether there are enough points for a law of an operation."""
    form = OPERATIONS[operation].form
    if form == "piecewise_linear":
        return bool(np.unique(columns["bytes"]).size >= FEWEST_SIZES)
    if form == "token_counts":
        return bool(np.unique(columns["tokens"]).size >= FEWEST_TOKEN_COUNTS)
    return points >= MIN_POINTS


FEWEST_TOKEN_COUNTS = 2


def fit_columns(
    operation: str,
    config_key: ConfigKey,
    columns: Columns,
    time_s: Array,
    *,
    datasheet: DeviceSpec | None,
    on_cpu: bool,
    origin: Origin,
    source: str,
    seed: int = 0,
) -> Law:
    """Fit the law of one operation and config key with the model form of the operation.

    Parameters
    ----------
    operation : str
        Name of an operation.
    config_key : mapping of str to str
        Config key that all rows share.
    columns : mapping of str to (N,) ndarray
        The operation's numeric columns.
    time_s : (N,) ndarray
        [s] Measured times.
    datasheet, on_cpu, source, seed
        As in :func:`fit_curve_law`.
    origin : {'measured', 'imported', 'transferred'}
        How the times were obtained.

    Raises
    ------
    InputError
        If there are too few rows, or a value is not positive.
    """
    form = OPERATIONS[operation].form
    if form == "piecewise_linear":
        return fit_piecewise(
            operation, config_key, columns["bytes"], time_s, origin=origin, source=source
        )
    if form == "token_counts":
        return fit_token_counts(
            operation, config_key, columns["tokens"], time_s, origin=origin, source=source
        )
    if form == "soft_roofline" or on_cpu:
        return fit_roofline(
            operation, config_key, columns, time_s, origin=origin, source=source, seed=seed
        )
    return fit_parametric(
        operation, config_key, columns, time_s, datasheet=datasheet, origin=origin, source=source
    )
