"""Engines from the histograms that they export: a real page, two readings, and their limits."""

import math
from pathlib import Path

import pytest

from groundspeed.engine_fit.fit import Problem, fit, workload
from groundspeed.engine_fit.metrics_page import Histogram, Page, parse_page
from groundspeed.engine_fit.passive import observe_pages, read_files, read_live, read_prometheus
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.profiles.errors import InputError

PAGE = Path(__file__).parents[1] / "data" / "engines" / "vllm-0.32-metrics.txt"


def page(requests: float, *, prefix: str = "vllm") -> Page:
    """Return a page after some requests: 500 tokens in, 100 out, TTFT 0.2 s, 9 ms a token."""
    means = {
        "time_to_first_token_seconds": 0.2, "request_time_per_output_token_seconds": 0.009,
        "request_prompt_tokens": 500.0, "request_generation_tokens": 100.0,
        "e2e_request_latency_seconds": 1.1,
    }  # fmt: skip
    lines = []
    for name, mean in means.items():
        lines.append(f"# TYPE {prefix}:{name} histogram")
        for edge, share in ((0.5 * mean, 0.25), (2.0 * mean, 1.0), (math.inf, 1.0)):
            label = "+Inf" if math.isinf(edge) else f"{edge:g}"
            lines.append(f'{prefix}:{name}_bucket{{le="{label}"}} {share * requests}')
        lines += [f"{prefix}:{name}_sum {mean * requests}", f"{prefix}:{name}_count {requests}"]
    return parse_page("\n".join(lines) + "\n")


def test_a_real_page() -> None:
    found = parse_page(PAGE.read_text())
    assert found.engine == "vllm"
    assert found.gauge("num_requests_running") == 0.0
    assert found.info("cache_config_info")["kv_cache_memory_bytes"] == "2147483648"
    ttft = found.histogram("time_to_first_token_seconds")
    assert ttft is not None and ttft.count == sum(ttft.counts) > 0
    assert ttft.mean is not None and 0.01 < ttft.mean < 60.0
    median = ttft.quantile(0.5)
    assert median is not None and 0.0 < median < 60.0
    with pytest.raises(InputError, match="only 0 requests"):
        observe_pages(found, found, 60.0)


def test_what_was_added_between_two_pages_is_a_load() -> None:
    o = observe_pages(page(1000), page(1600), 60.0)
    assert o.load.rate_per_s == pytest.approx(10.0)
    assert (o.load.prompt_tokens, o.load.output_tokens, o.load.requests) == (500, 100, 600)
    assert o.load.concurrency == 11  # 10 requests/s of 1.1 s: Little's law
    assert o.ttft_s == pytest.approx(0.2) and o.tpot_s == pytest.approx(0.009)
    # A server that was started again in between begins from 0.
    assert observe_pages(page(1000), page(600), 60.0).load.requests == 600
    assert workload(o.load).kind == "poisson"


def test_quantiles_and_differences_of_histograms() -> None:
    before = Histogram(4, 2.0, (1.0, 2.0, math.inf), (3.0, 1.0, 0.0))
    after = Histogram(10, 11.0, (1.0, 2.0, math.inf), (3.0, 5.0, 2.0))
    new = after.minus(before)
    assert (new.count, new.total, new.counts) == (6, 9.0, (0.0, 4.0, 2.0))
    assert new.quantile(0.5) == pytest.approx(1.75)  # the third of six, of four between 1 and 2
    assert new.quantile(0.99) == 2.0  # nothing is known beyond the last edge
    assert new.largest_edge == math.inf and new.mean == 1.5
    assert Histogram(0, 0.0, (1.0,), (0.0,)).quantile(0.5) is None


def test_one_observation_says_little_and_says_so() -> None:
    server = build_server("qwen3-8b", "h200-sxm", ServerOptions(engine="vllm"))
    o = observe_pages(page(1000), page(1600), 60.0)
    found = fit(Problem(server), [o])
    prior = dict(zip(found.problem.names, found.problem.width, strict=True))
    assert all(found.spread[n] <= prior[n] * 1.01 for n in prior)
    wide = [n for n in prior if found.spread[n] > 0.8 * prior[n]]
    assert len(wide) >= len(prior) - 3
    assert abs(found.errors[0, "tpot"]) < 0.2  # but it is fitted


def test_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two are needed"):
        read_files([PAGE], 60.0)
    with pytest.raises(InputError, match="cannot be read|no such|does not exist"):
        read_files([tmp_path / "none.txt", PAGE], 60.0)
    bad = tmp_path / "bad.txt"
    bad.write_text("vllm:x{le=} nonsense here\n")
    with pytest.raises(InputError, match="no page of Prometheus metrics|no histogram"):
        read_files([PAGE, bad], 60.0)
    with pytest.raises(InputError, match="has no histogram time_to_first_token_seconds"):
        observe_pages(page(1), parse_page("vllm:num_requests_running 1\n"), 60.0)


def test_servers_that_do_not_answer() -> None:
    with pytest.raises(InputError, match="is no Prometheus server"):
        read_prometheus("http://127.0.0.1:9", 60.0)
    with pytest.raises(InputError, match="has no page /metrics"):
        read_live("http://127.0.0.1:9", None, 0.1)
