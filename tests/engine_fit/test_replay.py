"""A real calibration, replayed: vLLM 0.32 on a CPU whose kernels were measured."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from groundspeed.engine_fit.calibrate_server import Target, own_engine
from groundspeed.engine_fit.fit import Fit, Problem, fit
from groundspeed.engine_fit.loads import Journal, Observation
from groundspeed.engine_fit.probe import ServerFacts
from groundspeed.engine_fit.verify_server import suspects
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.serving import requests, scheduler
from groundspeed.estimator.serving.server import Server

DATA = Path(__file__).parents[1] / "data" / "engines"
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896,
    "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "max_position_embeddings": 32768, "vocab_size": 151936,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-06,
    "hidden_act": "silu",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("dense-0.5b")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    options = ServerOptions(engine="vllm", engine_version="0.32.0")
    return build_server(str(folder), str(DATA / "cpu-amd-epyc-2c.json"), options)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> list[Observation]:
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    shutil.copy(DATA / "vllm-0.32-cpu.journal.jsonl", path)
    head = json.loads(path.read_text().splitlines()[0])["head"]
    with Journal(path, head) as journal:
        return journal.observations()


@pytest.fixture(scope="module")
def fitted(server: Server, observed: list[Observation]) -> Fit:
    return fit(Problem(server), observed)


def median(found: Fit, metric: str) -> float:
    return float(np.median([abs(e) for (_, m), e in found.left_out.items() if m == metric]))


def test_loads_that_were_left_out_are_predicted(fitted: Fit, observed: list[Observation]) -> None:
    assert len(observed) >= 10
    assert max(o.load.concurrency for o in observed) >= 16
    assert median(fitted, "tpot") < 0.10
    assert median(fitted, "ttft") < 0.08
    assert fitted.factor("tpot") < 1.30 and fitted.factor("ttft") < 1.30


def miss(problem: Problem, o: Observation, fitted: Fit) -> float:
    predicted = problem.predict(o.load, fitted.theta).tpot_s
    assert predicted is not None and o.tpot_s is not None
    return abs(math.log(predicted / o.tpot_s))


def test_prompts_of_equal_length_do_not_stay_in_step(
    server: Server, observed: list[Observation], fitted: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients with long prompts decode while the other's prompt is computed.

    A scheduler that gets both at the same instant computes them together, and never again apart.
    """
    long = [o for o in observed if o.load.concurrency in (2, 4) and o.load.prompt_tokens >= 512]
    assert long
    apart = [miss(fitted.problem, o, fitted) for o in long]
    for module in (scheduler, requests):
        monkeypatch.setattr(module, "HANDLING_S", 0.0)
    together = [miss(Problem(server), o, fitted) for o in long]
    assert max(apart) < 0.25
    assert min(together) > 0.30


def test_what_is_written_holds_the_loads(
    server: Server, fitted: Fit, observed: list[Observation]
) -> None:
    facts = ServerFacts("http://127.0.0.1:8130", "vllm", "0.32.0", ("dense-0.5b",))
    target = Target(facts, server.model, "dense-0.5b", server, fixed_budget=False, name="trial")
    own = own_engine(target, fitted, observed)
    assert own.engine_version == "0.32.0" and len(own.loads) == len(observed)
    assert set(own.spread) == set(own.costs)
    # The products of this CPU are what the loads show best; what a sequence costs is lost in them.
    assert own.spread["gemm_factor"] < 0.1 < own.spread["sequence_s"]


def test_a_wrong_constant_is_named(
    server: Server, fitted: Fit, observed: list[Observation]
) -> None:
    engine = fitted.problem.engine(fitted.theta)
    costs = engine.costs.times([("gemm_factor", 1.5)])
    wrong = Server(
        server.model, server.deployment, engine.model_copy(update={"costs": costs}), server.hardware
    )
    first = suspects(wrong, observed)[0]
    assert first.constant == "gemm_factor"
    assert 0.55 < first.factor < 0.8 and first.explains > 0.6
