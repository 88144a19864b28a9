"""Decisions based on predictions: plans, audits of claims, comparisons and adjustments."""

import csv
from pathlib import Path

import pytest

from groundspeed.estimator import find_model
from groundspeed.estimator.backtest.adjust import adjust
from groundspeed.estimator.backtest.backtest import RowResult, backtest
from groundspeed.estimator.decisions.audit import (
    Audit,
    Claim,
    audit_claim,
    compare_claims,
    request_time_s,
)
from groundspeed.estimator.decisions.compare import Option, compare_servers
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.engine import find_engine
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles import InputError

H200 = find_hardware("h200")


# Audits. The claim is the article's: DeepSeek-R1 on 8 x H200, 170 total tokens/s, concurrency 1.

CLAIM = Claim(
    tokens_per_s=170.0, model=find_model("deepseek-r1"), gpu="h200", counts="total", isl=3200,
    osl=800, concurrency=1, gpus=8, dtype="fp8",
)  # fmt: skip


def audit(claim: Claim, version: str = "0.4.3") -> Audit:
    return audit_claim(claim, H200.best, H200.spec, find_engine("sglang", version=version))


def figures(report: Audit) -> dict[str, float]:
    return {f.name: f.value for f in report.figures}


def test_audit_reproduces_the_figures_of_the_article() -> None:
    assert request_time_s(CLAIM, "total") == pytest.approx(23.53, abs=0.005)
    report = audit(CLAIM)
    values = figures(report)
    assert values["request time"] == pytest.approx(23.53, abs=0.005)
    assert 33.9 < values["output per user"] < 35.0
    # The article rounds 23.53 s down to 23 s, so it gets 91 to 92 s and 44 tokens/s.
    assert values["request time, lengths swapped"] == pytest.approx(92.0, rel=0.03)
    assert values["total rate, lengths swapped"] == pytest.approx(44.0, rel=0.04)
    # The article ignores prefill time; without it, decoding is a little faster than its figure.
    assert values["decode alone"] > values["output per user"]
    assert report.passes


def test_claim_above_the_upper_bound_is_reported_as_wrong() -> None:
    claim = Claim(
        tokens_per_s=5000.0, model=CLAIM.model, gpu="h200", counts="output", isl=3200, osl=800,
        concurrency=1, gpus=8, dtype="fp8",
    )  # fmt: skip
    report = audit(claim)
    assert not report.passes
    assert any(c.severity == "wrong" and "times the upper bound" in c.text for c in report.checks)


def test_claim_without_lengths_is_checked_against_a_range() -> None:
    claim = Claim(tokens_per_s=5000.0, model=CLAIM.model, gpu="h200", gpus=8)
    report = audit(claim)
    assert "not stated: counts, isl, osl, concurrency, dtype" in report.checks[0].text
    assert any("this system can reach" in c.text for c in report.checks)


def test_claims_are_comparable_only_with_equal_lengths() -> None:
    other = Claim(
        tokens_per_s=60.0, model=CLAIM.model, gpu="mi300x", counts="output", isl=3200, osl=800,
        concurrency=1, gpus=8, dtype="fp8", label="the other",
    )  # fmt: skip
    fair = compare_claims(CLAIM, other)
    assert fair.comparable  # total tokens are converted to output: 34 against 60
    assert fair.output_per_gpu == pytest.approx((34.0 / 8, 60.0 / 8))
    assert fair.verdict.startswith("the other has 1.76 times")
    longer = Claim(
        tokens_per_s=60.0, model=CLAIM.model, gpu="mi300x", counts="output", isl=800, osl=3200,
        concurrency=1, gpus=8, dtype="fp8",
    )  # fmt: skip
    assert compare_claims(CLAIM, longer).verdict.startswith("not comparable: input length")


# Comparisons.


def option(name: str, tp: int = 1) -> Option:
    model = find_model("llama-3.1-8b")
    return Option(name, Server(model, Deployment(tp=tp), find_engine("vllm"), H200.best), 2.0)


def test_comparison_of_two_equal_servers_is_a_tie() -> None:
    comparison = compare_servers([option("a"), option("b")], Workload(512, 128), [1, 16])
    assert all(row.winner is None and row.ratio == pytest.approx(1.0) for row in comparison.rows)
    assert comparison.summary[0] == "TTFT: tie of a and b from 1 to 16"


def test_comparison_names_the_faster_and_the_cheaper_server() -> None:
    comparison = compare_servers([option("one"), option("four", tp=4)], Workload(512, 128), [1])
    tpot = next(r for r in comparison.rows if r.metric == "tpot_s")
    assert tpot.winner == "four"
    cheap = next(r for r in comparison.rows if r.metric == "tokens_per_price")
    assert cheap.winner == "one"
    with pytest.raises(InputError, match="a comparison needs at least two options"):
        compare_servers([option("a")], Workload(512, 128), [1])


# Adjustment to own measurements, and intervals, on published rows.


@pytest.fixture(scope="module")
def results(reference: Path) -> list[RowResult]:
    with (reference / "e2e_dev.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["tier"] != "C"]
    for row in rows:
        row["group"] = f"{row['source_id']} {row['engine'].split()[0]}"
    return backtest(rows, lambda name: find_hardware(name).best)


def test_adjustment_to_three_rows_corrects_a_constant_error(results: list[RowResult]) -> None:
    """The rows simulate a user whose servers are 30 % slower than the published ones."""
    mine = [
        r.model_copy(update={"measured": {"tpot_ms": 1.3 * r.measured["tpot_ms"]}})
        for r in results
        if r.labels["group"] == "inferencex-aic vLLM"
    ]
    adjusted, (done,) = adjust(mine, 3)
    assert done.before_median_percent is not None and done.after_median_percent is not None
    assert done.before_median_percent > 20
    assert done.after_median_percent < 8
    assert done.factor == pytest.approx(1.3, rel=0.1)
    assert len(adjusted) == len(mine)


def test_adjustment_refuses_contradicting_rows_and_zero_rows() -> None:
    base = {
        "row": "1", "labels": {}, "low": {"tpot_ms": 9.0}, "high": {"tpot_ms": 11.0},
        "predicted": {"tpot_ms": 10.0}, "saturated": False,
    }  # fmt: skip
    rows = [
        RowResult.model_validate(base | {"row": str(i), "measured": {"tpot_ms": v}})
        for i, v in enumerate((2.0, 50.0))
    ]
    with pytest.raises(InputError, match="rows 0 and 1 contradict each other in tpot_ms"):
        adjust(rows, 2)
    with pytest.raises(InputError, match="--adjust must be at least 1"):
        adjust(rows, 0)
