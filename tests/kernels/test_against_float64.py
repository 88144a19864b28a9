"""Every kernel against float64 on awkward shapes; the checks must also detect wrong results."""

import pytest
import torch

from groundspeed.kernels.attention.attention import DecodeAttention, PrefillAttention
from groundspeed.kernels.decoder.elementwise import ITEMS_READ_WRITTEN, Elementwise
from groundspeed.kernels.kernel import UnsupportedCaseError, deviation
from groundspeed.kernels.launch.launch import Launch
from groundspeed.kernels.matmul import matmul
from groundspeed.kernels.matmul.matmul import TorchMatmul, check_product
from groundspeed.kernels.memory import stream
from groundspeed.kernels.memory.stream import ARRAYS, TorchStream, check_stream
from groundspeed.kernels.operands import OperandPool

triton = pytest.importorskip("triton", reason="triton is not installed")

from groundspeed.kernels.matmul.matmul_triton import TILES, Tile, TritonMatmul  # noqa: E402
from groundspeed.kernels.memory.stream_triton import TritonStream  # noqa: E402

SHAPES = [(1, 1, 1), (1, 64, 64), (7, 13, 17), (17, 65, 129), (33, 127, 257), (3, 5, 8193)]


def sizes(m: int, n: int, k: int) -> dict[str, float]:
    return {"m": float(m), "n": float(n), "k": float(k)}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_matmul_agrees_with_float64(
    pool: OperandPool, shape: tuple[int, int, int], dtype: str
) -> None:
    assert TorchMatmul(dtype).check(sizes(*shape), pool) <= 1.0


# The interpreter's dot is wrong for bfloat16 in Triton 3.9; a GPU checks it natively.
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_triton_matmul_agrees_with_float64(
    pool: OperandPool, shape: tuple[int, int, int], dtype: str
) -> None:
    assert TritonMatmul(dtype).check(sizes(*shape), pool) <= 1.0


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_triton_matmul_agrees_with_float64_for_every_tile(pool: OperandPool, tile: Tile) -> None:
    kernel = TritonMatmul("float16", tile=tile)
    assert kernel.check(sizes(130, 264, 144), pool) <= 1.0
    assert kernel.check(sizes(3, 8, 8), pool) <= 1.0


def test_persistent_tile_refuses_rows_that_are_not_aligned(pool: OperandPool) -> None:
    kernel = TritonMatmul("float16", tile=TILES[-1])
    with pytest.raises(UnsupportedCaseError, match="not aligned"):
        kernel.check(sizes(16, 257, 128), pool)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("shape", [*SHAPES, (4096, 4096, 4096), (1, 151936, 896)], ids=str)
def test_triton_matmul_bfloat16_agrees_with_float64_on_a_gpu(
    pool: OperandPool, shape: tuple[int, int, int]
) -> None:
    assert TritonMatmul("bfloat16").check(sizes(*shape), pool) <= 1.0


def test_check_product_detects_an_element_that_was_not_written(device: torch.device) -> None:
    x, w = torch.randn(40, 32, device=device), torch.randn(24, 32, device=device)
    y = x @ w.T
    assert check_product(y, x, w) <= 1.0
    y[39, 23] = float("nan")
    assert check_product(y, x, w) == float("inf")


def test_check_product_detects_missing_terms_of_the_sum(device: torch.device) -> None:
    x, w = torch.randn(64, 512, device=device), torch.randn(64, 512, device=device)
    without_last_terms = x[:, :-4] @ w[:, :-4].T
    assert check_product(without_last_terms, x, w) > 1.0


@pytest.mark.parametrize("mode", ARRAYS)
@pytest.mark.parametrize("size", [24.0, 1000.0, 4096.0 * 12, 1e6])
@pytest.mark.parametrize("kernel", [TorchStream, TritonStream])
def test_stream_results_agree_with_float64(
    pool: OperandPool, kernel: "type[TorchStream | TritonStream]", mode: str, size: float
) -> None:
    assert kernel(mode).check({"bytes": size}, pool) <= 1.0


