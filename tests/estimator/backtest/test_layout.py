"""Pools and speculation as published tables describe them."""

import functools
import json
from pathlib import Path

import pytest

from groundspeed.estimator.backtest.backtest import backtest, summarize
from groundspeed.estimator.backtest.layout import (
    PoolText,
    SpeculationText,
    read_layout,
    read_speculation,
)
from groundspeed.estimator.backtest.load_tools import read_load_tool
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import read_rows

ROW = {
    "model": "deepseek-r1", "gpu": "h200-sxm", "engine": "sglang", "weight_dtype": "fp8",
    "tp": "8", "n_gpus": "8", "isl": "1024", "osl": "1024", "batch_or_concurrency": "64",
    "tpot_ms": "20",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "prefill", "decode"),
    [
        ("1p x 8 GPU (ep1) + 2d x 8 GPU (ep1)", (1, 8, 1, False), (2, 8, 1, False)),
        (
            "6p x 4 GPU (ep4 dp-attn) + 1d x 48 GPU (ep48 dp-attn)",
            (6, 4, 4, True),
            (1, 48, 48, True),
        ),
        ("2p x TP2 + 2d x TP2, NIXL, one node", (2, 2, 1, False), (2, 2, 1, False)),
        ("llm-d 1p1d, TP1 each", (1, 1, 1, False), (1, 1, 1, False)),
        ("40p x TP1 + 6d x TP4", (40, 1, 1, False), (6, 4, 1, False)),
        # Ranks of experts are GPUs: a replica has at least as many.
        ("1p x 1 GPU (ep8) + 2d x 1 GPU (ep8 dp-attn)", (1, 8, 8, False), (2, 8, 8, True)),
        ("3 prefill x TP4, 1 decode x TP8", (3, 4, 1, False), (1, 8, 1, False)),
    ],
)
def test_layouts(text: str, prefill: tuple[int, ...], decode: tuple[int, ...]) -> None:
    found = read_layout(text)
    assert found.prefill == PoolText(*prefill)  # type: ignore[arg-type]
    assert found.decode == PoolText(*decode)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["8 GPUs", "2p x TP4", "yes", "0p x TP1 + 1d x TP1"])
def test_what_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="pool"):
        read_layout(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MTP/EAGLE, acceptance not stated", (None, None, False)),
        ("EAGLE3 k=4 (yuhuili/EAGLE3-LLaMA3.1-Instruct-8B), no acceptance", (4, None, False)),
        ('speculative-config {"method":"mtp","num_speculative_tokens":2}', (2, None, False)),
        ("speculative-algorithm EAGLE --speculative-num-steps 3", (3, None, False)),
        ("accept_len=3.31", (None, 3.31, False)),
        ("ngram, k=5", (5, None, True)),
    ],
)
def test_speculation_in_words(text: str, said: tuple[object, ...]) -> None:
    assert read_speculation(text) == SpeculationText(*said)  # type: ignore[arg-type]


@functools.cache
def hardware(name: str) -> Hardware:
    return find_hardware(name).best


def test_a_row_with_speculation_or_pools_is_predicted_as_such() -> None:
    rows = [
        ROW,
        ROW | {"spec": "MTP, acceptance not stated"},
        ROW | {"spec": "MTP", "draft_tokens": "3", "acceptance": "0.9"},
        ROW | {"disagg": "1p x 8 GPU + 1d x 8 GPU", "n_gpus": "16"},
    ]
    plain, unstated, stated, pools = backtest(rows, hardware)
    assert not any(r.skipped_reason for r in (plain, unstated, stated, pools))
    tpot = [r.predicted["tpot_ms"] for r in (plain, unstated, stated)]
    assert tpot == sorted(tpot, reverse=True)
    width = [r.high["tpot_ms"] / r.predicted["tpot_ms"] for r in (plain, unstated, stated)]
    assert width[1] > 1.1 * width[2]
    assert pools.predicted["tpot_ms"] < plain.predicted["tpot_ms"]  # no prefill in its steps
    assert pools.predicted["e2e_latency_ms"] > pools.predicted["ttft_ms"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"disagg": "four and four"}, "the pools are not understood"),
        ({"spec": "k=2, accept_len=4"}, "gains 1 to 3 tokens"),
        ({"spec": "mtp", "draft_tokens": "2", "draft_model": "gpt-2-small"}, "unknown model"),
    ],
)
def test_a_row_that_is_not_understood_says_why(change: dict[str, str], told: str) -> None:
    (result,) = backtest([ROW | change], hardware)
    assert told in result.skipped_reason


