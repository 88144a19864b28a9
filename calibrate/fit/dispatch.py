"""Choose the model form for a measured curve and fit its law.

This is the only place that maps an operation and a kind of device (GPU or CPU) to a model form:
piecewise linear for collectives and ``moe`` sweeps, a parametric form with a residual GP for
matmul, attention and experts on GPUs, and the soft roofline for everything else.

    law = fit_curve_law(curve, "nccl-tests, all_reduce.txt", datasheet=datasheet, on_cpu=False)
"""

import numpy as np

from groundspeed.calibrate.fit.parametric import PARAMETRIC_OPERATIONS, fit_parametric
from groundspeed.calibrate.fit.piecewise import FEWEST_SIZES, fit_piecewise, fit_token_counts
from groundspeed.calibrate.fit.roofline import MIN_POINTS, fit_roofline
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.laws import Law
from groundspeed.profiles.operations import OPERATIONS
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
    if curve.operation == "collective":
        if np.unique(columns["bytes"]).size < FEWEST_SIZES:
            return None
        return fit_piecewise(
            "collective",
            curve.config_key,
            columns["bytes"],
            times,
            origin=curve.origin,
            source=source,
        )
    if curve.operation == "moe":
        if np.unique(columns["tokens"]).size < 2:
            return None
        return fit_token_counts(
            "moe", curve.config_key, columns["tokens"], times, origin=curve.origin, source=source
        )
    if len(points) < MIN_POINTS:
        return None
    if curve.operation in PARAMETRIC_OPERATIONS and not on_cpu:
        return fit_parametric(
            curve.operation,
            curve.config_key,
            columns,
            times,
            datasheet=datasheet,
            origin=curve.origin,
            source=source,
        )
    return fit_roofline(
        curve.operation,
        curve.config_key,
        columns,
        times,
        origin=curve.origin,
        source=source,
        seed=seed,
    )
