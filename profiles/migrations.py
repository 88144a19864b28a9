"""Read profiles of earlier schema versions: one function for each step from N to N + 1.

The names of fields that changed are read by the records themselves (``RenamedRecord``); here
stands what changed in the values. A migration never changes a number.
"""

from collections.abc import Callable
from typing import Any

Document = dict[str, Any]


def from_1_to_2(document: Document) -> Document:
    """Version 2 has other names for an operation, a model form and the levels of memory."""
    for part in (*_records(document, "curves"), *_records(document, "laws")):
        if part.get("operation") == "glue":
            part["operation"] = "elementwise"
        for key in ("form", "model_form"):
            if part.get(key) == "chain":
                part[key] = "piecewise_linear"
    for rate in _records(document, "rates"):
        if str(rate.get("quantity")).startswith("read plateau "):
            rate["quantity"] = str(rate["quantity"]).replace("plateau", "level")
    return document


def _records(document: Document, key: str) -> list[Document]:
    """The objects of a list; whatever else a broken file holds is left for the schema to refuse."""
    values = document.get(key)
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []


MIGRATIONS: dict[int, Callable[[Document], Document]] = {1: from_1_to_2}
"""Migration by the version that it starts from."""
