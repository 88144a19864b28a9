"""The base of every record that is read from or written to a file.

Files come from strangers, so reading is strict: an unknown key, a NaN, an infinity or a wrong type
is an error that names the field. Records are frozen: what was measured does not change.
"""

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


class Record(BaseModel):
    """A frozen, strict record whose floats are finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


def _no_extremes(value: float) -> float:
    """Refuse what no physical quantity of this field can be (1e-15 s is light crossing an atom)."""
    if not math.isfinite(value) or not 1e-15 < value < 1e30:
        raise ValueError("not a physical quantity (must lie between 1e-15 and 1e30)")
    return value


Positive = Annotated[float, AfterValidator(_no_extremes)]
"""A positive, finite, physically conceivable number."""

NonNegative = Annotated[float, Field(ge=0.0, lt=1e30)]
"""Zero or more, finite."""


def describe(error: ValidationError) -> str:
    """Say in one line what pydantic found: the first problem, and how many more there are."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    place = ".".join(str(part) for part in first["loc"]) or "document"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"field '{place}': {first['msg']}{more}"
