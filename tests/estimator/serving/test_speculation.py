"""Speculative decoding: what it gains, what the draft costs, and what is not known of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundspeed.estimator import Workload, find_model
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.speculation import (
    UNSTATED,
    acceptance_of,
    gained,
    speculate,
)
from groundspeed.profiles.errors import InputError

LOAD = Workload(1024, 512, 4)


def server(model: str = "llama-3.3-70b", **options: object) -> Server:
    return build_server(model, "h200-sxm", ServerOptions(**{"tp": 4, "engine": "vllm", **options}))


@given(st.integers(1, 16), st.floats(0.0, 1.0))
def test_acceptance_is_found_from_the_tokens_of_a_step(drafted: int, acceptance: float) -> None:
    gain = 1.0 + gained(drafted, acceptance)
    assert 1.0 <= gain <= 1.0 + drafted
    found = acceptance_of(drafted, gain)
    assert 1.0 + gained(drafted, found) == pytest.approx(gain, rel=1e-9)


@pytest.mark.parametrize("length", [0.5, 4.5])
def test_a_step_cannot_gain_more_than_was_drafted(length: float) -> None:
    with pytest.raises(InputError, match="gains 1 to 4 tokens"):
        acceptance_of(3, length)


def test_drafts_cost_what_they_read() -> None:
    ours = server()
    by = {
        name: ours.predict(speculate(LOAD, 3, 0.8, name))
        for name in ("ngram", "head", "llama-3.2-1b", "llama-3.1-8b")
    }
    tpots = [p.tpot_s or 0.0 for p in by.values()]
    assert tpots == sorted(tpots)
    draft = {
        name: next((p.time_s for p in found.decode_parts if p.group == "draft"), 0.0)
        for name, found in by.items()
    }
    assert draft["ngram"] == 0.0
    # Three passes of the 8B model read 3 x 16 GB on four devices of 4.8 TB/s each.
    weights = 2 * (find_model("llama-3.1-8b").streamed_parameters)
    assert draft["llama-3.1-8b"] > 3 * weights / 4 / 4.8e12
    # One layer of eighty, and the head, three times.
    whole = sum(p.time_s for p in by["head"].decode_parts) - draft["head"]
    assert 3 / 80 * 0.5 < draft["head"] / whole < 0.25


def test_a_draft_takes_memory() -> None:
    ours = server()
    plain = ours.predict(LOAD)
    head = ours.predict(speculate(LOAD, 3, 0.8))
    model = ours.predict(speculate(LOAD, 3, 0.8, "llama-3.1-8b"))
    assert plain.weight_bytes < head.weight_bytes < model.weight_bytes
    assert model.weight_bytes - plain.weight_bytes == pytest.approx(16.06e9 / 4, rel=0.01)
    assert plain.most_sequences > head.most_sequences > model.most_sequences


def test_a_draft_reads_the_prompt_too() -> None:
    ours = server()
    ttft = [
        ours.predict(speculate(replace(LOAD, concurrency=1, prompt_tokens=8192), 3, 0.8, d)).ttft_s
        for d in ("ngram", "head", "llama-3.1-8b")
    ]
    assert ttft == sorted(ttft)
    assert ttft[2] > 1.05 * ttft[0]


def test_unstated_acceptance_widens_the_interval() -> None:
    ours = server()
    known = ours.predict(speculate(LOAD, UNSTATED.drafted_tokens, UNSTATED.acceptance))
    open_ = ours.predict(speculate(LOAD, UNSTATED.drafted_tokens))
    assert open_.tpot_s == pytest.approx(known.tpot_s)
    assert known.tpot_high_s is not None and open_.tpot_high_s is not None
    assert known.tpot_low_s is not None and open_.tpot_low_s is not None
    assert open_.tpot_s is not None
    gain = 1.0 + gained(UNSTATED.drafted_tokens, UNSTATED.low)
    assert open_.tpot_high_s / open_.tpot_s > (1.0 + gained(3, UNSTATED.acceptance)) / gain
    assert open_.tpot_high_s > known.tpot_high_s
    assert open_.tpot_low_s < known.tpot_low_s
    assert any("not given" in text for text in open_.assumed)
    assert not any("not given" in text for text in known.assumed)


def test_a_draft_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="cannot draft for it"):
        server().predict(speculate(LOAD, 3, 0.8, "qwen3-0.6b"))
    with pytest.raises(InputError, match="did you mean"):
        speculate(LOAD, 3, 0.8, "llama-3.2-1")
