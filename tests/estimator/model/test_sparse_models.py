"""Models whose tokens see a part of the past: DeepSeek-V4 (compressed) and MiniMax-M3 (blocks)."""

import numpy as np
import pytest

from groundspeed.estimator import find_model
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.graph.operator import Operator
from groundspeed.estimator.mixers.compressed import CompressedAttention
from groundspeed.estimator.mixers.mixer import Shard
from groundspeed.estimator.model.quantization import Formats
from groundspeed.estimator.serving.workload import Workload

AT = Shard(1, Formats("bfloat16", "bfloat16", "bfloat16", "bfloat16"))


@pytest.mark.parametrize(
    ("name", "billions"), [("deepseek-v4-pro", 49), ("deepseek-v4-flash", 13), ("minimax-m3", 23)]
)
def test_active_parameters_are_the_published_ones(name: str, billions: float) -> None:
    """Model cards count neither embedding."""
    model = find_model(name)
    active = model.active_parameters - 2 * model.embedding_parameters
    assert active / 1e9 == pytest.approx(billions, rel=0.035)


@pytest.mark.parametrize(("name", "least", "most"), [
    ("deepseek-v4-pro", 0.09, 0.12), ("deepseek-v4-flash", 0.06, 0.085),
])  # fmt: skip
def test_cache_of_a_million_tokens_is_a_tenth_of_deepseek_v32(
    name: str, least: float, most: float
) -> None:
    """DeepSeek states 10 % (Pro) and 7 % (Flash) of V3.2's at a context of a million."""
    tokens = 1e6
    both = [sum(m.cached_items(tokens) for m in find_model(n).mixers)
            for n in (name, "deepseek-v3.2")]  # fmt: skip
    assert least < both[0] / both[1] < most


def compressed(ratio: int) -> CompressedAttention:
    model = find_model("deepseek-v4-pro")
    return next(m for m in model.mixers if isinstance(m, CompressedAttention) and m.ratio == ratio)


def read_tokens(operators: list[Operator]) -> float:
    return float(next(o for o in operators if o.operation == "mla_decode").columns["kv_len"][0])


def test_a_new_token_reads_the_window_and_the_best_vectors() -> None:
    one = np.array([1.0])
    assert read_tokens(compressed(4).decode(one, np.array([8192.0]), AT)) == 128 + 1024
    assert read_tokens(compressed(4).decode(one, np.array([2048.0]), AT)) == 128 + 512
    assert read_tokens(compressed(128).decode(one, np.array([8192.0]), AT)) == 128 + 64


@pytest.mark.parametrize("ratio", [4, 128])
@pytest.mark.parametrize("length", [100, 1000, 20_000])
def test_prefill_counts_what_each_token_sees(ratio: int, length: int) -> None:
    mixer = compressed(ratio)
    t = np.arange(length)
    seen = np.minimum(t, mixer.window) + (
        np.minimum(t / ratio, mixer.index_top_k) if ratio == 4 else t / ratio
    )
    operator = mixer.prefill(np.array([1.0]), np.array([float(length)]), AT)[0]
    batch, pairs = operator.columns["batch"][0], operator.columns["seq_len"][0]
    # A causal prompt has half its length squared pairs, of 320 multiplications a head each.
    counted = batch * pairs**2 / 2.0 * 320.0
    assert counted == pytest.approx(seen.sum() * 2 * mixer.head_dim, rel=0.03)


def test_long_contexts_cost_little_more() -> None:
    """At 128 k tokens each decode step of V4 and M3 reads a small part of what attention would."""
    for name, dtype in (("deepseek-v4-pro", None), ("minimax-m3", "fp8")):
        server = build_server(name, "b200", ServerOptions(tp=8, dtype=dtype))
        short, long = (server.predict(Workload(n, 64, 1)).tpot_s for n in (2048, 131_072))
        assert short is not None and long is not None
        assert short < long < 1.6 * short
