"""How far a case is from those that the engine's constants were fitted to, and what that costs.

Published rows come in groups: one version of an engine, one family of GPUs, one kind of model. The
fit leaves out one whole group after the other and predicts it from the rest. The errors of whole
groups, by how much of a group the rest knew, are the interval of a prediction that knows as much:

- ``seen``: rows of this version, architecture and kind of model were fitted;
- ``version``: of this version and architecture, but of other kinds of models;
- ``engine``: of this engine on this architecture, in other versions;
- ``other``: of this engine on other architectures only.

>>> from groundspeed.estimator.engines.engine import find_engine
>>> distance(find_engine("bare"), "hopper", "dense").what
'none'
"""

import functools
import tomllib
from importlib import resources

from groundspeed.estimator.engines.engine import DISTANCES, NO_ENGINE, Engine, family
from groundspeed.profiles.record import Positive, Record


class Distance(Record):
    """What is known of a case, and the 90 % factors of the error that follows."""

    what: str
    """``seen``, ``version``, ``engine``, ``other``; ``none`` without an engine."""
    tpot: Positive
    ttft: Positive
    groups: int
    """Number of groups that were left out to find the factors."""


NO_DISTANCE = Distance(what="none", tpot=1.0, ttft=1.0, groups=0)


def distance(engine: Engine, architecture: str, kind: str) -> Distance:
    """Return how far a case is from the rows that the constants were fitted to.

    Parameters
    ----------
    engine : Engine
    architecture : str
        Architecture of the device.
    kind : str
        :attr:`Model.kind`.
    """
    if engine.name == NO_ENGINE:
        return NO_DISTANCE
    ours = family(architecture)
    if (engine.version_seen, ours, kind) in engine.seen:
        what = "seen"
    elif any(s[:2] == (engine.version_seen, ours) for s in engine.seen):
        what = "version"
    elif any(s[1] == ours for s in engine.seen):
        what = "engine"
    else:
        what = "other"
    return _distances()[what]


@functools.cache
def _distances() -> dict[str, Distance]:
    text = (resources.files("groundspeed.estimator") / "engines" / DISTANCES).read_text()
    found = tomllib.loads(text)
    return {what: Distance(what=what, **values) for what, values in found.items()}
