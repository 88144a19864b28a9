"""Plans: simulated fronts, every placement, limits on percentiles, launch commands that exist."""

import itertools
import json
import math
import shlex
from pathlib import Path

import pytest

from groundspeed.estimator import find_model
from groundspeed.estimator.decisions.launch import Chosen, launch
from groundspeed.estimator.decisions.objective import Limit, parse_limits
from groundspeed.estimator.decisions.placements import Formats, placements
from groundspeed.estimator.decisions.plan import make_plan
from groundspeed.estimator.decisions.plan_records import Candidate, Plan, Request
from groundspeed.estimator.deployment.build_server import ServerOptions
from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload
from groundspeed.profiles import InputError
from program import groundspeed
from repository import TEST_DATA


def candidate(
    gpu: str = "h200", gpus: int = 8, price: float | None = None, engine: str = "vllm"
) -> Candidate:
    hardware = find_hardware(gpu)
    return Candidate(gpu, hardware.best, ServerOptions(engine=engine).engine_on(hardware), gpus,
                     price)  # fmt: skip


def plan(
    *limits: Limit, model: str = "llama-3.1-70b", dtype: str | None = "fp8",
    candidates: tuple[Candidate, ...] = (), workload: Workload | None = None,
) -> Plan:  # fmt: skip
    return make_plan(
        Request(
            find_model(model), candidates or (candidate(price=3.0),),
            workload or Workload(1024, 512), limits, Formats(dtype),
        )
    )  # fmt: skip


def limit(text: str) -> tuple[Limit, ...]:
    return parse_limits(text)


def test_best_plan_meets_the_slo_and_no_point_is_dominated() -> None:
    made = plan(*limit("ttft=1000,tpot=20"))
    best = made.best
    assert best is not None and best.meets
    assert best.ttft_s <= 1.0 and best.tpot_s <= 0.02
    assert best.gpus == best.replicas * best.tp * best.dp * best.pp
    assert made.launch is not None and made.launch.startswith("vllm serve meta-llama/")
    front = [p for p in made.points if p.on_front]
    assert len(front) > 3
    for p, q in itertools.permutations(front, 2):
        assert not (
            q.tokens_per_s_per_gpu >= p.tokens_per_s_per_gpu
            and q.tokens_per_s_per_user > p.tokens_per_s_per_user
        )


