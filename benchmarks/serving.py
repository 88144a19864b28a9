"""How far predictions of servers are from published measurements, and what each part is worth.

    python benchmarks/serving.py ROWS.csv

The first table has every group of rows, bad ones included. The second leaves one thing out of the
model at a time. TPOT and TTFT: median / mean absolute error in per cent, and bias; saturated rows
are not counted for TTFT.
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
from groundspeed.estimator.serving.workload import ServingWorkload

Change = Callable[[Server, ServingWorkload], tuple[Server, ServingWorkload]]

NO_COSTS = Costs(step_s=0.0, layer_s=0.0, sequence_s=0.0, collective_s=0.0, request_s=0.0)
POOLED = Costs(step_s=0.5e-3, layer_s=6e-6, sequence_s=15e-6, collective_s=2e-6, request_s=16e-3)
"""One set for all engines and versions, and no factor of any kernel."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("GROUNDSPEED_REFERENCE", "../shared/reference")
    parser.add_argument("rows", type=Path, nargs="?", default=Path(default) / "e2e_dev.csv")
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
    results = backtest(rows, find)
    print(f"{'':62}{'rows':>5}{'TPOT':>16}{'TTFT':>16}")
    groups = sorted({r["group"] for r in rows})
    for group in groups:
        chosen = [r for r in results if r.labels["group"] == group]
        print(f"{group[:61]:62}{len(chosen):5}{cells(chosen)}")
    print(f"{'all':62}{len(results):5}{cells(results)}")
    print()
    print(f"{'':62}{'dense TPOT':>16}{'TTFT':>16}{'R1 TPOT':>16}{'TTFT':>16}")
    for name, change in VARIANTS.items():
        without = changed(rows, change)
        parts = [
            cells([r for r in without if r.labels["family"].startswith(family)])
            for family in ("dense", "DeepSeek")
        ]
        print(f"{name:62}{''.join(parts)}", flush=True)


def find(name: str) -> Hardware:
    """The hardware of a name."""
    return find_hardware(name).best


def cells(results: Sequence[RowResult]) -> str:
    """Errors of TPOT and TTFT."""
    summaries = {s.metric: s for s in summarize(results)}
    text = ""
    for metric in ("tpot_ms", "ttft_ms"):
        s = summaries.get(metric)
        shown = (
            f"{s.median_ape_percent:.1f}/{s.mape_percent:.1f} {s.bias_percent:+.0f}" if s else "-"
        )
        text += f"{shown:>16}"
    return text


def changed(rows: list[dict[str, str]], change: Change) -> list[RowResult]:
    """The backtest with every server and load changed."""
    server_and_workload = module.server_and_workload

    def other(row: module.Row, resolver: Resolver) -> tuple[Server, ServingWorkload]:
        return change(*server_and_workload(row, resolver))

    with patch.object(module, "understand", other):
        return backtest(rows, find)


def with_costs(server: Server, **update: object) -> Server:
    """A server whose engine costs differ."""
    costs = server.engine.costs.model_copy(update=update)
    return replace(server, engine=server.engine.model_copy(update={"costs": costs}))


def with_engine(server: Server, **update: object) -> Server:
    """A server whose engine differs."""
    engine: Engine = server.engine.model_copy(update=update)
    return replace(server, engine=engine)


def datasheet(server: Server, w: ServingWorkload) -> tuple[Server, ServingWorkload]:
    """Datasheet peaks and no host."""
    spec = find_hardware(server.hardware.id.rsplit("-", 1)[0]).spec
    assert spec is not None
    return replace(with_engine(server, costs=NO_COSTS), hardware=DatasheetHardware(spec)), w


VARIANTS: dict[str, Change] = {
    "everything": lambda s, w: (s, w),
    "datasheet: peaks, no host": datasheet,
    "measured kernels, no host": lambda s, w: (with_engine(s, costs=NO_COSTS), w),
    "measured kernels, one set of host costs for all engines": lambda s, w: (
        with_engine(s, costs=POOLED), w
    ),
    "without the cost of each sequence": lambda s, w: (with_costs(s, sequence_s=0.0), w),
    "without the gaps between a layer's kernels": lambda s, w: (with_costs(s, layer_s=0.0), w),
    "without the cost of each collective": lambda s, w: (with_costs(s, collective_s=0.0), w),
    "without the engine's own all-reduce": lambda s, w: (
        with_engine(s, custom_all_reduce=False), w
    ),
    "rounding to 8 bit as a launch of its own": lambda s, w: (
        with_engine(s, fused_quantize=False), w
    ),
    "the other library's attention": lambda s, w: (
        with_engine(s, kernels="vllm" if s.engine.kernels == "trtllm" else "trtllm"), w
    ),
    "experts as fast as today's": lambda s, w: (with_costs(s, experts_factor=1.0), w),
    "latent prefill attention as fast as today's": lambda s, w: (
        with_costs(s, latent_prefill_factor=1.0), w
    ),
    "latent decode launched as fast as captured": lambda s, w: (
        with_costs(s, eager_latent_layer_s=0.0), w
    ),
    "the other scheduling policy": lambda s, w: (
        with_engine(s, policy="mixed" if s.engine.policy == "prefill_first" else "prefill_first"), w
    ),
    "token budget doubled": lambda s, w: (
        with_engine(s, token_budget=2 * s.engine.token_budget), w
    ),
    "lengths all equal": lambda s, w: (s, replace(w, length_low=0.9, length_high=0.9)
                                       if w.length_low != w.length_high else w),
}  # fmt: skip
"""What is left out, one at a time."""


if __name__ == "__main__":
    main()
