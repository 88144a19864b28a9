"""Read result files of common load generators as rows for ``backtest``.

``vllm bench serve --save-result`` and SGLang's ``bench_serving`` write one JSON object (or one per
line); guidellm, inference-benchmarker and aiperf / genai-perf write a report of several runs;
llmperf and inference-perf (Kubernetes) one summary a run. Values that a result file
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
        elif "results_ttft_s_mean" in document:
            rows.append(_llmperf(document))
        elif "load_summary" in document and "successes" in document:
            rows.append(_inference_perf(document))
        elif "results" in document and "benchmark_kind" in document.get("config", {}):
            rows += list(_inference_benchmarker(document))
        else:
            raise InputError(
                "is not a result of vllm bench serve, SGLang bench_serving, guidellm, aiperf, "
                "genai-perf, llmperf, inference-perf or inference-benchmarker",
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
    # SGLang and vLLM name what a step gains with speculation differently.
    gained = d.get("accept_length") or d.get("spec_decode_acceptance_length")
    if isinstance(gained, int | float) and gained > 1.0:
        row["spec"] = f"accept_len={gained:g}"
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

    config = d.get("input_config") or {}
    endpoint = config.get("endpoint") or {}
    endpoint = endpoint if isinstance(endpoint, dict) else {}
    names = endpoint.get("model_names") or config.get("model_names") or config.get("model") or [""]
    load = config.get("loadgen", config.get("perf_analyzer", {}).get("stimulus", {}))
    models = config.get("models")
    if isinstance(models, dict):  # aiperf 0.13: models and phases
        names = [m.get("name", "") for m in models.get("items", [])] or names
    phases = [p for p in config.get("phases", []) if isinstance(p, dict)]
    profiled = [p for p in phases if p.get("kind", p.get("name")) == "profiling"] or phases
    if profiled and not load:
        load = profiled[-1]
    if not load:  # genai-perf: everything side by side
        load = config
    rate = load.get("request_rate") or load.get("rate")
    engine = {"tensorrtllm": "trtllm", "vllm": "vllm"}.get(str(config.get("backend", "")).lower())
    ttft, latency = mean("time_to_first_token"), mean("request_latency")
    if ttft is not None and latency is not None and ttft > 0.999 * latency:
        ttft = None  # Nothing was streamed: the first token came with the last.
    # genai-perf names a Triton ensemble, which is no model.
    names = [n for n in (names if isinstance(names, list) else [names]) if n != "ensemble"] or [""]
    return _nonempty_as_text(
        {
            "model": names[0],
            "engine": engine,
            "isl": _rounded(mean("input_sequence_length")),
            "osl": _rounded(mean("output_sequence_length")),
            "batch_or_concurrency": load.get("concurrency"),
            "request_rate": None if load.get("concurrency") else rate,
            "num_prompts": _rounded(mean("request_count")),
            "ttft_ms": ttft,
            "tpot_ms": mean("inter_token_latency"),
            "e2e_latency_ms": latency,
            "output_tok_s": mean("output_token_throughput"),
            "stat": "mean",
        }
    )


def _llmperf(d: Mapping[str, Any]) -> Row:
    def milliseconds(name: str) -> float | None:
        value = d.get(f"results_{name}_mean")
        return 1e3 * float(value) if value is not None else None

    osl = _number(d.get("results_number_output_tokens_mean")) or _number(
        d.get("mean_output_tokens")
    )
    ttft, latency = milliseconds("ttft_s"), milliseconds("end_to_end_latency_s")
    return _nonempty_as_text(
        {
            "model": d.get("model") or "",
            "isl": _rounded(_number(d.get("results_number_input_tokens_mean"))
                            or _number(d.get("mean_input_tokens"))),
            "osl": _rounded(osl),
            "batch_or_concurrency": d.get("num_concurrent_requests"),
            "num_prompts": d.get("results_num_completed_requests"),
            "ttft_ms": ttft,
            # Its "inter-token latency" divides the whole latency, TTFT included, by the tokens.
            "tpot_ms": _time_per_token(ttft, latency, osl),
            "e2e_latency_ms": latency,
            "output_tok_s": d.get("results_mean_output_throughput_token_per_s"),
            "stat": "mean",
        }
    )  # fmt: skip


def _inference_perf(d: Mapping[str, Any]) -> Row:
    """Convert a stage of inference-perf: an open loop at a requested rate."""
    good, load = d["successes"], d["load_summary"]

    def mean(name: str) -> float | None:
        value = (good.get("latency", {}).get(name) or {}).get("mean")
        return 1e3 * float(value) if isinstance(value, int | float) else None

    rates = good.get("throughput", {})
    osl = _number((good.get("output_len") or {}).get("mean"))
    ttft, latency = mean("time_to_first_token"), mean("request_latency")
    return _nonempty_as_text(
        {
            "isl": _rounded(_number((good.get("prompt_len") or {}).get("mean"))),
            "osl": _rounded(osl),
            "request_rate": load.get("achieved_rate") or load.get("requested_rate"),
            "num_prompts": load.get("count"),
            "ttft_ms": ttft,
            # Its own mean counts lines of the stream, of which a server may send two a token.
            "tpot_ms": _time_per_token(ttft, latency, osl),
            "e2e_latency_ms": latency,
            "output_tok_s": rates.get("output_tokens_per_sec"),
            "total_tok_s": rates.get("total_tokens_per_sec"),
            "stat": "mean",
        }
    )


def _inference_benchmarker(d: Mapping[str, Any]) -> Iterator[Row]:
    """Convert the runs of Hugging Face's inference-benchmarker; its warm-up is none."""
    config = d["config"]
    prompt, decode = config.get("prompt_options") or {}, config.get("decode_options") or {}
    engine = str((config.get("meta") or {}).get("engine", ""))
    for run in d["results"]:
        if run.get("id") == "warmup" or not run.get("successful_requests"):
            continue
        load = run.get("config") or {}
        good = float(run["successful_requests"])

        def mean(name: str, run: Mapping[str, Any] = run) -> float | None:
            return _number((run.get(name) or {}).get("avg"))

        yield _nonempty_as_text(
            {
                "model": config.get("model_name") or config.get("tokenizer") or "",
                "engine": engine if engine in ("vllm", "sglang", "trtllm") else None,
                "isl": prompt.get("num_tokens")
                or round(float(run.get("total_tokens_sent", 0)) / good),
                "osl": round(float(run.get("total_tokens", 0)) / good) or decode.get("num_tokens"),
                "batch_or_concurrency": load.get("max_vus") if not load.get("rate") else None,
                "request_rate": load.get("rate"),
                "num_prompts": round(good),
                "ttft_ms": mean("time_to_first_token_ms"),
                "tpot_ms": mean("inter_token_latency_ms"),
                "e2e_latency_ms": mean("e2e_latency_ms"),
                "output_tok_s": run.get("token_throughput_secs"),
                "stat": "mean",
            }
        )


def _time_per_token(
    ttft_ms: float | None, latency_ms: float | None, tokens: float | None
) -> float | None:
    """Return TPOT by its definition: the time after the first token by the tokens after it."""
    if ttft_ms is None or latency_ms is None or tokens is None or tokens <= 1.0:
        return None
    return (latency_ms - ttft_ms) / (tokens - 1.0)


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _rounded(value: float | None) -> int | None:
    return round(value) if value is not None else None


def _nonempty_as_text(row: Mapping[str, object]) -> Row:
    return {k: str(v) for k, v in row.items() if v not in (None, "")}
