"""Which law a curve gets: one place that knows the form for each operation and kind of device."""

import numpy as np

from groundspeed.calibrate.fit.parametric import PRECISE, fit_precise
from groundspeed.calibrate.fit.piecewise import FEWEST_SIZES, fit_chain, fit_sweep
from groundspeed.calibrate.fit.roofline import MIN_POINTS, fit_points
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.laws import Law
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.schema import Curve
from groundspeed.profiles.summary import SELECTED


def law_of_curve(
    curve: Curve, source: str, *, sheet: DeviceSpec | None, on_cpu: bool, seed: int = 0
) -> Law | None:
    """Fit the law of a curve.

    Parameters
    ----------
    curve : Curve
    source : str
        What the law will say it stands on.
    sheet : DeviceSpec or None
        Whose roofs hold its constants.
    on_cpu : bool
        A processor's timings follow neither tiles nor waves: it keeps the soft roofline.
    seed : int, default 0
        Of folds and bootstrap.

    Returns
    -------
    Law or None
        None for operations without laws, and for curves with too few valid points.
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
        return fit_chain(
            "collective", curve.regime, columns["bytes"], times, origin=curve.origin, source=source
        )
    if curve.operation == "moe":
        if np.unique(columns["tokens"]).size < 2:
            return None
        return fit_sweep(
            "moe", curve.regime, columns["tokens"], times, origin=curve.origin, source=source
        )
    if len(points) < MIN_POINTS:
        return None
    if curve.operation in PRECISE and not on_cpu:
        return fit_precise(
            curve.operation,
            curve.regime,
            columns,
            times,
            sheet=sheet,
            origin=curve.origin,
            source=source,
        )
    return fit_points(
        curve.operation,
        curve.regime,
        columns,
        times,
        origin=curve.origin,
        source=source,
        seed=seed,
    )
