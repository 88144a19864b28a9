"""Read profiles of earlier schema versions: one function for each step from N to N + 1.

Renamed fields are handled by the records themselves (``RenamedRecord``); this file handles changed
values. A migration never changes a number.
"""

from collections.abc import Callable
from typing import Any

Document = dict[str, Any]


def from_1_to_2(document: Document) -> Document:
    """Rename an operation, a model form and the memory level rates as in version 2."""
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
    """Return the objects in a list of the document; the schema rejects any other content later."""
    values = document.get(key)
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []


MIGRATIONS: dict[int, Callable[[Document], Document]] = {1: from_1_to_2}
"""Migration function by the schema version from which it migrates."""
