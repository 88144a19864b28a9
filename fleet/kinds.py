"""The kinds of quantities in a table of a fleet: what a metric says about a GPU or a node."""

from typing import Literal

Kind = Literal[
    "tensor", "vector", "memory", "host_link", "nvlink", "network", "launch", "model",
    "telemetry", "setting", "counter", "other",
]  # fmt: skip

UNJUDGED: frozenset[Kind] = frozenset(("telemetry", "setting", "counter"))
"""Kinds that are no rates: readings of sensors, settings, and counters of errors."""
