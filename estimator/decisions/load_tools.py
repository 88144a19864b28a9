"""Read result files of common load generators as rows for ``backtest``.

``vllm bench serve --save-result`` and SGLang's ``bench_serving`` write one JSON object (or one per
line); guidellm and aiperf / genai-perf write a report of several runs. Values that a result file
does not contain (the GPU, the parallelism) come from the command line and apply to all its rows.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import read_text

Row = dict[str, str]


def read_load_tool(path: Path) -> list[Row]:
    """Read a result file and return its rows.

    Raises
    ------
    InputError
        If the file is not JSON, is empty, or is not from a supported tool.
    """
    text = read_text(path, "result of a load tool")
    rows: list[Row] = []
    for document in _documents(text, path):
        if "benchmarks" in document:
            rows += list(_guidellm(document))
        elif "input_sequence_length" in document or "time_to_first_token" in document:
            rows.append(_aiperf(document))
        elif "mean_ttft_ms" in document:
            rows.append(_bench_serving(document))
        else:
            raise InputError(
                "is not a result of vllm bench serve, SGLang bench_serving, guidellm or aiperf",
                where=str(path),
                remedy="give a result of one of these tools, or a CSV with the backtest columns",
            )
    if not rows:
        raise InputError("contains no result", where=str(path))
    return rows


def _documents(text: str, path: Path) -> Iterator[Mapping[str, Any]]:
    """Parse one JSON document, a list of them, or one per line."""
    try:
        whole = json.loads(text)
        documents = whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        try:
            documents = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise InputError(f"is not JSON (line {error.lineno})", where=str(path)) from error
    for document in documents:
        if not isinstance(document, dict):
            raise InputError("is JSON, but not an object or a list of objects", where=str(path))
        yield document


def _bench_serving(d: Mapping[str, Any]) -> Row:
    """Convert a vLLM or SGLang result: both tools derive from one script and share its keys."""
    prompts = float(d.get("num_prompts") or d.get("completed") or 1)
    rate = d.get("request_rate")
    open_loop = isinstance(rate, int | float) and 0.0 < rate < float("inf")
    clients = d.get("max_concurrency") or d.get("concurrency")
    isl = d.get("random_input_len") or float(d.get("total_input_tokens", 0)) / prompts
    osl = d.get("random_output_len") or float(d.get("total_output_tokens", 0)) / prompts
    ratio = d.get("random_range_ratio")
    row = {
        "model": d.get("model_id") or d.get("model") or "",
        "engine": "SGLang" if str(d.get("backend", "")).startswith("sglang") else "vLLM",
        "isl": round(float(isl)),
        "osl": round(float(osl)),
        # Without a rate and a limit all requests are sent at once.
        "batch_or_concurrency": clients or (None if open_loop else round(prompts)),
        "request_rate": rate if open_loop and not clients else None,
        "load_kind": None if clients or open_loop else "offline",
        "replicas": d.get("decode_replicas") or d.get("replicas"),
        "num_prompts": round(prompts),
        "ttft_ms": d["mean_ttft_ms"],
        "tpot_ms": d.get("mean_tpot_ms"),
        "e2e_latency_ms": d.get("mean_e2el_ms") or d.get("mean_e2e_latency_ms"),
        "output_tok_s": d.get("output_throughput"),
        "total_tok_s": d.get("total_token_throughput") or d.get("total_throughput"),
        "stat": "mean",
    }
    if isinstance(ratio, int | float) and 0.0 < ratio <= 1.0:
        row |= {"length_low": ratio, "length_high": 1.0}
    return _nonempty_as_text(row)


def _guidellm(d: Mapping[str, Any]) -> Iterator[Row]:
    whole = d.get("config", {}).get("spec", {}).get("backend", {}).get("model")
    for run in d["benchmarks"]:
        metrics = run.get("metrics", {})

        def mean(name: str, values: Mapping[str, Any] = metrics) -> float | None:
            value = values.get(name, {}).get("successful", {}).get("mean")
            return float(value) if isinstance(value, int | float) else None

        strategy = run.get("args", run.get("config", {})).get("strategy", {})
        backend = run.get("benchmarker", {}).get("backend", run.get("worker", {}))
        yield _nonempty_as_text(
            {
                "model": backend.get("backend_model") or backend.get("model") or whole or "",
                "isl": _rounded(mean("prompt_token_count")),
                "osl": _rounded(mean("output_token_count")),
                "batch_or_concurrency": strategy.get("streams")
                or _rounded(mean("request_concurrency")),
                "ttft_ms": mean("time_to_first_token_ms"),
                "tpot_ms": mean("inter_token_latency_ms"),
                "output_tok_s": mean("output_tokens_per_second"),
                "total_tok_s": mean("tokens_per_second"),
                "stat": "mean",
            }
        )


def _aiperf(d: Mapping[str, Any]) -> Row:
    def mean(name: str) -> float | None:
        value = d.get(name, {})
        value = value.get("avg") if isinstance(value, dict) else value
        return float(value) if isinstance(value, int | float) else None

    config = d.get("input_config", {})
    endpoint = config.get("endpoint", {}) if isinstance(config, dict) else {}
    names = endpoint.get("model_names") or config.get("model_names") or config.get("model") or [""]
    load = config.get("loadgen", config.get("perf_analyzer", {}).get("stimulus", {}))
    models = config.get("models")
    if isinstance(models, dict):  # aiperf 0.13: models and phases
        names = [m.get("name", "") for m in models.get("items", [])] or names
    phases = [p for p in config.get("phases", []) if isinstance(p, dict)]
    profiled = [p for p in phases if p.get("kind", p.get("name")) == "profiling"] or phases
    if profiled and not load:
        load = profiled[-1]
    rate = load.get("request_rate") or load.get("rate")
    return _nonempty_as_text(
        {
            "model": names[0] if isinstance(names, list) else names,
            "isl": _rounded(mean("input_sequence_length")),
            "osl": _rounded(mean("output_sequence_length")),
            "batch_or_concurrency": load.get("concurrency"),
            "request_rate": None if load.get("concurrency") else rate,
            "num_prompts": _rounded(mean("request_count")),
            "ttft_ms": mean("time_to_first_token"),
            "tpot_ms": mean("inter_token_latency"),
            "e2e_latency_ms": mean("request_latency"),
            "output_tok_s": mean("output_token_throughput"),
            "stat": "mean",
        }
    )


def _rounded(value: float | None) -> int | None:
    return round(value) if value is not None else None


def _nonempty_as_text(row: Mapping[str, object]) -> Row:
    return {k: str(v) for k, v in row.items() if v not in (None, "")}
