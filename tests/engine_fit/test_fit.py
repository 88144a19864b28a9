"""The fit finds the constants of a server whose truth is known: the simulated scheduler's own."""

from dataclasses import replace

import numpy as np
import pytest

from groundspeed.engine_fit.choose import CONCURRENCIES, candidates, good_enough, next_load
from groundspeed.engine_fit.fit import Fit, Problem, fit, workload
from groundspeed.engine_fit.loads import LoadSpec, Observation
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload

LOADS = [
    LoadSpec(c, p, o, max(6, 4 * c))
    for c, p, o in (
        (1, 32, 16), (1, 2048, 16), (1, 128, 64), (8, 128, 64), (8, 512, 64), (32, 128, 64),
        (64, 512, 64), (16, 2048, 64),
    )
]  # fmt: skip


def server(model: str = "qwen3-8b", engine: str = "vllm", **options: object) -> Server:
    return build_server(model, "h200-sxm", ServerOptions(engine=engine, **options))  # type: ignore[arg-type]


def with_costs(known: Server, **factors: float) -> Server:
    """Return a server whose constants are multiples of the published ones: the truth."""
    costs = known.engine.costs.times(factors.items())
    return replace(known, engine=known.engine.model_copy(update={"costs": costs}))


def seen(truth: Server, load: LoadSpec, noise: float = 0.0, seed: int = 0) -> Observation:
    p = truth.predict(workload(load))
    rng = np.random.default_rng((seed, load.concurrency, load.prompt_tokens))
    a, b = np.exp(noise * rng.standard_normal(2))
    assert p.tpot_s is not None
    return Observation(
        load, p.ttft_s * a, p.tpot_s * b, p.output_tokens_per_s, max(noise, 0.01), max(noise, 0.01)
    )


TRUTHS = {
    "slow host": {"step_s": 4.0, "sequence_s": 2.5, "request_s": 2.0},
    "fast host": {"step_s": 0.4, "layer_s": 0.5, "request_s": 0.4},
    "slow kernels": {"gemm_factor": 1.25, "attention_factor": 1.4, "prefill_factor": 1.2},
}


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_other_loads_are_predicted_from_what_was_fitted(name: str, engine: str) -> None:
    known = server(engine=engine)
    truth = with_costs(known, **TRUTHS[name])
    found = fit(Problem(known), [seen(truth, load, 0.01) for load in LOADS])
    fitted = replace(known, engine=found.problem.engine(found.theta))
    errors, before = [], []
    for load in (Workload(256, 128, 4), Workload(1024, 256, 24), Workload(4096, 64, 8)):
        right = truth.predict(load)
        for errs, p in ((errors, fitted.predict(load)), (before, known.predict(load))):
            assert p.tpot_s is not None and right.tpot_s is not None
            errs += [abs(p.tpot_s / right.tpot_s - 1.0), abs(p.ttft_s / right.ttft_s - 1.0)]
    assert max(errors[::2]) < 0.04  # TPOT
    assert max(errors[1::2]) < 0.10  # TTFT
    assert sum(errors) < 0.35 * sum(before)


def test_another_model_is_predicted_from_the_constants_of_one() -> None:
    """Step, sequence and request are the host's: they hold for a model four times as large."""
    known = server("qwen3-8b")
    factors = {"step_s": 4.0, "sequence_s": 2.5, "request_s": 2.0}
    found = fit(Problem(known), [seen(with_costs(known, **factors), load, 0.01) for load in LOADS])
    costs = found.problem.engine(found.theta).costs
    large = server("qwen3-32b")
    load = Workload(512, 128, 16)
    right = with_costs(large, **factors).predict(load)
    blind = large.predict(load)
    p = replace(large, engine=large.engine.model_copy(update={"costs": costs})).predict(load)
    assert p.tpot_s is not None and right.tpot_s is not None and blind.tpot_s is not None
    # One model hardly tells a cost of the step from one of its layers; the other has more layers.
    assert abs(p.tpot_s / right.tpot_s - 1.0) < 0.12
    assert abs(p.tpot_s / right.tpot_s - 1.0) < 0.8 * abs(blind.tpot_s / right.tpot_s - 1.0)


