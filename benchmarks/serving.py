"""Compare serving predictions with published measurements, in full and with parts left out.

    python benchmarks/serving.py ROWS.csv

The first table lists the error of every group of rows, the worst first. The second is what the fit
of the engines' constants left out: the median error, and the factor that holds nine in ten. The
third has rows with speculation and split pools, which no constant was fitted to. The fourth changes
or leaves out one part of the model at a time (ablation). The TPOT and TTFT columns
hold the median / mean absolute error and the bias, in per cent; "in" is the share inside the 90 %
interval. Saturated rows are not counted for TTFT.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from groundspeed.estimator.backtest import backtest as module
from groundspeed.estimator.backtest.backtest import Resolver, RowResult, backtest, summarize
from groundspeed.estimator.engines.costs import Costs
from groundspeed.estimator.engines.distance import distances
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.hardware.law_lookup import DatasheetHardware, Hardware
from groundspeed.estimator.model.catalog import find_model
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import read_rows

Change = Callable[[Server, Workload], tuple[Server, Workload]]

FACTORS = tuple(n for n in Costs.model_fields if n.endswith("_factor"))
NO_COSTS = Costs(step_s=0.0, layer_s=0.0, sequence_s=0.0, collective_s=0.0, request_s=0.0)
POOLED = Costs(step_s=0.5e-3, layer_s=6e-6, sequence_s=15e-6, collective_s=2e-6, request_s=16e-3)
"""One set of host costs for all engines and versions, without kernel factors."""


MOST_IN_GROUP = 10
"""Rows of one model on one GPU in one source, so that long sweeps do not decide the result."""


def main() -> None:
    """Print the table of groups, what was left out of the fit, and the model variants."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("GROUNDSPEED_REFERENCE", "../shared/reference")
    parser.add_argument(
        "rows",
        type=Path,
        nargs="?",
        default=Path(default) / "e2e_dev2.csv.gz",
        help="CSV file of measurements; default: e2e_dev2.csv.gz in $GROUNDSPEED_REFERENCE",
    )
    arguments = parser.parse_args()
    rows = chosen(arguments.rows)
    results = backtest(rows, best_hardware)
    print(f"{'':50}{'rows':>5}{'TPOT':>17}{'in':>4}{'TTFT':>17}{'in':>4}")
    parts: dict[str, list[RowResult]] = {}
    for r in results:
        parts.setdefault(r.labels["group"], []).append(r)
    answered = [r for r in results if not r.skipped_reason]
    print(f"{'all':50}{len(answered):5}{cells(answered, inside=True)}")
    for group, own in sorted(parts.items(), key=lambda p: -worst(p[1])):
        told = [r for r in own if not r.skipped_reason]
        end = cells(told, inside=True) if told else f"  {own[0].skipped_reason[:60]}"
        print(f"{group[:49]:50}{len(told):5}{end}")
    print()
    print(f"{'left out of the fit':34}{'groups':>8}{'TPOT':>8}{'90 %':>8}{'TTFT':>8}{'90 %':>8}")
    for d in distances():
        name = " ".join(x for x in (d.what, d.platform, d.kind) if x)
        print(
            f"{name:34}{d.groups:8}{d.tpot_median_percent:8.1f}{d.tpot:8.2f}"
            f"{d.ttft_median_percent:8.1f}{d.ttft:8.2f}"
        )
    print()
    print(f"{'not in the fit':50}{'rows':>5}{'TPOT':>17}{'in':>4}{'TTFT':>17}{'in':>4}")
    for name, spec, pools in (
        ("speculation", True, False), ("split pools", False, True), ("both", True, True),
    ):  # fmt: skip
        told = backtest(chosen(arguments.rows, spec=spec, pools=pools), best_hardware)
        told = [r for r in told if not r.skipped_reason]
        print(f"{name:50}{len(told):5}{cells(told, inside=True)}", flush=True)
    print()
    kinds = ("dense", "mixture", "latent", "hybrid")
    print(f"{'':50}" + "".join(f"{k + ' TPOT':>17}{'TTFT':>17}" for k in kinds))
    for name, change in VARIANTS.items():
        without = backtest_with_change(rows, change)
        shown = [cells([r for r in without if r.labels["kind"] == k]) for k in kinds]
        print(f"{name:50}{''.join(shown)}", flush=True)


def chosen(path: Path, *, spec: bool = False, pools: bool = False) -> list[dict[str, str]]:
    """Return the fully described rows, at most ten of one model on one GPU in one source.

    ``spec`` and ``pools``: with speculation and with split pools, or without.
    """
    rows = list(read_rows(path))
    kept: dict[tuple[str, ...], int] = {}
    found = []
    for row in rows:
        if row["tier"] == "C" or bool(row.get("spec")) != spec or bool(row.get("disagg")) != pools:
            continue
        if row["load_kind"] not in ("closed_loop_concurrency", "static_batch", "open_loop_qps"):
            continue
        if float(row["ttft_ms"] or 0.0) > 5000.0:
            continue
        group = (row["engine"].split()[0], row["gpu"], row["model"], row["weight_dtype"])
        sweep = (row["source_id"], *group)
        kept[sweep] = kept.get(sweep, 0) + 1
        if kept[sweep] > MOST_IN_GROUP:
            continue
        try:
            kind = find_model(row["model"]).kind
        except InputError:
            kind = "unknown"
        found.append(row | {"group": " ".join(group), "kind": kind})
    return found


def worst(results: Sequence[RowResult]) -> float:
    """Return the larger median error of a group; -1 if it has none."""
    told = summarize([r for r in results if not r.skipped_reason])
    return max((s.median_ape_percent for s in told), default=-1.0)


def best_hardware(name: str) -> Hardware:
    """Return the best available hardware description for a GPU name."""
    return find_hardware(name).best


def cells(results: Sequence[RowResult], *, inside: bool = False) -> str:
    """Format the errors of TPOT and TTFT as table cells: median/mean and bias, share inside."""
    summaries = {s.metric: s for s in summarize(results)}
    text = ""
    for metric in ("tpot_ms", "ttft_ms"):
        s = summaries.get(metric)
        shown = (
            f"{s.median_ape_percent:.1f}/{s.mape_percent:.1f} {s.bias_percent:+.0f}" if s else "-"
        )
        text += f"{shown:>17}"
        if inside:
            text += f"{s.inside_interval_percent:4.0f}" if s else f"{'-':>4}"
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
    "kernels of another library": lambda s, w: (
        with_engine(s, kernels="vllm" if s.engine.kernels == "trtllm" else "trtllm"), w
    ),
    "kernels as fast in the engine as alone": lambda s, w: (
        with_costs(s, **dict.fromkeys(FACTORS, 1.0)), w
    ),
    "launching a step with prefill takes no time": lambda s, w: (with_costs(s, launch_s=0.0), w),
    "each token is sent at once": lambda s, w: (with_costs(s, stream_steps=0.0), w),
    "4-bit experts with 16-bit activations": lambda s, w: (with_engine(s, run_as=()), w),
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
