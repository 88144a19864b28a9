"""How far a case is from those that the engine's constants were fitted to, and what that costs.

Published rows come in groups: one version of an engine, one architecture, one kind of model. The
fit leaves out one group after the other and predicts it from the rest. The errors of what was left
out, by how much of it the rest knew, are the interval of a prediction that knows as much:

- ``seen``: rows of this version, architecture and kind of model were fitted (one model was left
  out);
- ``version``: of this version and architecture, but of other kinds of models;
- ``engine``: of this engine on this architecture, in other versions;
- ``other``: of this engine on other architectures only.

Errors differ by the kind of model and by the platform, so each has factors of its own where at
least three groups were left out.

>>> from groundspeed.estimator.engines.engine import find_engine
>>> from groundspeed.estimator.model.catalog import find_model
>>> distance(find_engine("bare"), "hopper", find_model("qwen3-8b")).what
'none'
"""

import functools
import tomllib
from importlib import resources
from typing import Annotated

from pydantic import Field

from groundspeed.estimator.engines.engine import DISTANCES, NO_ENGINE, Engine, family
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.record import NonNegative, Positive, Record


class Distance(Record):
    """What is known of a case, and the 90 % factors of the error that follows."""

    what: str
    """``seen``, ``version``, ``engine``, ``other``; ``own`` with constants that were measured on a
    server of the user's own; ``none`` without an engine."""
    platform: str = ""
    """``cuda`` or ``rocm``; empty: of both."""
    kind: str = ""
    """Kind of model; empty: of all."""
    tpot: Positive
    ttft: Positive
    tpot_median_percent: NonNegative = 0.0
    """[%] Median error of the TPOT of what was left out."""
    ttft_median_percent: NonNegative = 0.0
    """[%] Median error of the TTFT of what was left out."""
    groups: Annotated[int, Field(ge=0)]
    """Number of groups that were left out to find the factors."""

    def __str__(self) -> str:
        known = {
            "none": "no engine",
            "own": "measured on a server of your own",
            "seen": "fitted to rows of this version, architecture and kind of model",
            "version": "fitted to other kinds of models on this version and architecture",
            "engine": "fitted to other versions on this architecture",
            "other": "fitted to other architectures only",
        }[self.what]
        if self.what == "none":
            return known
        if self.what == "own":
            return (
                f"engine's constants {known}; loads that the fit left out were within "
                f"{self.tpot:.2f} (TPOT) and {self.ttft:.2f} (TTFT), nine times in ten"
            )
        return (
            f"engine's constants {known}; what was left out like this was within "
            f"{self.tpot:.2f} (TPOT) and {self.ttft:.2f} (TTFT), nine times in ten"
        )


NO_DISTANCE = Distance(what="none", tpot=1.0, ttft=1.0, groups=0)


def distances() -> tuple[Distance, ...]:
    """Return the errors of everything that was left out, as the fit wrote them."""
    return tuple(_distances().values())


def distance(engine: Engine, architecture: str, model: Model) -> Distance:
    """Return how far a case is from the rows that the constants were fitted to.

    Parameters
    ----------
    engine : Engine
    architecture : str
        Architecture of the device.
    model : Model
        Of an engine that was calibrated with it, what was left out of that fit is known; of another
        model, what a model that was left out of the fit to published rows showed.
    """
    if engine.name == NO_ENGINE:
        return NO_DISTANCE
    kind = model.kind
    own = engine.calibrated
    if own is not None and own.model == model.id:
        return Distance(what="own", tpot=own.tpot, ttft=own.ttft, groups=own.loads)
    ours = family(architecture)
    if own is not None or (engine.version_seen, ours, kind) in engine.seen:
        what = "seen"
    elif any(s[:2] == (engine.version_seen, ours) for s in engine.seen):
        what = "version"
    elif any(s[1] == ours for s in engine.seen):
        what = "engine"
    else:
        what = "other"
    known = _distances()
    for case in ((engine.platform, kind), ("", kind), (engine.platform, ""), ("", "")):
        if (found := known.get((what, *case))) is not None:
            return found
    return known["other", "", ""]


@functools.cache
def _distances() -> dict[tuple[str, str, str], Distance]:
    text = (resources.files("groundspeed.estimator") / "engines" / DISTANCES).read_text()
    found = [Distance.model_validate(d) for d in tomllib.loads(text)["distance"]]
    return {(d.what, d.platform, d.kind): d for d in found}
