"""Traces as people have them, the prefix cache that they meet, and sessions that wait."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundspeed.estimator import Workload
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.serving.workload import Prediction
from groundspeed.estimator.traffic.prefix_cache import cached_tokens
from groundspeed.estimator.traffic.read_trace import read_trace
from groundspeed.estimator.traffic.trace import Trace, TraceRequest
from groundspeed.profiles.errors import InputError

DATA = Path(__file__).parents[2] / "data" / "traces"


def written(folder: Path, name: str, *lines: object) -> Path:
    path = folder / name
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


def predict(trace: Trace, **options: object) -> Prediction:
    server = build_server("llama-3.1-8b", "h200-sxm", ServerOptions(engine="vllm", **options))  # type: ignore[arg-type]
    return server.predict(
        Workload(
            round(trace.mean_prompt_tokens),
            round(trace.mean_output_tokens),
            kind="trace",
            trace=trace,
        )
    )


def test_a_real_mooncake_trace() -> None:
    trace = read_trace(DATA / "mooncake_conversation.jsonl")
    assert len(trace.requests) == 150
    assert trace.block_tokens == 512  # as its description says; the file does not
    assert trace.requests[0][:3] == (0.0, 6758, 500)
    assert trace.requests[10].arrival_s == 3.0  # milliseconds in the file
    hits = cached_tokens(trace, 1e12)
    # Every prompt begins with one block that all share.
    assert hits[0] == 0
    assert all(
        h >= 512
        for h, r in list(zip(hits, trace.requests, strict=True))[1:]
        if r.prompt_tokens > 512
    )
    p, cold = predict(trace), predict(replace(trace, block_tokens=0))
    assert p.prefix_hits == pytest.approx(
        sum(cached_tokens(trace, 600_000)) / sum(r.prompt_tokens for r in trace.requests), abs=0.05
    )
    assert cold.prefix_hits == 0.0
    assert p.ttft_s < cold.ttft_s


def test_tables(tmp_path: Path) -> None:
    ours = read_trace(written(tmp_path, "a.csv", "arrival_s,isl,osl", "1.5,10,20", "0.5,30,40"))
    burst = read_trace(
        written(
            tmp_path, "b.csv",
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
            "0.5,ChatGPT,30,40,70,Conversation log", "1.5,GPT-4,10,20,30,API log",
        )
    )  # fmt: skip
    assert [r[:3] for r in ours.requests] == [(0.5, 30, 40), (1.5, 10, 20)]
    assert ours == burst
    assert ours.block_tokens == 0


def test_the_detailed_result_of_vllm(tmp_path: Path) -> None:
    result = {
        "backend": "vllm", "input_lens": [100, 200, 300], "output_lens": [10, 0, 30],
        "start_times": [50.25, 50.5, 51.0], "ttfts": [0.1, 0.0, 0.2],
    }  # fmt: skip
    trace = read_trace(written(tmp_path, "r.json", json.dumps(result, indent=1)))
    assert [r[:3] for r in trace.requests] == [(0.0, 100, 10), (0.75, 300, 30)]
    with pytest.raises(InputError, match="--save-detailed"):
        read_trace(written(tmp_path, "s.json", {"input_lens": [1], "duration": 3.0}))


def test_bailian_turns_find_the_answer_before(tmp_path: Path) -> None:
    first = {"chat_id": 7, "parent_chat_id": -1, "timestamp": 61.5, "input_length": 40,
             "output_length": 24, "turn": 1, "hash_ids": [1, 2, 3]}  # fmt: skip
    second = {"chat_id": 9, "parent_chat_id": 7, "timestamp": 70.0, "input_length": 100,
              "output_length": 5, "turn": 2, "hash_ids": [1, 2, 11, 12, 13, 14, 15]}  # fmt: skip
    trace = read_trace(written(tmp_path, "t.jsonl", second, first))
    assert [r.arrival_s for r in trace.requests] == [61.5, 70.0]  # seconds in the file
    assert trace.requests[1].before == 0 and not trace.waits
    assert trace.block_tokens == 16
    # Two blocks of the prompt; with the third, which the answer filled up, and the answer: four.
    assert cached_tokens(trace, 1e9) == [0, 64]
    assert cached_tokens(trace, 16.0) == [0, 16]  # only its first block is left


def test_turns_of_a_session_wait_for_the_answer(tmp_path: Path) -> None:
    turns = [
        {"session_id": "a", "timestamp": 0, "input_length": 1000, "output_length": 200},
        {"session_id": "b", "timestamp": 10, "input_length": 500, "output_length": 10},
        {"session_id": "a", "delay": 2000, "input_length": 100, "output_length": 50},
        {"session_id": "a", "delay": 0, "input_length": 10, "output_length": 1},
    ]
    trace = read_trace(written(tmp_path, "s.jsonl", *turns))
    assert [r.prompt_tokens for r in trace.requests] == [1000, 500, 1300, 1360]
    assert [r.before for r in trace.requests] == [-1, -1, 0, 2]
    hits = cached_tokens(trace, 1e9)
    assert hits[2] == 1200 and hits[3] == 1344  # whole blocks of 16 of what was said before
    alone = predict(Trace(trace.requests[:1], 16))
    p = predict(trace)
    assert p.prefix_hits == pytest.approx(sum(hits) / 4160)
    # 4 requests in: the first answer, 2 s of thought, the second answer, the third.
    assert 4 / p.requests_per_s > alone.e2e_s + 2.0
    assert p.e2e.mean < alone.e2e_s  # what follows is shorter, although its prompts are longer


def test_groups_share_a_trace_by_sessions(tmp_path: Path) -> None:
    turns = [
        {"session_id": i % 5, "input_length": 100, "output_length": 20}
        | ({"timestamp": 10 * i} if i < 5 else {"delay": 100})
        for i in range(20)
    ]
    trace = read_trace(written(tmp_path, "s.jsonl", *turns))
    share = trace.share(2.0)
    assert len(share.requests) == 12  # three of five sessions
    for request in share.requests:
        assert (
            request.before < 0
            or share.requests[request.before].prompt_tokens < request.prompt_tokens
        )
    assert predict(trace, replicas=2).requests_per_s > 0.0


@given(
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True), max_size=25),
    st.integers(0, 20),
)
def test_the_cache_holds_what_a_list_of_uses_holds(prompts: list[list[int]], room: int) -> None:
    """A cache written out plainly: a list by last use, of which the oldest go."""
    requests = tuple(
        TraceRequest(float(i), 10 * len(b), 5, tuple(b)) for i, b in enumerate(prompts)
    )
    used: list[int] = []
    expected = []
    for blocks in prompts:
        hits = next((i for i, b in enumerate(blocks) if b not in used), len(blocks))
        expected.append(min(10 * hits, 10 * (len(blocks) - 1)))
        used = [b for b in used if b not in blocks] + list(reversed(blocks))
        used = used[max(0, len(used) - room) :]
    assert cached_tokens(Trace(requests, 10), 10.0 * room) == expected


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("{}",), "needs numbers in timestamp"),
        (("",), "has no requests"),
        (("[1, 2]",), "has no requests"),
        (('{"timestamp": 0, "input_length": 5}',), "output_length"),
        (('{"timestamp": 0, "input_length": 5, "output_length": 0}',), "at least 1 token"),
        (('{"timestamp": -1, "input_length": 5, "output_length": 1}',), "at least 0 s"),
        (('{"timestamp": 0,',), "line 1"),
        (
            (
                '{"timestamp": 0, "input_length": 500, "output_length": 1, "hash_ids": [1]}',
                '{"timestamp": 0, "input_length": 20, "output_length": 1, "hash_ids": [1, 2]}',
            ),
            "hash_ids do not fit",
        ),
    ],
)
def test_what_is_no_trace_says_why(tmp_path: Path, lines: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        read_trace(written(tmp_path, "t.jsonl", *lines))
    assert "t.jsonl" in str(caught.value)


@pytest.mark.parametrize("replicas", [1, 3, 8])
@pytest.mark.parametrize("requests", [1, 10, 100])
def test_replicas_serve_a_trace_once(requests: int, replicas: int) -> None:
    trace = Trace(tuple(TraceRequest(0.05 * i, 200, 20) for i in range(requests)))
    p = predict(trace, replicas=replicas)
    span = max(0.05 * (requests - 1), 1e-9) + p.e2e.mean
    assert p.requests_per_s == pytest.approx(requests / span, rel=0.25)
    assert p.output_tokens_per_s == pytest.approx(20 * p.requests_per_s)


def test_answers_of_mostly_one_token() -> None:
    requests = tuple(TraceRequest(float(i), 100, 2 if i == 3 else 1) for i in range(8))
    assert predict(Trace(requests)).tpot_s is not None


def test_sessions_run_side_by_side_in_the_cache(tmp_path: Path) -> None:
    """A file lists one session after the other, but they share the cache at the same time."""
    turns = [
        {"session_id": s, "input_length": 1000, "output_length": 100}
        | ({"timestamp": 0} if t == 0 else {"delay": 10})
        for s in range(50) for t in range(3)
    ]  # fmt: skip
    trace = read_trace(written(tmp_path, "s.jsonl", *turns))
    assert sum(cached_tokens(trace, 20_000.0)) == 0  # others have taken the place meanwhile
    assert sum(cached_tokens(trace, 1e9)) > 100_000
