"""The client against a real HTTP server that behaves, and that misbehaves in each known way."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from groundspeed.engine_fit.calibrate_server import Request, find_target, require_alone
from groundspeed.engine_fit.client import Answered, Asked, ServerClient, run_load
from groundspeed.engine_fit.loads import Journal, LoadSpec, observe, require_whole
from groundspeed.engine_fit.options import parse_name, parse_time, parse_url
from groundspeed.engine_fit.probe import probe
from groundspeed.profiles.errors import InputError

METRICS = (Path(__file__).parents[1] / "data" / "engines" / "vllm-0.32-metrics.txt").read_text()
Behaviour = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """A server of completions; ``behaviour`` is what it does with a request."""

    protocol_version = "HTTP/1.1"
    behaviour: Behaviour
    pages: dict[str, Any]
    received: list[dict[str, Any]]
    headers_seen: list[str | None]

    def do_GET(self) -> None:
        page = self.pages.get(self.path)
        text = page if isinstance(page, str) else json.dumps(page)
        self.reply(200 if page is not None else 404, text)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append(body)
        self.headers_seen.append(self.headers.get("Authorization"))
        type(self).behaviour(self, body)

    def reply(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def start(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, value: object) -> None:
        text = f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()

    def finish_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


def answer(handler: Handler, body: dict[str, Any], tokens_a_chunk: int = 1) -> None:
    handler.start()
    for _ in range(0, body["max_tokens"], tokens_a_chunk):
        handler.event({"choices": [{"text": ""}]})
    handler.event({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})
    handler.event("[DONE]")
    handler.finish_stream()


def broken(handler: Handler, _: dict[str, Any]) -> None:
    handler.start()
    handler.event({"choices": [{"text": ""}]})
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def half_open(handler: Handler, _: dict[str, Any]) -> None:
    handler.start()
    handler.event({"choices": [{"text": ""}]})
    time.sleep(1.0)


def no_usage(handler: Handler, _: dict[str, Any]) -> None:
    handler.start()
    handler.event({"choices": [{"text": ""}]})
    handler.event("[DONE]")
    handler.finish_stream()


def engine_error(handler: Handler, _: dict[str, Any]) -> None:
    handler.start()
    handler.event({"error": {"message": "EngineCore died", "code": 500}})
    handler.event("[DONE]")
    handler.finish_stream()


def cut_short(handler: Handler, _: dict[str, Any]) -> None:
    handler.start()
    handler.event({"choices": [{"text": ""}]})
    handler.finish_stream()


def status(code: int, text: str) -> Behaviour:
    return lambda handler, _: handler.reply(code, text)


MODEL_CARD = {"data": [{"id": "qwen3-8b", "owned_by": "vllm", "max_model_len": 4096}]}


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[str, type[Handler]]]]:
    running: list[ThreadingHTTPServer] = []

    def start(behaviour: Behaviour = answer, **pages: Any) -> tuple[str, type[Handler]]:
        known = {"/v1/models": MODEL_CARD, "/version": {"version": "0.32.0+cpu"},
                 "/metrics": METRICS}  # fmt: skip
        handler = type("Made", (Handler,), {
            "behaviour": staticmethod(behaviour), "pages": {**known, **pages}, "received": [],
            "headers_seen": [],
        })  # fmt: skip
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}", handler

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def client(url: str, **options: Any) -> ServerClient:
    return ServerClient(url, "qwen3-8b", 151_936, timeout_s=0.3, **options)


def test_tokens_are_counted_by_the_server_not_by_chunks(serve: Any) -> None:
    url, handler = serve(lambda h, b: answer(h, b, tokens_a_chunk=4))
    load = LoadSpec(3, 50, 16, 12)
    kept: list[Answered] = []
    answers = run_load(client(url, key="secret"), load.asked(7), 3, kept.append)
    assert len(answers) == len(kept) == len(handler.received) == 12
    assert {(a.tokens, a.chunks) for a in answers} == {(16, 4)}
    for a in answers:
        assert 0.0 < a.ttft_s <= a.last_s - a.sent_s and a.tpot_s is not None
        assert a.tpot_s == pytest.approx((a.last_s - a.first_s) / 15)
    prompts = {tuple(body["prompt"]) for body in handler.received}
    assert len(prompts) == 12 and {len(p) for p in prompts} == {50}  # none is in the prefix cache
    assert all(0 < t < 151_936 for p in prompts for t in p)
    assert {h for h in handler.headers_seen} == {"Bearer secret"}
    assert observe(load, answers).tokens_a_chunk == 4.0


def test_a_load_runs_beside_an_event_loop(serve: Any) -> None:
    """As in a notebook."""
    url, _ = serve()

    async def cell() -> list[Answered]:
        return run_load(client(url), LoadSpec(1, 8, 4, 2).asked(1), 1, lambda _: None)

    with ThreadPoolExecutor(1) as pool:  # other tests may have left a loop in this thread
        assert len(pool.submit(lambda: asyncio.run(cell())).result()) == 2


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (status(429, '{"error": {"message": "slow down"}}'), "busy.*HTTP 429: slow down"),
        (status(404, '{"error": {"message": "model gone"}}'), "not found.*model gone"),
        (status(401, "no"), "GROUNDSPEED_API_KEY"),
        (status(400, '{"error": "too long"}'), "refused .HTTP 400: too long"),
        (status(503, "<html>nginx</html>"), "failed .HTTP 503"),
        (status(200, "hello"), "ended before the answer"),
        (broken, "the connection broke|ended before"),
        (half_open, "no answer for"),
        (no_usage, "no usage"),
        (engine_error, "the server stopped: .*EngineCore died"),
        (cut_short, "ended before the answer"),
    ],
)
def test_a_server_that_fails_says_why_and_gets_nothing_more(
    serve: Any, behaviour: Behaviour, told: str
) -> None:
    url, handler = serve(behaviour)
    kept: list[Answered] = []
    with pytest.raises(InputError, match=told):
        run_load(client(url), LoadSpec(2, 8, 4, 40).asked(1), 2, kept.append)
    assert kept and all(a.error for a in kept)  # the failures are results too
    assert len(handler.received) <= 4  # of forty


def test_a_server_that_fails_sometimes_is_measured(serve: Any) -> None:
    seen = []

    def sometimes(handler: Handler, body: dict[str, Any]) -> None:
        seen.append(1)
        (engine_error if len(seen) % 4 == 0 else answer)(handler, body)

    url, _ = serve(sometimes)
    load = LoadSpec(1, 8, 4, 12)
    answers = run_load(client(url), load.asked(1), 1, lambda _: None)
    assert observe(load, answers).failed == 3


def test_nothing_listens() -> None:
    with pytest.raises(InputError, match="nothing listens there"):
        probe("http://127.0.0.1:9")
    with pytest.raises(InputError, match="connection broke"):
        run_load(client("http://127.0.0.1:9"), [Asked(4, 4, 1)], 1, lambda _: None)


def test_a_server_says_what_it_is(serve: Any) -> None:
    url, _ = serve()
    facts = probe(url)
    assert (facts.engine, facts.version, facts.models) == ("vllm", "0.32.0+cpu", ("qwen3-8b",))
    assert facts.max_model_len == 4096 and facts.has_metrics
    assert facts.flags["kv_cache_memory_bytes"] == "2147483648"
    target = find_target(Request(url, "h200-sxm"))
    assert target.name == "vllm-0.32.0-cpu-h200-sxm-imported"
    assert target.server.engine.name == "vllm" and not target.fixed_budget


def test_sglang_tells_its_whole_configuration(serve: Any) -> None:
    info = {"version": "0.5.19", "chunked_prefill_size": 8192, "max_running_requests": 64,
            "tp_size": 2, "context_length": 32768, "disable_radix_cache": True,
            "api_key": "secret"}  # fmt: skip
    card = {"data": [{"id": "Qwen/Qwen3-8B", "owned_by": "sglang"}]}
    url, _ = serve(
        **{"/v1/models": card, "/version": None, "/metrics": None, "/get_server_info": info}
    )
    target = find_target(Request(url, "h200-sxm"))
    engine = target.server.engine
    assert (engine.name, engine.token_budget, engine.max_sequences) == ("sglang", 8192, 64)
    assert target.server.deployment.tp == 2 and target.fixed_budget
    assert target.facts.flags["disable_radix_cache"] == "True"
    assert "api_key" not in target.facts.flags  # the file is for others to read


def test_attention_in_groups_of_sglang(serve: Any) -> None:
    info = {"version": "0.5.19", "chunked_prefill_size": 8192, "max_running_requests": 64,
            "tp_size": 8, "dp_size": 8, "enable_dp_attention": True}  # fmt: skip
    card = {"data": [{"id": "Qwen/Qwen3-30B-A3B", "owned_by": "sglang"}]}
    url, _ = serve(
        **{"/v1/models": card, "/version": None, "/metrics": None, "/get_server_info": info}
    )
    server = find_target(Request(url, "h200-sxm")).server
    assert (server.deployment.tp, server.deployment.dp) == (1, 8)
    assert server.engine.max_sequences == 8


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ({"/v1/models": "<html></html>"}, "no OpenAI-compatible server"),
        ({"/v1/models": {"data": []}}, "lists no model"),
        ({"/v1/models": {"data": [{"id": "x"}]}, "/metrics": None, "/version": None},
         "which engine"),
        ({"/v1/models": {"data": [{"id": "my-own", "owned_by": "vllm"}]}}, "'my-own' is not known"),
    ],
)  # fmt: skip
def test_what_a_server_does_not_say_is_asked_for(serve: Any, pages: Any, told: str) -> None:
    url, _ = serve(**pages)
    with pytest.raises(InputError, match=told):
        find_target(Request(url, "h200-sxm"))


def test_others_on_the_server_are_noticed(serve: Any) -> None:
    url, _ = serve()
    require_alone(url, None)
    busy = METRICS.replace(
        'vllm:num_requests_running{engine="0",model_name="small"} 0.0',
        'vllm:num_requests_running{engine="0",model_name="small"} 3.0',
    )
    assert busy != METRICS
    url, _ = serve(**{"/metrics": busy})
    with pytest.raises(InputError, match="works on 3 requests of others"):
        require_alone(url, None)


def test_a_journal_continues_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    load = LoadSpec(2, 10, 4, 2)
    answers = [Answered(10, 4, 0.0, 0.1, 0.4, 4, 4, (0.1, 0.1, 0.1)) for _ in range(2)]
    with Journal(path, {"url": "a"}) as journal:
        for a in answers:
            journal.request(0, a)
        journal.end(0, load, answers)
        journal.request(1, answers[0])  # a load that was cut off
    with path.open("a") as file:
        file.write('{"load":1,"requ')  # and a line
    with Journal(path, {"url": "a"}) as journal:
        assert journal.observations() == [observe(load, answers)]
        assert journal.next_load == 2  # the number of the one that was cut off is not used again
    with pytest.raises(InputError, match="another server, model or device"):
        Journal(path, {"url": "b"})
    with Journal(path, {"url": "b"}, fresh=True) as journal:
        assert journal.observations() == []
    assert (tmp_path / "j.jsonl.old1").exists()  # nothing is lost


def test_a_load_that_was_cut_off_is_not_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    good = Answered(10, 4, 0.0, 0.1, 0.4, 4, 4, ())
    odd = Answered(999, 4, 5.0, 9.1, 9.4, 4, 4, ())
    with Journal(path, {}) as journal:
        journal.request(0, odd)  # and then it was killed
    for _ in range(2):
        with Journal(path, {}) as journal:
            assert all(a == good for _, answers in journal.finished.values() for a in answers)
            number = journal.next_load
            journal.request(number, good)
            journal.end(number, LoadSpec(1, 10, 4, 1), [good])
    with Journal(path, {}) as journal:
        assert sorted(journal.finished) == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        '{"head":{},"load":0,"request":5}',
        '{"load":"x","finished":{"a":1}}',
        '{"load":0,"finished":5}',
    ],
)
def test_a_journal_that_is_none_says_so(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match="no journal of a calibration"):
        Journal(path, {})


def test_a_load_that_is_not_whole_is_not_used(serve: Any) -> None:
    url, _ = serve(lambda h, b: answer(h, {**b, "max_tokens": 2}))
    load = LoadSpec(1, 8, 4, 2)
    answers = run_load(client(url), load.asked(1), 1, lambda _: None)
    with pytest.raises(InputError, match="2 tokens instead of 4"):
        require_whole(load, answers)
    with pytest.raises(InputError, match="1 of 2 requests.*they were not sent"):
        require_whole(LoadSpec(1, 8, 2, 2), answers[:1])


@pytest.mark.parametrize("event", ["null", "5", '"x"', "[]", "{]"])
def test_events_that_are_none(serve: Any, event: str) -> None:
    def odd(handler: Handler, _: dict[str, Any]) -> None:
        handler.start()
        handler.event(event)
        handler.finish_stream()

    url, _ = serve(odd)
    with pytest.raises(InputError, match="not a stream of events"):
        run_load(client(url), [Asked(4, 4, 1)], 1, lambda _: None)


@pytest.mark.parametrize(
    ("read", "text"),
    [(parse_url, "ftp://x"), (parse_url, "http://"), (parse_url, "http://h:abc"),
     (parse_time, "3 weeks"), (parse_time, "1s"), (parse_name, "../x"), (parse_name, "")],
)  # fmt: skip
def test_options_are_checked(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(InputError):
        read(text)
