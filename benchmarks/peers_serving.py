"""Compare predictions of servers with those of AISimulate, on the published rows both answer.

    python -m venv peer && peer/bin/pip install aisimulate==0.13.0.dev202610270000000085
    python benchmarks/peers_serving.py ROWS.csv --peer peer/bin/aisimulate

AISimulate replays the schedulers of vLLM, SGLang and TensorRT-LLM on tables of kernel times; it has
no AMD devices and only the newest versions of each engine, which stand here for older ones. It gets
the model, formats, parallelism, lengths and clients of each row, and its own defaults otherwise. At
most three rows of one sweep are taken. Our engines' constants were fitted to rows of the same
collection; how far off they are where they were not stands in the table of ``serving.py``. The
table has the median / mean absolute error and the bias of TPOT and TTFT, in per cent, of the rows
that both answer.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml

from groundspeed.estimator.backtest.backtest import RowResult, backtest
from groundspeed.estimator.backtest.row_server import Resolver, server_and_workload
from groundspeed.estimator.deployment.deployment import formats
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.catalog import hub_name
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import read_rows

SYSTEMS = {
    "h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm", "b200": "b200_sxm", "b300": "b300_sxm",
    "gb200": "gb200", "gb300": "gb300", "a100-sxm": "a100_sxm", "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}  # fmt: skip
"""Its names of devices, by the beginning of ours."""

ENGINES = ("vllm", "sglang", "trtllm")
OWN = {"fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4", "int4_wo": "int4_wo",
       "bfloat16": "bfloat16", "w4a16_mxfp4": "w4a16_mxfp4"}  # fmt: skip
"""Its names of formats, by ours."""

SAME_SHAPE = {
    "llama-3.3-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3.1-405b": "meta-llama/Meta-Llama-3.1-405B", "kimi-k2.5": "moonshotai/Kimi-K2.5",
}  # fmt: skip
"""Models of the same shape whose configuration it ships; it downloads the others."""

ROWS_OF_A_SWEEP = 3
TIMEOUT_S = 120.0


def main() -> None:
    """Print both tools' errors by engine and by GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("GROUNDSPEED_REFERENCE", "../shared/reference")
    parser.add_argument(
        "rows", type=Path, nargs="?", default=Path(default) / "e2e_dev2.csv.gz",
        help="CSV file of measurements; default: e2e_dev2.csv.gz in $GROUNDSPEED_REFERENCE",
    )  # fmt: skip
    parser.add_argument("--peer", type=Path, required=True, help="the program aisimulate")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--most", type=int, default=400, help="rows to compare")
    arguments = parser.parse_args()
    rows = chosen(arguments.rows)[: arguments.most]
    resolver = Resolver(best_hardware)
    cases = []
    for row in rows:
        try:
            server, workload = server_and_workload(row, resolver)
            cases.append((row, peer_config(row, server, workload)))
        except InputError:
            continue
    begin = time.perf_counter()
    ours = backtest([row for row, _ in cases], best_hardware)
    ours_s = time.perf_counter() - begin
    begin = time.perf_counter()
    with ThreadPoolExecutor(arguments.workers) as pool:
        theirs = list(pool.map(lambda c: ask(arguments.peer, c[1]), cases))
    theirs_s = (time.perf_counter() - begin) * arguments.workers
    report([row for row, _ in cases], ours, theirs)
    count = max(len(cases), 1)
    print(f"\ntime of a prediction: {1e3 * ours_s / count:.0f} ms, {1e3 * theirs_s / count:.0f} ms")
    reasons = collections.Counter(
        re.split(r"[{:(]| at /| for ", t)[0].strip() for t in theirs if isinstance(t, str)
    )
    for reason, n in reasons.most_common(5):
        print(f"AISimulate leaves {n} rows out: {reason[:80]}")


def best_hardware(name: str) -> Hardware:
    """Return the best available hardware description for a GPU name."""
    return find_hardware(name).best


def chosen(path: Path) -> list[dict[str, str]]:
    """Return described closed loops on NVIDIA GPUs, a few of each sweep."""
    kept: collections.Counter[tuple[str, ...]] = collections.Counter()
    found = []
    for row in read_rows(path):
        if row.get("tier") == "C" or row.get("spec") or row.get("disagg"):
            continue
        if row["load_kind"] != "closed_loop_concurrency" or row["gpu"].startswith("MI"):
            continue
        if float(row.get("ttft_ms") or 0.0) > 5000.0:
            continue
        sweep = tuple(row[k] for k in ("source_id", "engine", "gpu", "model", "weight_dtype"))
        kept[sweep] += 1
        if kept[sweep] <= ROWS_OF_A_SWEEP:
            found.append(row)
    # Rows of all sweeps first, so that a limit leaves none out altogether.
    order = np.random.default_rng(5).permutation(len(found))
    return [found[i] for i in order]


