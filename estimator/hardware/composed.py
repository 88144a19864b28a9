"""Compose the experts of a mixture of GEMMs, for devices whose grouped experts were not measured.

Without a grouped kernel the activated experts run one after another, each on the rows that are
routed to it. That is how the decoder of ``verify`` runs them on a CPU.
"""

from dataclasses import replace

import numpy as np

from groundspeed.estimator.graph.operator import Operator, elementwise, matmul
from groundspeed.profiles.operations import Array


def experts_one_by_one(operator: Operator) -> list[tuple[Operator, Array]]:
    """Return the operators of one expert, each with the number of experts that run, (N,)."""
    c, dtype = operator.columns, operator.config_key["dtype"]
    rest = dtype if dtype in ("float32", "float16") else "bfloat16"
    missed = (1.0 - c["top_k"] / c["experts"]) ** c["tokens"]
    hit = np.maximum(c["experts"] / c["ep"] * (1.0 - missed), 1.0)
    each = c["tokens"] * c["top_k"] / c["ep"] / hit
    hidden, width = float(c["hidden"][0]), float(c["width"][0])
    count = operator.count
    parts = [
        elementwise("experts", "embed", each, hidden, count, rest),
        matmul("experts", each, 2.0 * width, hidden, count, dtype),
        elementwise("experts", "silu_mul", each, 2.0 * width, count, rest),
        matmul("experts", each, hidden, width, count, dtype),
        elementwise("experts", "residual_add", each, hidden, count, rest),
    ]
    return [(replace(part, group=operator.group), hit) for part in parts]