def test_every_point_is_what_the_server_predicts() -> None:
    """The front is simulated: a point has the numbers of estimate at its concurrency."""
    made = plan(*limit("tpot=30"))
    hardware = find_hardware("h200")
    for p in made.points[:: max(1, len(made.points) // 4)]:
        options = ServerOptions(tp=p.tp, pp=p.pp, ep=p.ep, dp=p.dp, dtype="fp8")
        server = Server(find_model("llama-3.1-70b"), options.deployment,
                        options.engine_on(hardware), hardware.best)  # fmt: skip
        found = server.predict(Workload(1024, 512, p.concurrency // p.replicas))
        assert p.ttft_s == pytest.approx(found.ttft_s)
        assert p.tpot_s == pytest.approx(found.tpot_s)
        assert p.output_tokens_per_s == pytest.approx(found.output_tokens_per_s * p.replicas)
        assert p.ttft_p99_s == pytest.approx(found.ttft.p99)


def test_every_kind_of_gpu_that_was_tried_is_named() -> None:
    made = plan(*limit("tpot=30"), candidates=(candidate(), candidate("l40s")))
    assert made.gpus == ("h200", "l40s")


def test_looser_slo_never_costs_more() -> None:
    costs = []
    for tpot in (12, 20, 40, 100):
        best = plan(*limit(f"tpot={tpot}")).best
        assert best is not None and best.cost_per_million_output_tokens is not None
        costs.append(best.cost_per_million_output_tokens)
    assert all(b <= a * 1.001 for a, b in itertools.pairwise(costs))


def test_limit_on_a_percentile_is_stricter_than_on_the_mean() -> None:
    loose, strict = plan(*limit("ttft=1000")).best, plan(*limit("ttft_p99=1000")).best
    assert loose is not None and strict is not None
    assert strict.ttft_p99_s <= 1.0 < loose.ttft_p99_s
    assert strict.tokens_per_s_per_gpu < loose.tokens_per_s_per_gpu


def test_six_gpus_are_used_by_threes_and_twos() -> None:
    model = find_model("llama-3.2-3b")
    threes = model.model_copy(update={"kv_heads": 12, "intermediate": 8208})  # 24 heads
    assert {1, 2, 3, 6} <= {d.tp for d in placements(threes, 6, Formats())}
    # Eight KV heads cannot be split by three.
    assert {d.tp for d in placements(model, 6, Formats())} == {1, 2, 4}
    made = plan(model="llama-3.2-3b", dtype=None, candidates=(candidate(gpus=6),))
    assert {(p.replicas, p.tp) for p in made.points} & {(6, 1), (3, 2)}
    assert all(p.gpus <= 6 for p in made.points)


def test_unreachable_slo_reports_the_fastest_possible_tpot() -> None:
    made = plan(*limit("tpot=1"))
    assert made.best is None and made.launch is None
    assert made.advice.startswith("nothing meets the objective; the fastest TPOT is")


def test_datasheet_is_a_bound_and_never_sure() -> None:
    made = plan(*limit("tpot=100"), model="llama-3.1-8b", dtype=None,
                candidates=(candidate("rtx-4090", 2),))  # fmt: skip
    assert made.best is not None and made.best.stands_on == "datasheet"
    assert not any(p.surely for p in made.points)
    assert "a bound that no kernel reaches" in made.advice
    measured = plan(*limit("tpot=100"), model="llama-3.1-8b", dtype=None,
                    candidates=(candidate("h100", 2),))  # fmt: skip
    assert measured.best is not None and measured.best.surely


def test_cache_and_speculation_make_a_plan_cheaper() -> None:
    plain, cached, drafted = (
        plan(*limit("tpot=20"), workload=w).best
        for w in (
            Workload(4096, 256),
            Workload(4096, 256, cached_share=0.8),
            Workload(4096, 256, drafted_tokens=3, acceptance=0.8),
        )
    )
    assert plain is not None and cached is not None and drafted is not None
    assert cached.tokens_per_s_per_gpu > 1.3 * plain.tokens_per_s_per_gpu
    assert drafted.tokens_per_s_per_gpu > plain.tokens_per_s_per_gpu


def test_pools_of_two_kinds_of_gpu_meet_the_objective() -> None:
    made = plan(*limit("ttft=2000,tpot=30"),
                candidates=(candidate("h100", 8, 2.0), candidate("h200", 8, 3.0)))  # fmt: skip
    assert made.pools
    kinds = {(p.prefill.rsplit(" on ")[-1], p.decode.rsplit(" on ")[-1]) for p in made.pools}
    assert kinds <= {(a, b) for a in ("h100", "h200") for b in ("h100", "h200")}
    for p in made.pools:
        assert p.meets and p.tpot_s <= 0.03 and p.ttft_s <= 2.0
        assert p.tpot_s < p.tpot_high_s and p.ttft_s < p.ttft_high_s
        assert p.gpus <= 16


@pytest.mark.parametrize("price", [0.0, -1.0, 1e6])
def test_price_outside_the_plausible_range_is_refused(price: float) -> None:
    with pytest.raises(InputError, match="the price of a GPU-hour must be"):
        plan(model="llama-3.1-8b", candidates=(candidate(price=price),))


def test_model_that_fits_no_deployment_is_refused() -> None:
    with pytest.raises(InputError, match="no deployment is possible"):
        plan(model="deepseek-r1", dtype=None, candidates=(candidate(gpus=2),))


def test_no_engine_serves_nothing() -> None:
    with pytest.raises(InputError, match="bare is no engine"):
        plan(model="llama-3.1-8b", candidates=(candidate(engine="bare"),))


@pytest.mark.parametrize(
    ("text", "said"),
    [("ttft", "no limit above 0 ms"), ("tpot=-1", "no limit above 0 ms"), ("latency=5", "unknown"),
     ("tpot_p95=5", "did you mean 'tpot_p99' or 'tpot_p90'")],
)  # fmt: skip
def test_limits_that_mean_nothing_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_limits(text)


def known_options(engine: str) -> set[str]:
    lines = (TEST_DATA / "launch" / f"{engine}.txt").read_text().splitlines()
    return {line for line in lines if line.startswith("--")}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(
    ("model", "more"),
    [("llama-3.1-8b", ()), ("llama-3.3-70b", ("--dtype", "fp8", "--kv-dtype", "fp8")),
     ("qwen3-30b-a3b", ("--max-model-len", "8192", "--memory-fraction", "0.85")),
     ("deepseek-r1", ("--gpus", "16", "--cached", "0.5"))],
)  # fmt: skip
def test_launch_command_has_only_options_that_the_engine_knows(
    engine: str, model: str, more: tuple[str, ...]
) -> None:
    ran = groundspeed("plan", model, "--gpu", "h200", "--engine", engine, "--no-pools", "--json",
                      *more)  # fmt: skip
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    words = shlex.split(document["launch"])
    given = [w for w in words if w.startswith("--")]
    assert given and set(given) <= known_options(engine), set(given) - known_options(engine)
    if "--max-model-len" in more:
        assert "8192" in words and "0.85" in words
    if "--kv-dtype" in more and engine != "trtllm":
        assert "--kv-cache-dtype" in words and "--quantization" in words
    if document["best"]["replicas"] > 1:
        assert document["router"].count("http://") == document["best"]["replicas"]


def test_the_most_clients_that_meet_the_slo_are_found_between_doubled_ones() -> None:
    """A plan of 2 x tp1 is fine with 6 clients each and not with 8: four is not the answer."""
    one = candidate(gpu="h100-sxm", gpus=1, price=2.0)
    long = Workload(8000, 300)
    made = plan(*limit("ttft=1500,tpot=15"), model="qwen3-30b-a3b", dtype=None, candidates=(one,),
                workload=long)  # fmt: skip
    assert made.best is not None
    server = Server(find_model("qwen3-30b-a3b"), ServerOptions().deployment, one.engine,
                    one.hardware)  # fmt: skip
    more = server.predict(Workload(8000, 300, math.ceil(1.13 * made.best.concurrency)))
    assert more.tpot_s is not None
    assert more.tpot_s > 0.015 or more.ttft_s > 1.5


def test_links_between_nodes_hold_for_the_placements_that_use_them() -> None:
    rates = []
    for rate in ("100Gb/s", "800Gb/s"):
        ran = groundspeed("plan", "deepseek-r1", "--gpu", "h200", "--gpus", "16", "--no-pools",
                          "--inter-node", rate, "--json")  # fmt: skip
        assert ran.code == 0, ran.err
        rates.append(max(p["tokens_per_s_per_user"] for p in json.loads(ran.out)["points"]
                         if p["gpus"] == 16 and p["replicas"] == 1))  # fmt: skip
    assert rates[0] < rates[1]
    ran = groundspeed("plan", "llama-3.1-8b", "--gpu", "h100", "--gpus", "2", "--inter-node",
                      "400Gb/s")  # fmt: skip
    assert ran.code == 2 and "no effect on any deployment" in ran.err


def test_attention_groups_over_two_nodes_are_told_to_each_engine() -> None:
    """SGLang divides its limits by the groups (server_args); vLLM starts all ranks through Ray."""
    groups = Deployment(tp=1, ep=16, dp=16)
    words = {}
    for engine in ("vllm", "sglang"):
        chosen = Chosen(find_model("deepseek-r1"), groups, candidate(engine=engine).engine, 1, 32,
                        Workload(1024, 512), per_node=8)  # fmt: skip
        words[engine] = shlex.split(launch(chosen).server)
        assert {w for w in words[engine] if w.startswith("--")} <= known_options(engine)
    sglang, vllm = words["sglang"], words["vllm"]
    assert sglang[sglang.index("--max-running-requests") + 1] == "512"
    assert sglang[sglang.index("--nnodes") + 1] == "2"
    assert vllm[vllm.index("--max-num-seqs") + 1] == "32"  # of each rank
    assert vllm[vllm.index("--data-parallel-size-local") + 1] == "8"
    assert vllm[vllm.index("--data-parallel-backend") + 1] == "ray"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_speculation_is_told_to_the_engine(engine: str) -> None:
    made = plan(candidates=(candidate(engine=engine),),
                workload=Workload(512, 256, drafted_tokens=3, acceptance=0.7))  # fmt: skip
    words = shlex.split(made.launch or "")
    assert {w for w in words if w.startswith("--")} <= known_options(engine)
    if engine == "vllm":
        told = json.loads(words[words.index("--speculative-config") + 1])
        assert told["num_speculative_tokens"] == 3
    else:
        assert words[words.index("--speculative-num-draft-tokens") + 1] == "4"
    assert "DRAFT" in made.remark


def test_model_from_a_folder_is_served_from_that_folder(tmp_path: Path) -> None:
    shipped = json.loads(Path("estimator/models/qwen2.5-0.5b.json").read_text())["config"]
    (tmp_path / "config.json").write_text(json.dumps(shipped))
    ran = groundspeed("plan", str(tmp_path / "config.json"), "--gpu", "h100", "--gpus", "1",
                      "--isl", "64", "--osl", "32", "--json")  # fmt: skip
    assert f"vllm serve {tmp_path} --port" in json.loads(ran.out)["launch"]
