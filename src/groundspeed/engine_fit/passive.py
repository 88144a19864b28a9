"""Fit an engine from the histograms that it exports, without a request of ours.

Between two readings of a server's page of metrics its histograms of TTFT, time per token, prompt
and answer lengths tell what its users' load was and what it cost: one observation of an open loop.
Two numbers cannot tell nine constants apart, so most of them stay where they were, and the result
says how wide each is. The readings are taken from the server itself, from two saved pages, or from
a Prometheus server that keeps its metrics.
"""

import time
from pathlib import Path

import httpx

from groundspeed.engine_fit.calibrate_server import KEY, Target, own_engine
from groundspeed.engine_fit.fit import Fit, Problem, fit
from groundspeed.engine_fit.loads import LoadSpec, Observation
from groundspeed.engine_fit.metrics_page import Histogram, Page, parse_page
from groundspeed.engine_fit.probe import connect, metrics
from groundspeed.estimator.engines.own_engine import OwnEngine
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import read_text

TTFT = ("time_to_first_token_seconds",)
TPOT = ("request_time_per_output_token_seconds", "time_per_output_token_seconds",
        "inter_token_latency_seconds")  # fmt: skip
PROMPTS = ("request_prompt_tokens", "prompt_tokens_histogram")
ANSWERS = ("request_generation_tokens", "generation_tokens_histogram")
E2E = ("e2e_request_latency_seconds",)
"""Names of vLLM's and SGLang's histograms, without the engine's prefix."""

LEAST_REQUESTS = 20

UNKNOWN_LENGTHS = 0.1
"""Standard error of the logarithm of a mean of requests whose lengths are only known by theirs."""

KNOWN_NAMES = "|".join((*TTFT, *TPOT, *PROMPTS, *ANSWERS, *E2E))


def observe_pages(before: Page, after: Page, window_s: float) -> Observation:
    """Return what the requests between two pages showed.

    Raises
    ------
    InputError
        If the page lacks a histogram, or too few requests ended.
    """

    def added(names: tuple[str, ...]) -> Histogram:
        now = after.histogram(*names)
        if now is None:
            raise InputError(f"the page of metrics has no histogram {' or '.join(names)}")
        return now.minus(before.histogram(*names))

    ttft, prompts, answers, e2e = (added(names) for names in (TTFT, PROMPTS, ANSWERS, E2E))
    if e2e.count < LEAST_REQUESTS:
        raise InputError(
            f"only {e2e.count:.0f} requests ended in {window_s:.0f} s", where="--metrics-only",
            remedy=f"wait until at least {LEAST_REQUESTS} have, or give a longer --budget",
        )  # fmt: skip
    rate = e2e.count / window_s
    output = max(answers.mean or 1.0, 1.0)
    tpot = added(TPOT).mean
    running = max(1, round(rate * (e2e.mean or 0.0)))
    if not ttft.mean:
        raise InputError("the histogram of the time to the first token is empty",
                         where="--metrics-only")  # fmt: skip
    load = LoadSpec(
        running, max(1, round(prompts.mean or 1.0)), max(1, round(output)), int(e2e.count), rate
    )
    return Observation(
        load, ttft.mean, tpot or None, rate * output, UNKNOWN_LENGTHS, UNKNOWN_LENGTHS
    )


def read_live(url: str, key: str | None, window_s: float) -> Observation:
    """Read the page of a server twice, some time apart.

    Raises
    ------
    InputError
        If it has none, or too few requests ended.
    """
    with connect(url, key) as http:
        before = metrics(http)
        began = time.monotonic()
        if before is None:
            raise InputError("has no page /metrics", where=url,
                             remedy="start SGLang with --enable-metrics")  # fmt: skip
        time.sleep(window_s)
        after = metrics(http)
        if after is None:
            raise InputError("stopped answering /metrics", where=url)
        return observe_pages(before, after, time.monotonic() - began)


def read_files(pages: list[Path], window_s: float) -> Observation:
    """Read two saved pages, the earlier one first.

    Raises
    ------
    InputError
        If there are not two, or they cannot be read.
    """
    if len(pages) != 2:
        raise InputError(
            f"{len(pages)} pages of metrics are given, but two are needed", where="--metrics",
            remedy="save the server's /metrics twice and give the time between with --budget",
        )  # fmt: skip
    before, after = (parse_page(read_text(path, "page of metrics")) for path in pages)
    return observe_pages(before, after, window_s)


def read_prometheus(url: str, window_s: float) -> Observation:
    """Ask a Prometheus server for the histograms now and some time ago.

    Raises
    ------
    InputError
        If it does not answer, or knows no metrics of an engine.
    """
    now = time.time()
    after = _page_at(url, now)
    if not after.samples:
        raise InputError("knows no histograms of vLLM or SGLang", where=url)
    before = _page_at(url, now - window_s)
    if not before.samples:
        raise InputError(
            f"knows no histograms of {window_s:.0f} s ago", where=url,
            remedy="give a --budget that lies after the server's start",
        )  # fmt: skip
    return observe_pages(before, after, window_s)


def _page_at(url: str, when: float) -> Page:
    """Return the page of metrics as a Prometheus server knew it at a time."""
    query = f'{{__name__=~"(vllm|sglang):({KNOWN_NAMES})_(sum|count|bucket)"}}'
    try:
        found = httpx.get(
            f"{url}/api/v1/query", params={"query": query, "time": f"{when:.3f}"}, timeout=30.0,
            trust_env=False,
        ).json()["data"]["result"]  # fmt: skip
        samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        engine = ""
        for series in found:
            engine, _, name = series["metric"]["__name__"].partition(":")
            samples.setdefault(name, []).append((series["metric"], float(series["value"][1])))
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"is no Prometheus server ({error})", where=url) from error
    return Page(engine, {name: tuple(rows) for name, rows in samples.items()})


def fit_passive(target: Target, observation: Observation) -> tuple[OwnEngine, Fit]:
    """Return the engine profile that one observation of the users' own load gives."""
    fitted = fit(Problem(target.server), [observation])
    own = own_engine(target, fitted, [observation])
    note = (
        "from the server's own histograms: most constants are those of published rows, as their "
        "errors say; lengths are known by their means, and the time on the network is not in them"
    )
    return own.model_copy(update={"origin": "metrics", "notes": (*own.notes, note)}), fitted


__all__ = ["KEY", "fit_passive", "observe_pages", "read_files", "read_live", "read_prometheus"]
