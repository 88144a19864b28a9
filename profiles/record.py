"""The base of every record that is read from or written to a file.

Files come from strangers, so reading is strict: an unknown key, a NaN, an infinity or a wrong type
is an error that names the field. Records are frozen: what was measured does not change.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)


class Record(BaseModel):
    """A frozen, strict record whose floats are finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


WITH_OLD_NAMES: Final = {"old_names": True}
"""Context for ``model_dump``: write a renamed field under its old name too."""


def _show_old_names(schema: dict[str, Any], record: type[BaseModel]) -> None:
    """Add the old names to a published JSON schema, marked as deprecated."""
    for name, old in getattr(record, "old_names", {}).items():
        if name in schema["properties"]:
            schema["properties"][old] = {**schema["properties"][name], "deprecated": True}


class RenamedRecord(Record):
    """A record whose fields had other names in an earlier version.

    Files are read with either name. What a command prints (``context=WITH_OLD_NAMES``) has both,
    so a script that reads the old name works for one more version; files have the new name alone.
    """

    model_config = ConfigDict(json_schema_extra=_show_old_names)

    old_names: ClassVar[Mapping[str, str]] = {}
    """Name before, by name of today."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, data: Any) -> Any:  # noqa: ANN401  (whatever a file holds)
        if not isinstance(data, dict) or not any(old in data for old in cls.old_names.values()):
            return data
        document = dict(data)
        for name, old in cls.old_names.items():
            if old in document:
                value = document.pop(old)
                document.setdefault(name, value)
        return document

    @model_serializer(mode="wrap")
    def _write_old_names(
        self, write: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        document: dict[str, Any] = write(self)
        if info.context == WITH_OLD_NAMES:
            for name, old in self.old_names.items():
                if name in document:
                    document[old] = document[name]
        return document


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
