"""Find out what a server is: engine, version, model, limits, and whether it is idle.

vLLM answers ``/version`` and ``/v1/models``; SGLang tells its whole configuration on
``/get_server_info``; both export metrics, whose names begin with the engine's. What a server does
not say stays unknown, and the user is told which option states it.
"""

from dataclasses import dataclass, field
from typing import Any

import httpx

from groundspeed.engine_fit.client import CONNECT_S, status_error
from groundspeed.engine_fit.metrics_page import Page, parse_page
from groundspeed.profiles.errors import InputError

PROBE_S = 20.0
"""[s] Longest wait for an answer to a question about the server."""

TOLD = frozenset({
    "attention_backend", "block_size", "cache_dtype", "chunked_prefill_size", "context_length",
    "cuda_graph_max_bs", "disable_cuda_graph", "disable_radix_cache", "dp_size", "dtype",
    "enable_dp_attention", "enable_prefix_caching", "enable_torch_compile", "ep_size",
    "gpu_memory_utilization", "kv_cache_dtype", "kv_cache_memory_bytes", "kv_cache_size_tokens",
    "max_running_requests", "max_total_num_tokens", "mem_fraction_static", "num_gpu_blocks",
    "page_size", "quantization", "schedule_policy", "scheduler_recv_interval",
    "speculative_algorithm", "speculative_num_steps", "stream_interval", "tp_size",
})  # fmt: skip
"""What is written down of a server's configuration. The rest, which includes keys, is not."""

OWNERS = {"vllm": "vllm", "sglang": "sglang", "tensorrt_llm": "trtllm", "tensorrt-llm": "trtllm"}


@dataclass(frozen=True)
class ServerFacts:
    """What a server says of itself; empty or None where it does not."""

    url: str
    engine: str
    version: str
    models: tuple[str, ...]
    max_model_len: int | None = None
    token_budget: int | None = None
    max_sequences: int | None = None
    tp: int | None = None
    dp: int | None = None
    grouped: bool = False
    """Whether attention runs in groups (SGLang's ``enable_dp_attention``)."""
    has_metrics: bool = False
    flags: dict[str, str] = field(default_factory=dict)


def connect(url: str, key: str | None) -> httpx.Client:
    """Return a client for questions about the server."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(PROBE_S, connect=CONNECT_S)
    return httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)


def probe(url: str, key: str | None = None) -> ServerFacts:
    """Ask a server what it is.

    Raises
    ------
    InputError
        If nothing answers, or it is no OpenAI-compatible server.
    """
    with connect(url, key) as http:
        models = _json(http, "/v1/models", url, required=True)
        listed = models.get("data")
        cards = (
            [m for m in listed if isinstance(m, dict) and m.get("id")]
            if isinstance(listed, list)
            else []
        )
        if not cards:
            raise InputError("lists no model at /v1/models", where=url)
        page = metrics(http)
        info = _json(http, "/get_server_info", url)
        version = str(_json(http, "/version", url).get("version") or info.get("version") or "")
        engine = _engine(cards, page, info)
        length = cards[0].get("max_model_len") or info.get("context_length")
        known = {**(page.info("cache_config_info") if page is not None else {}), **info}
        flags = {
            k: str(v) for k, v in known.items()
            if k in TOLD and isinstance(v, str | int | float | bool) and v not in ("", "None")
        }  # fmt: skip
    grouped = bool(info.get("enable_dp_attention"))
    return ServerFacts(
        url=url,
        engine=engine,
        version=version,
        models=tuple(str(m["id"]) for m in cards),
        max_model_len=_whole(length),
        token_budget=_whole(info.get("chunked_prefill_size")),
        max_sequences=_whole(info.get("max_running_requests")),
        grouped=grouped,
        tp=_whole(info.get("tp_size")),
        dp=_whole(info.get("dp_size")),
        has_metrics=page is not None,
        flags=flags,
    )


def metrics(http: httpx.Client) -> Page | None:
    """Return the server's page of metrics; None if it has none."""
    try:
        answer = http.get("/metrics", follow_redirects=True)
    except httpx.HTTPError:
        return None
    return parse_page(answer.text) if answer.status_code == 200 else None


def _json(http: httpx.Client, path: str, url: str, *, required: bool = False) -> dict[str, Any]:
    try:
        answer = http.get(path)
    except httpx.ConnectError as error:
        raise InputError(
            "nothing listens there", where=url, remedy="start the server, or give its address"
        ) from error
    except httpx.HTTPError as error:
        if not required:
            return {}
        raise InputError(f"does not answer ({type(error).__name__})", where=url) from error
    if answer.status_code != 200:
        if not required:
            return {}
        raise InputError(status_error(answer.status_code, answer.content), where=f"{url}{path}")
    try:
        found = answer.json()
    except ValueError as error:
        if not required:
            return {}
        raise InputError("is no OpenAI-compatible server", where=f"{url}{path}") from error
    return found if isinstance(found, dict) else {}


def _engine(cards: list[dict[str, Any]], page: Page | None, info: dict[str, Any]) -> str:
    owner = OWNERS.get(str(cards[0].get("owned_by", "")).lower())
    if owner:
        return owner
    if page is not None and page.engine:
        return page.engine
    return "sglang" if "chunked_prefill_size" in info else ""


def _whole(value: object) -> int | None:
    try:
        found = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return None
    return found if found > 0 else None
