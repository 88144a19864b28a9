"""Find the likely causes of a backtest's error: kernel factors or host costs.

Each candidate cause changes the predictions in its own pattern: a GEMM factor shifts large batches
and prefill, a memory-bound factor small batches, a host cost adds the same time to every step, and
a request cost changes TTFT only. Each candidate is increased slightly, the resulting change is
fitted to the errors of all rows by least squares, and the reduction of the squared error is the
share that this candidate could explain.
"""

from collections.abc import Callable, Sequence

import numpy as np

from groundspeed.estimator.backtest.backtest import RowResult
from groundspeed.estimator.backtest.row_server import Resolver, server_and_workload
from groundspeed.estimator.backtest.values import Row, stated
from groundspeed.estimator.engines.own_engine import OwnEngine
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.serving.server import Server

CANDIDATES: dict[str, tuple[str, float]] = {
    "a cost of each step": ("step_s", 0.2e-3),
    "a cost of each layer": ("layer_s", 2e-6),
    "a cost of each sequence": ("sequence_s", 5e-6),
    "a cost of each request": ("request_s", 10e-3),
    "prefill kernels": ("prefill_factor", 0.05),
    "decode attention": ("attention_factor", 0.05),
    "experts": ("experts_factor", 0.05),
}
"""Candidate causes: the field of ``Costs`` that is increased, and by how much (s or factor)."""

MAX_ROWS = 60
MIN_ROWS = 3


def attribute_errors(
    rows: Sequence[Row],
    results: Sequence[RowResult],
    find: Callable[[str], Hardware],
    own: OwnEngine | None = None,
) -> list[str]:
    """Return one line per candidate with the share of the squared log error it could explain.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of the backtest table.
    results : sequence of RowResult
        Backtest results of the same rows, in the same order.
    find : callable
        Maps the name of a GPU to its hardware.
    own : OwnEngine, optional
        The calibrated engine that the results were predicted with.
    """
    usable = [
        (row, result)
        for row, result in zip(rows, results, strict=True)
        if not result.skipped_reason
        and not stated(row, "disagg")
        and {"ttft_ms", "tpot_ms"} & result.measured.keys()
        and not result.saturated
    ]
    step = max(1, len(usable) // MAX_ROWS)
    usable = usable[::step]
    if len(usable) < MIN_ROWS:
        return [f"at least {MIN_ROWS} predicted rows are needed to attribute the error"]
    errors, places = [], []
    for i, (_, result) in enumerate(usable):
        for metric in ("ttft_ms", "tpot_ms"):
            if result.measured.get(metric, 0.0) > 0 and metric in result.predicted:
                errors.append(np.log(result.measured[metric] / result.predicted[metric]))
                places.append((i, metric))
    residual = np.array(errors)
    whole = float((residual**2).sum())
    resolver = Resolver(find, own)
    explanations = []
    for name, (field, more) in CANDIDATES.items():
        changed = [_predict_with_increase(row, resolver, field, more) for row, _ in usable]
        pattern = np.array([np.log(changed[i][m] / usable[i][1].predicted[m]) for i, m in places])
        power = float((pattern**2).sum())
        size = float(pattern @ residual) / power if power > 0 else 0.0
        left = float(((residual - size * pattern) ** 2).sum())
        explanations.append((1.0 - left / whole if whole > 0 else 0.0, name, field, size * more))
    lines = [f"error of {len(places)} measurements; each candidate alone could explain:"]
    for share, name, field, change in sorted(explanations, reverse=True):
        how = f"{change:+.3g}" if "factor" in field else f"{change * 1e6:+.3g} us"
        lines.append(f"  {share:4.0%} of the squared error: {name} ({field} {how})")
    return lines


def _predict_with_increase(
    row: Row, resolver: Resolver, field: str, more: float
) -> dict[str, float]:
    """Predict a row with one cost increased by ``more``."""
    server, workload = server_and_workload(row, resolver)
    costs = server.engine.costs
    turned = costs.model_copy(update={field: getattr(costs, field) + more})
    engine = server.engine.model_copy(update={"costs": turned})
    prediction = Server(server.model, server.deployment, engine, server.hardware).predict(workload)
    times = {"ttft_ms": prediction.ttft_s * 1e3}
    if prediction.tpot_s is not None:
        times["tpot_ms"] = prediction.tpot_s * 1e3
    return times
