"""The 90 % interval of a prediction, from the errors of the laws, the engine and the machine.

Errors of different groups are independent, so they add in quadrature. The variation of the machine
itself shifts all groups with the same bound together. An engine's constants have an error of their
own, larger on hardware or kinds of models that they were not fitted to.
"""

import math
from collections.abc import Sequence

from groundspeed.estimator.engines.engine import NO_ENGINE, Engine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.workload import PartTime

LAWS_AVERAGED = 0.5
"""Fraction of a law's error that remains in a whole run, because errors of many shapes average out.
On published servers the kernels' part of the error is about half of that of a single shape."""

OTHER_ARCHITECTURE = 1.15
OTHER_KIND = 1.20
"""Additional 90 % factors if the engine's constants were fitted on another GPU architecture, or on
dense models while this one is a mixture of experts. Published servers of known engines were
predicted within 1.08 to 1.24 on other generations, and within 1.15 to 1.35 on mixtures."""


def interval_factors(
    parts: Sequence[PartTime],
    engine_factor: float,
    engine: Engine,
    hardware: Hardware,
    model: Model,
    *,
    one_shape: bool,
) -> tuple[float, float]:
    """Return the factors from a predicted time to the ends of its 90 % interval.

    Parameters
    ----------
    parts : sequence of PartTime
        Time of each group of the phase.
    engine_factor : float
        90 % factor of the engine's own constants.
    engine : Engine
    hardware : Hardware
    model : Model
    one_shape : bool
        True for a static batch, whose steps all have the same shapes: errors do not average out.

    Returns
    -------
    (float, float)
        At most 1, and at least 1.
    """
    total = sum(p.time_s for p in parts)
    laws = [p for p in parts if p.group != "engine"]
    by_bound: dict[str, float] = {}
    for part in laws:
        by_bound[part.bound] = by_bound.get(part.bound, 0.0) + part.time_s
    machine = sum(hardware.spread_fraction(bound) * t for bound, t in by_bound.items()) / total
    below = sum((p.time_s - p.low_s) ** 2 for p in laws) ** 0.5 / total
    above = sum((p.high_s - p.time_s) ** 2 for p in laws) ** 0.5 / total
    kept = 1.0 if one_shape else LAWS_AVERAGED
    logs = [math.log(engine_factor), math.log1p(machine)]
    if engine.name != NO_ENGINE:
        if engine.fitted_architecture != hardware.architecture.split()[0]:
            logs.append(math.log(OTHER_ARCHITECTURE))
        if model.experts is not None and not engine.fitted_mixture:
            logs.append(math.log(OTHER_KIND))
    # exp(-x) equals 1 - x to first order, but keeps the lower end above zero.
    low = math.exp(-math.hypot(*logs, kept * below))
    high = math.exp(math.hypot(*logs, kept * math.log1p(above)))
    return low, high