def test_what_the_loads_do_not_show_stays_at_the_prior_with_its_error() -> None:
    known = server()
    alone = [LoadSpec(1, 32, 16, 6), LoadSpec(1, 128, 16, 6)]
    found = fit(Problem(known), [seen(known, load) for load in alone])
    prior = dict(zip(found.problem.names, found.problem.width, strict=True))
    # One client says nothing of what each further sequence costs; it does say what a step costs.
    assert found.spread["sequence_s"] > 0.8 * prior["sequence_s"]
    assert found.spread["request_s"] < prior["request_s"]
    here = np.zeros(len(prior))
    assert found.uncertainty(alone[1], "ttft", here) < 0.06
    assert found.uncertainty(LOADS[-2], "tpot", here) > 3 * found.uncertainty(
        alone[1], "tpot", here
    )
    more = fit(Problem(known), [seen(known, load) for load in LOADS])
    assert more.spread["sequence_s"] < found.spread["sequence_s"]


def test_a_disturbed_load_does_not_bend_the_constants() -> None:
    known = server()
    truth = with_costs(known, step_s=3.0)
    observations = [seen(truth, load, 0.01) for load in LOADS]
    good = fit(Problem(known), observations)
    disturbed = [replace(observations[3], tpot_s=2.0 * (observations[3].tpot_s or 0.0))]
    bent = fit(Problem(known), [*observations[:3], *disturbed, *observations[4:]])
    load = Workload(256, 128, 16)
    a, b = (
        replace(known, engine=f.problem.engine(f.theta)).predict(load).tpot_s for f in (good, bent)
    )
    assert a is not None and b is not None
    assert abs(b / a - 1.0) < 0.05
    assert abs(bent.left_out[3, "tpot"]) > 0.4  # and it is seen as what it is
    assert bent.factor("tpot") > good.factor("tpot")


def test_loads_are_chosen_until_the_constants_are_known() -> None:
    known = server()
    truth = with_costs(known, step_s=3.0, sequence_s=3.0, request_s=0.5)
    problem = Problem(known)
    found = fit(problem, [])
    choices = candidates(problem, found.theta, 180.0, 8192)
    done: list[Observation] = []
    left = 180.0
    before = float(np.trace(found.covariance))
    while (load := next_load(found, choices, done, left)) is not None:
        assert load not in {o.load for o in done}
        assert load.prompt_tokens + load.output_tokens <= 8192
        p = problem.predict(load, found.theta)
        left -= p.duration_s
        assert left > 0.0
        done.append(seen(truth, load, 0.01))
        found = fit(problem, done)
        if len(done) > 25:
            break
    assert done[0].load.concurrency == done[1].load.concurrency == 1
    assert done[0].load.prompt_tokens < done[1].load.prompt_tokens
    assert max(o.load.concurrency for o in done) >= 16  # what a sequence costs shows there
    assert float(np.trace(found.covariance)) < 0.5 * before
    for load in (LoadSpec(4, 256, 64, 16), LoadSpec(48, 1024, 64, 192)):
        p, right = problem.predict(load, found.theta), truth.predict(workload(load))
        assert p.tpot_s is not None and right.tpot_s is not None
        assert abs(p.tpot_s / right.tpot_s - 1.0) < 0.04


def test_nothing_is_sent_beyond_the_time_or_the_limits() -> None:
    known = server(max_sequences=4)
    problem = Problem(known)
    found = fit(problem, [])
    choices = candidates(problem, found.theta, 60.0, 512)
    assert max(c.load.concurrency for c in choices) <= 4
    assert max(c.load.prompt_tokens + c.load.output_tokens for c in choices) <= 512
    assert next_load(found, choices, [], 0.0) is None
    assert candidates(problem, found.theta, 1e-3, None) == []
    assert max(CONCURRENCIES) <= 256


def test_enough_is_enough() -> None:
    problem = Problem(server())
    sure = Fit(
        problem, np.zeros(len(problem.names)), 1e-8 * np.eye(len(problem.names)), {}, {}, (), 0.0
    )
    choices = candidates(problem, sure.theta, 60.0, None)
    assert good_enough(sure, choices)
    assert not good_enough(fit(problem, []), choices)