def peer_config(row: dict[str, str], server: Server, w: Workload) -> dict[str, object]:
    """Return the question to AISimulate about a row.

    Raises
    ------
    InputError
        If it has no such device or engine.
    """
    system = next((n for p, n in SYSTEMS.items() if server.hardware.id.startswith(p)), None)
    if system is None or server.engine.name not in ENGINES:
        raise InputError(f"AISimulate has no {row['gpu']} or {row['engine']}")
    d, f = server.deployment, formats(server.model, server.deployment)
    stated = {"gemm_quant_mode": OWN.get(f.linear), "kvcache_quant_mode": OWN.get(f.cache)}
    if server.model.experts is not None:
        stated["moe_quant_mode"] = OWN.get(f.experts)
    mean = w.mean_length
    tokens = {
        "input_tokens": max(1, round(mean * w.prompt_tokens)),
        "output_tokens": max(2, round(mean * w.output_tokens)),
    }
    count = min(w.num_prompts or 10 * w.concurrency, 5 * w.concurrency)
    return {
        "traffic": {
            "source": {"type": "synthetic", **tokens},
            "load": {"type": "concurrency", "concurrency": w.concurrency},
            "stop": {"requests": max(count, 1)},
        },
        "engine": {
            "model": SAME_SHAPE.get(server.model.id) or hub_name(server.model),
            "hardware": system,
            "backend": server.engine.name,
            **{k: v for k, v in stated.items() if v},
            "workers": {
                "aggregated": {
                    "parallelism": {
                        "replicas": d.replicas, "tensor": d.tp, "pipeline": d.pp,
                        "attention_data": d.dp,
                        "moe_tensor": max(1, d.tp * d.dp // d.ep), "moe_expert": d.ep,
                    },
                    "scheduler": {
                        "max_batched_tokens": server.engine.token_budget,
                        "max_sequences": min(server.engine.max_sequences, 1024),
                    },
                }
            },
        },
    }  # fmt: skip


def ask(program: Path, config: dict[str, object]) -> dict[str, float] | str:
    """Return AISimulate's mean TTFT and TPOT [ms], or why it has none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [str(program), "predict", "-c", str(path), "--format", "json",
                   "--output-dir", f"{folder}/out", "--overwrite"]  # fmt: skip
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"took more than {TIMEOUT_S:.0f} s"
    try:
        found = json.loads(ran.stdout)
        return {"ttft_ms": found["mean_ttft_ms"], "tpot_ms": found["mean_tpot_ms"]}
    except (ValueError, KeyError):
        lines = [x for x in ran.stderr.splitlines() if "failed:" in x] or ["no answer"]
        return lines[0].split("failed:")[-1].strip()


def report(
    rows: list[dict[str, str]], ours: list[RowResult], theirs: list[dict[str, float] | str]
) -> None:
    """Print the errors of both on the rows that both answer."""
    errors: dict[tuple[str, str, str], list[float]] = collections.defaultdict(list)
    for row, own, other in zip(rows, ours, theirs, strict=True):
        if own.skipped_reason or isinstance(other, str):
            continue
        for metric in ("tpot_ms", "ttft_ms"):
            value = own.measured.get(metric, 0.0)
            if value <= 0.0 or other[metric] is None or (own.saturated and metric == "ttft_ms"):
                continue
            engine, family = row["engine"].split()[0], row["gpu"].split("-")[0]
            for group in ("all", engine, family):
                errors[group, metric, "ours"].append(own.predicted[metric] / value - 1.0)
                errors[group, metric, "theirs"].append(other[metric] / value - 1.0)
    heads = ("TPOT here", "AISimulate", "TTFT here", "AISimulate")
    print(f"{'':16}{'rows':>6}{heads[0]:>18}{heads[1]:>18}{heads[2]:>20}{heads[3]:>18}")
    for group in dict.fromkeys(g for g, _, _ in errors):
        cells = [
            told(errors[group, m, who])
            for m in ("tpot_ms", "ttft_ms") for who in ("ours", "theirs")
        ]  # fmt: skip
        count = len(errors[group, "tpot_ms", "ours"])
        print(f"{group:16}{count:6}{cells[0]:>18}{cells[1]:>18}{cells[2]:>20}{cells[3]:>18}")


def told(errors: list[float]) -> str:
    """Format errors as median / mean and bias, in per cent."""
    if not errors:
        return "-"
    e = 100.0 * np.array(errors)
    return f"{np.median(abs(e)):.1f}/{abs(e).mean():.1f} {np.median(e):+.0f}"


if __name__ == "__main__":
    main()