def test_check_stream_detects_a_missing_last_element_and_a_wrong_result() -> None:
    a = torch.randn(200_000)
    out = torch.full_like(a, float("nan"))
    out[:-1] = a[:-1]
    assert check_stream("copy", out, [a]) == float("inf")
    assert check_stream("triad", a.clone(), [a, a]) > 1.0


def test_stream_without_an_element_is_refused(pool: OperandPool) -> None:
    with pytest.raises(UnsupportedCaseError, match="less than one element"):
        TorchStream("triad").prepare({"bytes": 4.0}, pool)


def test_streams_that_write_leave_the_random_operands_unchanged(pool: OperandPool) -> None:
    before = pool.take((1024,), torch.float32).clone()
    for mode in ARRAYS:
        for call in TorchStream(mode).prepare({"bytes": 2.0**22}, pool):
            call()
    block = pool._normal.blocks[torch.float32]
    assert abs(float(block.mean())) < 0.01
    assert float(block.std()) == pytest.approx(1.0, abs=0.01)
    assert float(before.abs().max()) > 0.5


@pytest.mark.parametrize("op", ITEMS_READ_WRITTEN)
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_elementwise_agrees_with_float64(pool: OperandPool, op: str, rows: int) -> None:
    assert Elementwise(op, "bfloat16").check({"rows": float(rows), "width": 896.0}, pool) <= 1.0
    assert Elementwise(op, "float32").check({"rows": float(rows), "width": 1024.0}, pool) <= 1.0


def test_an_unknown_elementwise_operation_is_refused(pool: OperandPool) -> None:
    with pytest.raises(UnsupportedCaseError, match="known: rms_norm"):
        Elementwise("softplus", "bfloat16").prepare({"rows": 1.0, "width": 64.0}, pool)


@pytest.mark.parametrize("heads", [(4, 4), (14, 2), (8, 1)], ids=str)
@pytest.mark.parametrize("length", [1, 2, 65, 130])
def test_attention(pool: OperandPool, heads: tuple[int, int], length: int) -> None:
    common = {"batch": 2.0, "heads": float(heads[0]), "kv_heads": float(heads[1]), "head_dim": 64.0}
    assert PrefillAttention("bfloat16").check(common | {"seq_len": float(length)}, pool) <= 1.0
    assert DecodeAttention("bfloat16").check(common | {"kv_len": float(length)}, pool) <= 1.0


def test_heads_not_divisible_by_kv_heads_are_refused(pool: OperandPool) -> None:
    case = {"batch": 1.0, "heads": 14.0, "kv_heads": 4.0, "head_dim": 64.0, "kv_len": 8.0}
    with pytest.raises(UnsupportedCaseError, match="not a multiple of"):
        DecodeAttention("bfloat16").prepare(case, pool)


def test_launch_kernel_passes_its_check(pool: OperandPool) -> None:
    assert Launch().check({}, pool) == 0.0


def test_deviation_of_a_nan_is_infinite() -> None:
    good = torch.ones(3)
    assert deviation(good, good.double(), 1.0, torch.float32) == 0.0
    bad = torch.tensor([1.0, float("nan"), 1.0])
    assert deviation(bad, good.double(), 1.0, torch.float32) == float("inf")


def test_rotation_uses_distinct_weights_that_exceed_the_cache(pool: OperandPool) -> None:
    """No two calls share a weight, and one round of calls reads more than ``pool.cold_bytes``."""
    case = sizes(1, 256, 256)
    kernel = TorchMatmul("float32")
    calls = kernel.prepare(case, pool)
    assert len(calls) * kernel.cost(case).read_bytes >= pool.cold_bytes
    weights = [c.__closure__[0].cell_contents.data_ptr() for c in calls]  # type: ignore[attr-defined]
    assert len(set(weights)) == len(weights)


def test_operand_larger_than_the_pool_is_refused_with_both_sizes(pool: OperandPool) -> None:
    with pytest.raises(MemoryError, match=r"128 MiB does not fit in the operand pool of 64 MiB"):
        pool.take((2**25,), torch.float32)


def test_kernel_operation_names_match_their_modules() -> None:
    assert matmul.TorchMatmul("float32").operation == "matmul"
    assert stream.TorchStream("read").operation == "stream"
