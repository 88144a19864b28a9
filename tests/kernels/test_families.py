"""The other kernels against float64: fp8, int8, paged attention, experts, gather, pointer chase."""

import numpy as np
import pytest
import torch

from groundspeed.kernels.decoder.elementwise import fp8_quantize, sample
from groundspeed.kernels.kernel import UnsupportedCaseError
from groundspeed.kernels.links.host_link import HostLink
from groundspeed.kernels.matmul.data_patterns import DATA, DataMatmul
from groundspeed.kernels.matmul.low_precision import Fp8Matmul, Int8Matmul, Tf32Matmul
from groundspeed.kernels.memory.gather import PAGE_BYTES, PageGather
from groundspeed.kernels.memory.working_set import READ_BYTES, TorchWorkingSet, repeats
from groundspeed.kernels.operands import OperandPool
from groundspeed.profiles.operations import OPERATIONS

pytest.importorskip("triton", reason="triton is not installed")

from groundspeed.kernels.attention.decode_triton import PagedDecode, paged_attention, splits_for
from groundspeed.kernels.attention.latent_triton import LatentDecode, LatentPrefill
from groundspeed.kernels.experts.experts_triton import TILES, GroupedExperts, route, tiles_of
from groundspeed.kernels.memory.latency_triton import PointerChase, random_cycle
from groundspeed.kernels.memory.working_set_triton import TritonWorkingSet


def sizes(m: int, n: int, k: int) -> dict[str, float]:
    return {"m": float(m), "n": float(n), "k": float(k)}


@pytest.mark.parametrize("dtype", ["fp8", "fp8_row"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (17, 48, 272), (33, 128, 4096)], ids=str)
def test_fp8_matmul_agrees_with_float64(
    pool: OperandPool, dtype: str, shape: tuple[int, int, int]
) -> None:
    assert Fp8Matmul(dtype).check(sizes(*shape), pool) <= 1.0