@pytest.mark.parametrize(("column", "most"), [("spec", 26.0), ("disagg", 27.0)])
def test_published_speculation_and_pools(reference: Path, column: str, most: float) -> None:
    """The median error was 77 % (speculation) and 122 % (pools) when both were not read."""
    kept: dict[tuple[str, ...], int] = {}
    rows = []
    for row in read_rows(reference / "e2e_dev2.csv.gz"):
        other = "disagg" if column == "spec" else "spec"
        if not row[column] or row[other] or row["tier"] == "C":
            continue
        group = (row["source_id"], row["engine"], row["gpu"], row["model"], row["weight_dtype"])
        kept[group] = kept.get(group, 0) + 1
        if kept[group] <= 2:
            rows.append(row)
    results = backtest(rows, hardware)
    assert sum(not r.skipped_reason for r in results) > 0.9 * len(rows)
    tpot = next(s for s in summarize(results) if s.metric == "tpot_ms")
    assert tpot.median_ape_percent < most
    assert tpot.inside_interval_percent > 80.0


@pytest.mark.parametrize("word", ["none", "No", "off", "False", "-"])
def test_words_for_nothing_are_nothing(word: str) -> None:
    plain, said = backtest([ROW, ROW | {"spec": word, "disagg": word}], hardware)
    assert said.predicted == plain.predicted


def test_acceptance_is_the_share_of_drafted_tokens() -> None:
    share, length = backtest(
        [
            ROW | {"draft_tokens": "3", "acceptance": "0.5"},
            ROW | {"draft_tokens": "3", "spec": "MTP, accept_len=2.5"},
        ],
        hardware,
    )
    assert share.predicted["tpot_ms"] == pytest.approx(length.predicted["tpot_ms"])


@pytest.mark.parametrize(
    "change",
    [
        {"spec": "acceptance length ..."},
        {"notes": "max-num-seqs ..."},
        {"isl": "731.4", "osl": "1"},
    ],
)
def test_odd_texts_do_not_end_a_backtest(change: dict[str, str]) -> None:
    results = backtest([ROW, ROW | change], hardware)
    assert len(results) == 2 and not results[0].skipped_reason


def test_settings_are_read_from_a_command() -> None:
    few, many = backtest(
        [ROW | {"batch_or_concurrency": "512", "command": "--max-running-requests 16"},
         ROW | {"batch_or_concurrency": "512"}],
        hardware,
    )  # fmt: skip
    assert few.predicted["tpot_ms"] < many.predicted["tpot_ms"]
    assert few.saturated


@pytest.mark.parametrize("key", ["accept_length", "spec_decode_acceptance_length"])
def test_what_a_load_tool_measured_of_speculation_is_used(tmp_path: Path, key: str) -> None:
    result = {
        "backend": "sglang", "model_id": "deepseek-r1", "max_concurrency": 16, "completed": 64,
        "random_input_len": 1024, "random_output_len": 1024, "mean_ttft_ms": 300.0,
        "mean_tpot_ms": 10.0,
    }  # fmt: skip
    tpot = []
    for more in ({}, {key: 2.4}, {key: 5.5}):
        path = tmp_path / "r.json"
        path.write_text(json.dumps(result | more))
        (row,) = read_load_tool(path)
        (found,) = backtest([{**row, "gpu": "h200-sxm", "tp": "8"}], hardware)
        assert not found.skipped_reason
        tpot.append(found.predicted["tpot_ms"])
    # The steps of a mixture read more experts, so 2.4 tokens a step are not 2.4 times as fast.
    assert tpot[0] > 1.2 * tpot[1] and tpot[1] > 1.1 * tpot[2]
