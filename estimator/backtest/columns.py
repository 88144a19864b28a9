"""Columns of a table of measurements, and the usual names that people give them.

read_measurements(Path("measured.csv"))
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from groundspeed.estimator.backtest.load_tools import read_load_tool
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import read_rows

COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": ("name, hub name or path of the model (required)", ("model_id", "model_name")),
    "gpu": ("name of the GPU (required)", ("device", "accelerator", "hardware", "gpu_type")),
    "isl": ("prompt tokens (required)", ("input_len", "input_length", "input_tokens",
            "prompt_tokens", "prompt_len", "random_input_len", "input")),
    "osl": ("output tokens (required)", ("output_len", "output_length", "output_tokens",
            "completion_tokens", "random_output_len", "output")),
    "batch_or_concurrency": ("clients, or sequences of a batch (or request_rate)",
                             ("concurrency", "max_concurrency", "batch_size", "batch", "clients",
                              "num_users", "users")),
    "request_rate": ("arrivals per second of an open loop [1/s]",
                     ("request_rate_per_s", "qps", "rps", "rate")),
    "replicas": ("servers that share the load", ("num_replicas", "decode_replicas")),
    "tp": ("tensor parallel size", ("tensor_parallel", "tensor_parallel_size", "tp_size")),
    "pp": ("pipeline parallel size", ("pipeline_parallel_size", "pp_size")),
    "ep": ("expert parallel size", ("expert_parallel_size", "ep_size")),
    "dp_attn": ("groups of data-parallel attention", ("dp", "dp_size", "data_parallel_size")),
    "n_gpus": ("GPUs in all", ("num_gpus", "gpus")),
    "engine": ("vllm, sglang, trtllm or atom", ("backend", "framework", "server")),
    "engine_version": ("version of the engine", ("version",)),
    "weight_dtype": ("format of the weights", ("dtype", "quantization", "precision", "quant")),
    "kv_dtype": ("format of the cache", ("kv_cache_dtype",)),
    "load_kind": ("closed (default), static or offline", ()),
    "num_prompts": ("number of requests", ("num_requests", "requests")),
    "length_low": ("shortest length over the nominal one", ("random_range_ratio",)),
    "length_high": ("longest length over the nominal one", ()),
    "token_budget": ("tokens of a step", ("max_num_batched_tokens", "chunked_prefill_size")),
    "max_sequences": ("sequences that run at once", ("max_num_seqs", "max_running_requests")),
    "memory_fraction": ("share of the memory that the engine uses [1]",
                        ("gpu_memory_utilization", "mem_fraction_static")),
    "max_model_len": ("longest request that must fit [tokens]", ("context_length",)),
    "stat": ("mean (default) or median", ("statistic",)),
    "spec": ("speculation in words: MTP, k=2, accept_len=3.1, ngram", ("speculation",)),
    "draft_tokens": ("tokens that speculation drafts per step", ("num_speculative_tokens",)),
    "acceptance": ("share of drafted tokens that are accepted [1]", ("acceptance_rate",)),
    "draft_model": ("model that drafts; not given: a head", ("speculative_model",)),
    "disagg": ("separate pools, as '1p x 8 GPU + 2d x 8 GPU (ep8 dp-attn)'",
               ("disaggregated", "pools")),
    "prefix_cache": ("'shared context' if all prompts are in the prefix cache", ()),
    "cached": ("share of a prompt in the prefix cache [1]", ("prefix_hit_rate", "cache_hit_rate")),
    "ttft_ms": ("measured time to first token [ms]", ("mean_ttft_ms",)),
    "tpot_ms": ("measured time per output token [ms]", ("mean_tpot_ms", "itl_ms", "mean_itl_ms")),
    "e2e_latency_ms": ("measured latency of a request [ms]",
                       ("e2e_ms", "mean_e2el_ms", "latency_ms", "request_latency_ms")),
    "output_tok_s": ("measured output tokens per second",
                     ("output_throughput", "output_tokens_per_s", "output_tokens_per_second",
                      "throughput_tok_s")),
    "total_tok_s": ("measured tokens per second, prompts too",
                    ("total_token_throughput", "total_throughput", "total_tokens_per_s")),
}  # fmt: skip
"""What each column holds, and its other names."""

TIMES = ("ttft", "tpot", "itl", "e2e", "e2e_latency", "latency")
SECONDS = {"ttft_s": "ttft_ms", "tpot_s": "tpot_ms", "itl_s": "tpot_ms", "e2e_s": "e2e_latency_ms",
           "latency_s": "e2e_latency_ms", "e2e_latency_s": "e2e_latency_ms"}  # fmt: skip


def read_measurements(path: Path) -> list[dict[str, str]]:
    """Read a table or the result of a load tool, with the columns named as ``backtest`` does.

    Raises
    ------
    InputError
        If it cannot be read, or a measured time has no unit.
    """
    if path.suffix in (".json", ".jsonl"):
        return read_load_tool(path)
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        return []
    if "Metric" in first and "avg" in first:
        raise InputError(
            "is a CSV summary of aiperf or genai-perf, without the load and lengths of the run",
            where=str(path),
            remedy="give the JSON that the tool writes beside it",
        )
    names = column_names(list(first), str(path))
    return [dict(_renamed(row, names)) for row in (first, *rows)]


def column_names(columns: list[str], where: str) -> dict[str, str]:
    """Return the name of ``backtest`` for each column; a column that is unknown keeps its own.

    Raises
    ------
    InputError
        If a measured time has no unit in its name.

    >>> column_names(["Model", "TTFT (ms)", "Concurrency"], "")
    {'Model': 'model', 'TTFT (ms)': 'ttft_ms', 'Concurrency': 'batch_or_concurrency'}
    """
    known = {other: name for name, (_, others) in COLUMNS.items() for other in others}
    plain = {c: re.sub(r"[^a-z0-9]+", "_", c.strip().lower()).strip("_") for c in columns}
    taken = {p for p in plain.values() if p in COLUMNS}
    names: dict[str, str] = {}
    for column, name in plain.items():
        found = known.get(name, name)
        if found != name and found in taken:
            found = column  # the table has the column itself too
        elif found != name:
            taken.add(found)
        names[column] = found if found in COLUMNS or name in SECONDS else column
    bare = [c for c, name in plain.items() if name in TIMES and f"{name}_ms" not in taken]
    if bare:
        raise InputError(
            f"the column {bare[0]} has no unit",
            where=where,
            remedy=f"name it {plain[bare[0]]}_ms or {plain[bare[0]]}_s",
        )
    return names


def _renamed(row: Mapping[str, str], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for column, value in row.items():
        name = names.get(column, column)
        if name in SECONDS and value.strip():
            try:
                yield SECONDS[name], f"{float(value) * 1e3:g}"
            except ValueError:
                yield SECONDS[name], value
        else:
            yield name, value
