"""Compare serving predictions with published measurements, in full and with parts left out.

    python benchmarks/serving.py ROWS.csv

The first table lists the error of every group of rows, including bad ones. The second table changes
or leaves out one part of the model at a time (ablation). The TPOT and TTFT columns hold the median
/ mean absolute error and the bias, in per cent. Saturated rows are not counted for TTFT.
"""

import argparse
import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from groundspeed.estimator.decisions import backtest as module
from groundspeed.estimator.decisions.backtest import Resolver, RowResult, backtest, summarize
from groundspeed.estimator.engines.engine import Costs, Engine
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.hardware.law_lookup import DatasheetHardware, Hardware
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload

Change = Callable[[Server, Workload], tuple[Server, Workload]]

NO_COSTS = Costs(step_s=0.0, layer_s=0.0, sequence_s=0.0, collective_s=0.0, request_s=0.0)
POOLED = Costs(step_s=0.5e-3, layer_s=6e-6, sequence_s=15e-6, collective_s=2e-6, request_s=16e-3)
"""One set of host costs for all engines and versions, without kernel factors."""


def main() -> None:
    """Print the table of groups and the table of model variants."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("GROUNDSPEED_REFERENCE", "../shared/reference")
    parser.add_argument(
        "rows",
        type=Path,
        nargs="?",
        default=Path(default) / "e2e_dev.csv",
        help="CSV file of measurements; default: e2e_dev.csv in $GROUNDSPEED_REFERENCE",
    )
    arguments = parser.parse_args()
    with arguments.rows.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["tier"] != "C"]
    for row in rows:
        engine = row["engine"].split()[0]
        gpu = row["gpu"].split("-")[0]
        row["group"] = (
            f"{engine} {row['engine_version']} {gpu} {row['model']} {row['weight_dtype']}"
        )
        row["family"] = "DeepSeek-R1, February 2025" if row["model"] == "DeepSeek-R1" else "dense"
    results = backtest(rows, best_hardware)
    print(f"{'':62}{'rows':>5}{'TPOT':>20}{'TTFT':>20}")
    groups = sorted({r["group"] for r in rows})
    for group in groups:
        chosen = [r for r in results if r.labels["group"] == group]
        print(f"{group[:61]:62}{len(chosen):5}{cells(chosen)}")
    print(f"{'all':62}{len(results):5}{cells(results)}")
    print()
    print(f"{'':62}{'dense TPOT':>20}{'TTFT':>20}{'R1 TPOT':>20}{'TTFT':>20}")
    for name, change in VARIANTS.items():
        without = backtest_with_change(rows, change)
        parts = [
            cells([r for r in without if r.labels["family"].startswith(family)])
            for family in ("dense", "DeepSeek")
        ]
        print(f"{name:62}{''.join(parts)}", flush=True)


def best_hardware(name: str) -> Hardware:
    """Return the best available hardware description for a GPU name."""
    return find_hardware(name).best


def cells(results: Sequence[RowResult]) -> str:
    """Format the errors of TPOT and TTFT as two table cells."""
    summaries = {s.metric: s for s in summarize(results)}
    text = ""
    for metric in ("tpot_ms", "ttft_ms"):
        s = summaries.get(metric)
        shown = (
            f"{s.median_ape_percent:.1f}/{s.mape_percent:.1f} {s.bias_percent:+.0f}" if s else "-"
        )
        text += f"{shown:>20}"
    return text


def backtest_with_change(rows: list[dict[str, str]], change: Change) -> list[RowResult]:
    """Run the backtest with a change applied to each server and workload."""
    server_and_workload = module.server_and_workload

    def other(row: module.Row, resolver: Resolver) -> tuple[Server, Workload]:
        return change(*server_and_workload(row, resolver))

    with patch.object(module, "server_and_workload", other):
        return backtest(rows, best_hardware)


def with_costs(server: Server, **update: object) -> Server:
    """Return the server with other engine costs."""
    costs = server.engine.costs.model_copy(update=update)
    return replace(server, engine=server.engine.model_copy(update={"costs": costs}))


def with_engine(server: Server, **update: object) -> Server:
    """Return the server with other engine fields."""
    engine: Engine = server.engine.model_copy(update=update)
    return replace(server, engine=engine)


def datasheet(server: Server, w: Workload) -> tuple[Server, Workload]:
    """Use datasheet peaks instead of laws, and no host costs."""
    spec = find_hardware(server.hardware.id.rsplit("-", 1)[0]).spec
    assert spec is not None
    return replace(with_engine(server, costs=NO_COSTS), hardware=DatasheetHardware(spec)), w


VARIANTS: dict[str, Change] = {
    "full model": lambda s, w: (s, w),
    "datasheet peaks, no host costs": datasheet,
    "measured kernels, no host costs": lambda s, w: (with_engine(s, costs=NO_COSTS), w),
    "measured kernels, one set of host costs for all engines": lambda s, w: (
        with_engine(s, costs=POOLED), w
    ),
    "without the host cost per sequence": lambda s, w: (with_costs(s, sequence_s=0.0), w),
    "without the cost per layer (kernel gaps)": lambda s, w: (with_costs(s, layer_s=0.0), w),
    "without the host cost per collective": lambda s, w: (with_costs(s, collective_s=0.0), w),
    "without the engine's custom all-reduce": lambda s, w: (
        with_engine(s, custom_all_reduce=False), w
    ),
    "8-bit quantization as a separate kernel launch": lambda s, w: (
        with_engine(s, fused_quantize=False), w
    ),
    "attention kernels of the other library": lambda s, w: (
        with_engine(s, kernels="vllm" if s.engine.kernels == "trtllm" else "trtllm"), w
    ),
    "experts as fast as in current versions": lambda s, w: (with_costs(s, experts_factor=1.0), w),
    "MLA prefill as fast as in current versions": lambda s, w: (
        with_costs(s, latent_prefill_factor=1.0), w
    ),
    "MLA decode without the cost of eager launches": lambda s, w: (
        with_costs(s, eager_latent_layer_s=0.0), w
    ),
    "the other scheduling policy": lambda s, w: (
        with_engine(s, policy="mixed" if s.engine.policy == "prefill_first" else "prefill_first"), w
    ),
    "token budget doubled": lambda s, w: (
        with_engine(s, token_budget=2 * s.engine.token_budget), w
    ),
    "all requests of equal length": lambda s, w: (s, replace(w, length_low=0.9, length_high=0.9)
                                       if w.length_low != w.length_high else w),
}  # fmt: skip
"""Variants of the model by name: each one changes a single part (the first one changes none)."""


if __name__ == "__main__":
    main()
