"""What could explain the error of a backtest: a law, the host, or queueing.

Each candidate changes the prediction in a pattern of its own: a product's law shifts large batches
and prefill, the memory's law small ones, a host cost every step by the same time, queueing TTFT
alone. So each is turned up a little, the pattern is fitted to the errors of all rows, and what is
left says how much it could explain.
"""

from collections.abc import Callable, Sequence

import numpy as np

from groundspeed.estimator.decisions.backtest import Resolver, Row, RowResult, server_and_workload
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.serving.server import Server
from groundspeed.profiles.errors import InputError

CANDIDATES: dict[str, tuple[str, float]] = {
    "a cost of each step": ("step_s", 0.2e-3),
    "a cost of each layer": ("layer_s", 2e-6),
    "a cost of each sequence": ("sequence_s", 5e-6),
    "a cost of each request": ("request_s", 10e-3),
    "prefill kernels": ("prefill_factor", 0.05),
    "decode attention": ("attention_factor", 0.05),
    "experts": ("experts_factor", 0.05),
}
"""What is turned up, and by how much."""

MOST_ROWS = 60
FEWEST_ROWS = 3


def attribute_errors(
    rows: Sequence[Row], results: Sequence[RowResult], find: Callable[[str], Hardware]
) -> list[str]:
    """A line for each candidate: how much of the squared log error it could explain.

    Parameters
    ----------
    rows : sequence of mapping
    results : sequence of RowResult
        Of the same rows.
    find : callable
        From a GPU's name to hardware.
    """
    usable = [
        (row, result)
        for row, result in zip(rows, results, strict=True)
        if not result.skipped_reason
        and {"ttft_ms", "tpot_ms"} & result.measured.keys()
        and not result.saturated
    ]
    step = max(1, len(usable) // MOST_ROWS)
    usable = usable[::step]
    if len(usable) < FEWEST_ROWS:
        return ["too few rows to say what explains the error"]
    errors, places = [], []
    for i, (_, result) in enumerate(usable):
        for metric in ("ttft_ms", "tpot_ms"):
            if result.measured.get(metric, 0.0) > 0:
                errors.append(np.log(result.measured[metric] / result.predicted[metric]))
                places.append((i, metric))
    residual = np.array(errors)
    whole = float((residual**2).sum())
    resolver = Resolver(find)
    explanations = []
    for name, (field, more) in CANDIDATES.items():
        changed = [_changed(row, resolver, field, more) for row, _ in usable]
        pattern = np.array([np.log(changed[i][m] / usable[i][1].predicted[m]) for i, m in places])
        power = float((pattern**2).sum())
        size = float(pattern @ residual) / power if power > 0 else 0.0
        left = float(((residual - size * pattern) ** 2).sum())
        explanations.append((1.0 - left / whole if whole > 0 else 0.0, name, field, size * more))
    lines = [f"error of {len(places)} figures; each candidate alone could explain:"]
    for share, name, field, change in sorted(explanations, reverse=True):
        how = f"{change:+.3g}" if "factor" in field else f"{change * 1e6:+.3g} us"
        lines.append(f"  {share:4.0%} of the squared error: {name} ({field} {how})")
    return lines


def _changed(row: Row, resolver: Resolver, field: str, more: float) -> dict[str, float]:
    """Predictions of a row with one cost turned up."""
    server, workload = server_and_workload(row, resolver)
    costs = server.engine.costs
    turned = costs.model_copy(update={field: getattr(costs, field) + more})
    engine = server.engine.model_copy(update={"costs": turned})
    try:
        prediction = Server(server.model, server.deployment, engine, server.hardware).predict(
            workload
        )
    except InputError:
        return {"ttft_ms": 1.0, "tpot_ms": 1.0}
    return {"ttft_ms": prediction.ttft_s * 1e3, "tpot_ms": prediction.tpot_s * 1e3}