def test_int8_matmul_is_exact(pool: OperandPool) -> None:
    assert Int8Matmul().check(sizes(33, 64, 128), pool) == 0.0


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [(Fp8Matmul(), (1, 15, 16)), (Int8Matmul(), (16, 64, 64)), (Int8Matmul(), (32, 64, 63))],
)
def test_shape_that_is_not_a_multiple_of_the_required_size_is_refused(
    pool: OperandPool, kernel: Fp8Matmul | Int8Matmul, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(UnsupportedCaseError, match="multiples of"):
        kernel.prepare(sizes(*shape), pool)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tf32_and_host_link_are_refused_without_a_gpu(pool: OperandPool) -> None:
    with pytest.raises(UnsupportedCaseError, match="GPUs only"):
        Tf32Matmul().prepare(sizes(32, 32, 32), pool)
    with pytest.raises(UnsupportedCaseError, match="no host-to-device link"):
        HostLink("h2d").prepare({"bytes": 1024.0}, pool)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_tf32_and_host_link_are_correct_on_a_gpu(pool: OperandPool) -> None:
    assert Tf32Matmul().check(sizes(64, 64, 64), pool) <= 1.0
    for direction in ("h2d", "d2h", "both"):
        for memory in ("pinned", "pageable"):
            assert HostLink(direction, memory).check({"bytes": 2.0**20}, pool) == 0.0


def decode(batch: int, length: int, heads: int, kv_heads: int, dim: int) -> dict[str, float]:
    values = {"batch": batch, "kv_len": length, "heads": heads, "kv_heads": kv_heads}
    return {k: float(v) for k, v in (values | {"head_dim": dim}).items()}


# fp16 and fp32: the interpreter's bf16 dot is wrong in Triton 3.9; a GPU checks it natively.
@pytest.mark.parametrize(
    "kernel",
    [PagedDecode("float16"), PagedDecode("float32"), PagedDecode("fp8", compute_dtype="float16")],
    ids=lambda k: k.dtype,
)
@pytest.mark.parametrize(
    "case", [decode(1, 1, 4, 2, 64), decode(2, 33, 14, 2, 64), decode(3, 130, 8, 8, 128)], ids=str
)
def test_paged_decode_agrees_with_float64(
    pool: OperandPool, kernel: PagedDecode, case: dict[str, float]
) -> None:
    assert kernel.check(case, pool) <= 1.0


def latent(batch: int, length: int, heads: int, column: str = "kv_len") -> dict[str, float]:
    return {"batch": float(batch), column: float(length), "heads": float(heads)}


# Heads that fill no block, lengths that fill no page or split, and caches in 8 bit.
@pytest.mark.parametrize("cache", ["float16", "fp8"])
@pytest.mark.parametrize("case", [latent(1, 1, 16), latent(2, 33, 20), latent(1, 530, 3)], ids=str)
def test_latent_decode_agrees_with_float64(
    pool: OperandPool, cache: str, case: dict[str, float]
) -> None:
    assert LatentDecode(cache, "float16").check(case, pool) <= 1.0


@pytest.mark.parametrize(
    "case", [latent(1, 1, 1, "seq_len"), latent(2, 65, 2, "seq_len"), latent(1, 200, 3, "seq_len")],
    ids=str,
)  # fmt: skip
def test_latent_prefill_agrees_with_float64(pool: OperandPool, case: dict[str, float]) -> None:
    assert LatentPrefill("float16").check(case, pool) <= 1.0


def test_cost_of_latent_attention_is_that_of_the_operation(pool: OperandPool) -> None:
    """The graph and the kernel count the same FLOPs and bytes, or laws would be off by a factor."""
    for kernel, case in (
        (LatentDecode("fp8"), latent(4, 1000, 16)),
        (LatentPrefill(), latent(4, 1000, 16, "seq_len")),
        (GroupedExperts("bfloat16"), experts_case(4096)),
    ):
        columns = {name: np.array([value]) for name, value in case.items()}
        operation, cost = OPERATIONS[kernel.operation], kernel.cost(case)
        assert cost.flops == pytest.approx(float(operation.flops(columns, kernel.config_key)[0]))
        if kernel.operation != "experts":  # its kernel writes the rows of all experts apart
            counted = float(operation.bytes(columns, kernel.config_key)[0])
            assert cost.bytes == pytest.approx(counted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_latent_attention_agrees_with_float64_on_a_gpu(pool: OperandPool) -> None:
    for cache in ("bfloat16", "fp8"):
        assert LatentDecode(cache).check(latent(4, 5000, 128), pool) <= 1.0
    assert LatentPrefill().check(latent(2, 3000, 16, "seq_len"), pool) <= 1.0


@pytest.mark.parametrize("length", [1, 63, 64, 65, 300])
def test_number_of_splits_does_not_change_the_attention_result(
    pool: OperandPool, length: int
) -> None:
    """With more splits than blocks, the empty splits must contribute nothing."""
    cache, out, _ = PagedDecode("float32")._build(decode(2, length, 4, 2, 64), pool)
    whole = paged_attention(cache, torch.empty_like(out), 1)
    for splits in (2, 8):
        split = paged_attention(cache, torch.empty_like(out), splits)
        torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_paged_decode_agrees_with_float64_on_a_gpu(pool: OperandPool) -> None:
    for dtype in ("bfloat16", "fp8"):
        assert PagedDecode(dtype).check(decode(4, 5000, 32, 8, 128), pool) <= 1.0


def test_decode_attention_is_split_only_for_small_batches_of_long_contexts() -> None:
    assert splits_for(1, 8, 131_072, 132) == 32
    assert splits_for(64, 8, 131_072, 132) == 1
    assert splits_for(1, 1, 300, 132) == 1


def experts_case(tokens: int) -> dict[str, float]:
    values = {"tokens": tokens, "hidden": 96, "width": 80, "experts": 8, "top_k": 2, "ep": 1}
    return {k: float(v) for k, v in values.items()}


@pytest.mark.parametrize("distribution", ["balanced", "zipf"])
@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_grouped_experts_agree_with_float64(
    pool: OperandPool, distribution: str, tokens: int, dtype: str
) -> None:
    assert GroupedExperts(dtype, distribution).check(experts_case(tokens), pool) <= 1.0


@pytest.mark.parametrize("distribution", ["balanced", "zipf"])
def test_each_token_is_routed_once_to_each_of_its_distinct_experts(distribution: str) -> None:
    chosen = route(200, 16, 4, distribution)
    assert all(len(set(row)) == 4 for row in chosen.tolist())
    routing = tiles_of(chosen, 16, torch.device("cpu"))
    token = routing.token.numpy()
    assert np.bincount(token[token >= 0], minlength=200).tolist() == [4] * 200
    assert token.size == routing.expert.numel() * TILES[0].m


def test_zipf_routing_is_skewed_and_balanced_routing_is_even() -> None:
    loads = {
        d: np.bincount(route(400, 16, 2, d).ravel(), minlength=16) for d in ("balanced", "zipf")
    }
    assert loads["balanced"].max() == loads["balanced"].min()
    assert loads["zipf"].max() > 4 * np.median(loads["zipf"])


def test_unknown_distribution_and_top_k_above_the_expert_count_are_refused(
    pool: OperandPool,
) -> None:
    with pytest.raises(UnsupportedCaseError, match="known: balanced, zipf"):
        route(4, 8, 2, "fair")
    with pytest.raises(UnsupportedCaseError, match="top_k 9 is more than the 8"):
        GroupedExperts("float16").prepare(experts_case(4) | {"top_k": 9.0}, pool)


@pytest.mark.parametrize("items", [2, 3, 64, 1000])
def test_random_cycle_visits_every_item_once(items: int) -> None:
    following, at, seen = random_cycle(items, seed=1), 0, set()
    for _ in range(items):
        seen.add(at)
        at = int(following[at])
    assert at == 0
    assert len(seen) == items


def test_pointer_chase_is_correct_and_refuses_a_single_line(pool: OperandPool) -> None:
    assert PointerChase().check({"bytes": 2.0**16}, pool) == 0.0
    with pytest.raises(UnsupportedCaseError, match="less than two cache lines"):
        PointerChase().prepare({"bytes": 128.0}, pool)


def test_page_gather_is_correct_and_refuses_less_than_one_page(pool: OperandPool) -> None:
    assert PageGather().check({"bytes": 2.0 * 37 * PAGE_BYTES}, pool) == 0.0
    with pytest.raises(UnsupportedCaseError, match="less than one page"):
        PageGather().prepare({"bytes": 1000.0}, pool)


@pytest.mark.parametrize("data", DATA)
def test_matmul_agrees_with_float64_for_every_data_pattern(pool: OperandPool, data: str) -> None:
    assert DataMatmul("bfloat16", data).check(sizes(48, 64, 512), pool) <= 1.0


def test_fp8_quantization_uses_the_full_range_of_each_row() -> None:
    x = torch.randn(5, 256) * torch.logspace(-3, 3, 5)[:, None]
    q = fp8_quantize(x, torch.float8_e4m3fn).float()
    assert (q.abs().amax(1) == torch.finfo(torch.float8_e4m3fn).max).all()
    error = q / q.abs().amax(1, keepdim=True) - x / x.abs().amax(1, keepdim=True)
    assert float(error.abs().max()) < 1 / 16


def test_sampled_tokens_follow_the_softmax_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -50.0]]).expand(40_000, 4)
    noise = torch.empty(40_000, 4).exponential_(generator=torch.Generator().manual_seed(0))
    share = torch.bincount(sample(logits, noise), minlength=4) / 40_000
    torch.testing.assert_close(share, logits[0].softmax(0), rtol=0, atol=0.012)


@pytest.mark.parametrize("size", [4.0, 4096.0, 4 * 4097.0, 200_000.0])
@pytest.mark.parametrize("kernel", [TorchWorkingSet(), TritonWorkingSet()], ids=lambda k: k.backend)
def test_working_set_results_agree_with_float64(
    pool: OperandPool, kernel: TorchWorkingSet | TritonWorkingSet, size: float
) -> None:
    assert kernel.check({"bytes": size}, pool) <= 1.0


def test_working_set_is_read_as_many_times_as_its_cost_counts(pool: OperandPool) -> None:
    case = {"bytes": 2.0**20}
    sums = TorchWorkingSet().prepare(case, pool)[0]()
    assert isinstance(sums, torch.Tensor)
    assert sums.shape == (repeats(case),)
    assert TorchWorkingSet().cost(case).read_bytes == READ_BYTES
    with pytest.raises(UnsupportedCaseError, match="less than one element"):
        TorchWorkingSet().prepare({"bytes": 3.0}, pool)
