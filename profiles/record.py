"""Base classes of all records that are read from or written to files.

Files may come from unknown sources, so reading is strict: an unknown key, a NaN, an infinity or a
wrong type is an error that names the field. Records are frozen, because measurements must not
change.
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
    """A frozen pydantic model that rejects unknown keys and floats that are not finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


WITH_OLD_NAMES: Final = {"old_names": True}
"""Context for ``model_dump``: also write each renamed field under its old name."""


def _show_old_names(schema: dict[str, Any], record: type[BaseModel]) -> None:
    """Add the old names to a published JSON schema, marked as deprecated."""
    for name, old in getattr(record, "old_names", {}).items():
        if name in schema["properties"]:
            schema["properties"][old] = {**schema["properties"][name], "deprecated": True}


class RenamedRecord(Record):
    """A record with fields that had other names in an earlier version.

    Files are read with either name and written with the new name only. JSON output of commands
    (``context=WITH_OLD_NAMES``) has both names, so that scripts that read the old name work for one
    more version.
    """

    model_config = ConfigDict(json_schema_extra=_show_old_names)

    old_names: ClassVar[Mapping[str, str]] = {}
    """Old name of each renamed field, by its current name."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, data: Any) -> Any:  # noqa: ANN401  (a file may hold anything)
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
    """Reject values that no physical quantity can have (1e-15 s is light crossing an atom)."""
    if not math.isfinite(value) or not 1e-15 < value < 1e30:
        raise ValueError("not a physical quantity (must be between 1e-15 and 1e30)")
    return value


Positive = Annotated[float, AfterValidator(_no_extremes)]
"""A positive, finite number between 1e-15 and 1e30."""

NonNegative = Annotated[float, Field(ge=0.0, lt=1e30)]
"""A finite number from 0 to below 1e30."""


def describe(error: ValidationError) -> str:
    """Describe a pydantic error in one line: the first problem and the number of further ones."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    place = ".".join(str(part) for part in first["loc"]) or "document"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"field '{place}': {first['msg']}{more}"
