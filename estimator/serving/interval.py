"""The 90 % interval of a prediction, from the errors of the laws, the engine and the machine.

Errors of different groups of operators are independent, so they add in quadrature. The variation of
the machine itself shifts all groups with the same bound together. The engine's part is the error
that whole groups of published rows had when they were left out of the fit
(:mod:`groundspeed.estimator.engines.distance`), beside what the laws explain of it.
"""

import math
from collections.abc import Sequence
from typing import Literal

from groundspeed.estimator.engines.distance import distance
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.workload import PartTime

Metric = Literal["tpot", "ttft"]


def interval_factors(
    parts: Sequence[PartTime],
    metric: Metric,
    engine: Engine,
    hardware: Hardware,
    model: Model,
    assumed: tuple[float, float] = (0.0, 0.0),
) -> tuple[float, float]:
    """Return the factors from a predicted time to the ends of its 90 % interval.

    Parameters
    ----------
    parts : sequence of PartTime
        Time of each group of the phase.
    metric : {'tpot', 'ttft'}
    engine : Engine
    hardware : Hardware
    model : Model
    assumed : (float, float)
        Errors (of the logarithm, down and up) of what had to be assumed of the load.

    Returns
    -------
    (float, float)
        At most 1, and at least 1.
    """
    below, above = law_errors(parts, hardware)
    known = distance(engine, hardware.architecture, model)
    own = math.log(known.tpot if metric == "tpot" else known.ttft)
    down, up = math.hypot(own, below, assumed[0]), math.hypot(own, above, assumed[1])
    # exp(-x) equals 1 - x to first order, but keeps the lower end above zero.
    return math.exp(-down), math.exp(up)


def law_errors(parts: Sequence[PartTime], hardware: Hardware) -> tuple[float, float]:
    """Return the 90 % errors (of the logarithm) that laws and machine alone explain, both ways."""
    total = sum(p.time_s for p in parts)
    laws = [p for p in parts if p.group != "engine"]
    by_bound: dict[str, float] = {}
    for part in laws:
        by_bound[part.bound] = by_bound.get(part.bound, 0.0) + part.time_s
    machine = sum(hardware.spread_fraction(bound) * t for bound, t in by_bound.items()) / total
    below = sum((p.time_s - p.low_s) ** 2 for p in laws) ** 0.5 / total
    above = sum((p.high_s - p.time_s) ** 2 for p in laws) ** 0.5 / total
    moved = math.log1p(machine)
    return math.hypot(moved, below), math.hypot(moved, math.log1p(above))
