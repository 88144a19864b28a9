"""Every kernel's check must notice a wrong result: zeros, missing halves, moved rows and tiles.

The operation that a kernel calls is replaced by one whose result is wrong in one way, from small to
the largest sizes that a CPU can compute in a test. A check that accepts such a mutant would accept
a GPU kernel that does half of the work, and report twice its speed.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from groundspeed.kernels.attention import attention
from groundspeed.kernels.attention.attention import DecodeAttention, PrefillAttention
from groundspeed.kernels.decoder import elementwise
from groundspeed.kernels.decoder.elementwise import Elementwise
from groundspeed.kernels.kernel import Kernel
from groundspeed.kernels.matmul import low_precision, matmul
from groundspeed.kernels.matmul.low_precision import Fp8Matmul, Int8Matmul
from groundspeed.kernels.matmul.matmul import TorchMatmul
from groundspeed.kernels.memory import gather, stream
from groundspeed.kernels.memory.gather import PageGather
from groundspeed.kernels.memory.stream import TorchStream
from groundspeed.kernels.memory.working_set import TorchWorkingSet
from groundspeed.kernels.operands import OperandPool

pytest.importorskip("triton", reason="triton is not installed")

from groundspeed.kernels.attention import decode_triton, latent_triton
from groundspeed.kernels.attention.decode_triton import PagedDecode
from groundspeed.kernels.attention.latent_triton import LatentDecode, LatentPrefill
from groundspeed.kernels.experts import experts_triton
from groundspeed.kernels.experts.experts_triton import GroupedExperts
from groundspeed.kernels.matmul import matmul_triton
from groundspeed.kernels.matmul.matmul_triton import TritonMatmul
from groundspeed.kernels.memory import stream_triton, working_set_triton
from groundspeed.kernels.memory.stream_triton import TritonStream
from groundspeed.kernels.memory.working_set_triton import TritonWorkingSet

Tensor = torch.Tensor
Mutant = Callable[[Tensor], Tensor]
TILE = 64
"""Size of a tile that is lost or misplaced: the smallest of the kernels' large tiles."""


def zeros(y: Tensor) -> Tensor:
    return torch.zeros_like(y)


def second_half_left_out(y: Tensor) -> Tensor:
    """Along the longest dimension; what is not written holds an older result."""
    axis = max(range(y.dim()), key=lambda i: y.shape[i])
    half = y.shape[axis] // 2
    out = y.clone()
    rest = out.narrow(axis, half, y.shape[axis] - half)
    rest.copy_(rest.flip(axis).roll(1, axis))
    return out


def rolled(y: Tensor) -> Tensor:
    axis = max(range(y.dim()), key=lambda i: y.shape[i])
    return y.roll(1, axis)


def swapped_tiles(y: Tensor) -> Tensor:
    """Swap a tile in the middle with its neighbour, along the longest dimension."""
    axis = max(range(y.dim()), key=lambda i: y.shape[i])
    size = min(TILE, y.shape[axis] // 3)
    at = (y.shape[axis] // 2) // size * size
    out = y.clone()
    a, b = (y.narrow(axis, start, size) for start in (at - size, at))
    out.narrow(axis, at - size, size).copy_(b)
    out.narrow(axis, at, size).copy_(a)
    return out


def stale(y: Tensor) -> Tensor:
    """Of the same distribution, from other operands."""
    return y.flatten().roll(y.numel() // 3 + 1).view(y.shape)


MUTANTS: tuple[Mutant, ...] = (zeros, second_half_left_out, rolled, swapped_tiles, stale)


@pytest.fixture(scope="module")
def big_pool() -> OperandPool:
    return OperandPool(torch.device("cpu"), pool_bytes=2**29, cold_bytes=2**20)


def wrapped(real: Callable[..., Any], mutant: Mutant) -> Callable[..., Any]:
    """Return a function whose result is that of the real one, mutated."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return mutant(real(*args, **kwargs))

    return call


def rejected(kernel: Kernel, case: dict[str, float], pool: OperandPool) -> bool:
    with torch.inference_mode():
        return not kernel.check(case, pool) <= 1.0


def accepted(kernel: Kernel, case: dict[str, float], pool: OperandPool) -> bool:
    return not rejected(kernel, case, pool)


GEMMS = [(1, 4096, 1024), (16, 151936, 256), (192, 1024, 1024), (4096, 512, 512), (2048, 3072, 64)]


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("sizes", GEMMS, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gemm_check_rejects(
    big_pool: OperandPool, sizes: tuple[int, int, int], dtype: str, mutant: Mutant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    case = dict(zip("mnk", map(float, sizes), strict=True))
    kernel = TorchMatmul(dtype)
    assert accepted(kernel, case, big_pool)
    monkeypatch.setattr(matmul.F, "linear", wrapped(matmul.F.linear, mutant))
    assert rejected(kernel, case, big_pool)


@pytest.mark.parametrize("sizes", GEMMS, ids=str)
def test_gemm_check_rejects_half_of_the_sum(
    big_pool: OperandPool, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = dict(zip("mnk", map(float, sizes), strict=True))
    real = matmul.F.linear

    def half(x: Tensor, w: Tensor) -> Tensor:
        return real(x[:, : x.shape[1] // 2], w[:, : x.shape[1] // 2])

    monkeypatch.setattr(matmul.F, "linear", half)
    assert rejected(TorchMatmul("bfloat16"), case, big_pool)


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("kernel", [Fp8Matmul("fp8"), Fp8Matmul("fp8_row"),
                                    Fp8Matmul("fp8", "exact")], ids=str)  # fmt: skip
@pytest.mark.parametrize("sizes", [(32, 4096, 512), (512, 256, 4096)], ids=str)
def test_fp8_check_rejects(
    big_pool: OperandPool, kernel: Fp8Matmul, sizes: tuple[int, int, int], mutant: Mutant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    case = dict(zip("mnk", map(float, sizes), strict=True))
    assert accepted(kernel, case, big_pool)
    real = low_precision.scaled_product
    monkeypatch.setattr(low_precision, "scaled_product", wrapped(real, mutant))
    assert rejected(kernel, case, big_pool)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_int8_check_rejects(
    big_pool: OperandPool, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {"m": 256.0, "n": 1024.0, "k": 512.0}
    assert accepted(Int8Matmul(), case, big_pool)
    real = torch._int_mm  # pyright: ignore[reportPrivateImportUsage]
    monkeypatch.setattr(torch, "_int_mm", wrapped(real, mutant))
    assert rejected(Int8Matmul(), case, big_pool)


def heads(batch: int, heads: int, kv_heads: int, **length: int) -> dict[str, float]:
    values = {"batch": batch, **length, "heads": heads, "kv_heads": kv_heads, "head_dim": 64}
    return {k: float(v) for k, v in values.items()}


def half_of_the_cache(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        half = k.shape[2] // 2
        return real(q, k[:, :, :half], v[:, :, :half])

    return call


DECODES = [heads(1, 4, 1, kv_len=512), heads(4, 8, 2, kv_len=8192), heads(1, 4, 1, kv_len=32768),
           heads(1, 2, 1, kv_len=131072)]  # fmt: skip


@pytest.mark.parametrize("mutant", [zeros, stale])
@pytest.mark.parametrize("case", DECODES, ids=lambda c: f"kv_len={c['kv_len']:.0f}")
def test_decode_attention_check_rejects(
    big_pool: OperandPool, case: dict[str, float], mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = DecodeAttention("bfloat16")
    assert accepted(kernel, case, big_pool)
    monkeypatch.setattr(attention, "attend_decode", wrapped(attention.attend_decode, mutant))
    assert rejected(kernel, case, big_pool)


@pytest.mark.parametrize("case", DECODES, ids=lambda c: f"kv_len={c['kv_len']:.0f}")
def test_decode_attention_check_rejects_half_of_the_cache(
    big_pool: OperandPool, case: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 32k tokens on, a fixed tolerance accepted it, and from 65k on all zeros."""
    monkeypatch.setattr(attention, "attend_decode", half_of_the_cache(attention.attend_decode))
    assert rejected(DecodeAttention("bfloat16"), case, big_pool)


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("case", [heads(2, 4, 2, seq_len=256), heads(1, 2, 1, seq_len=4096)],
                         ids=lambda c: f"seq_len={c['seq_len']:.0f}")  # fmt: skip
def test_prefill_attention_check_rejects(
    big_pool: OperandPool, case: dict[str, float], mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = PrefillAttention("bfloat16")
    assert accepted(kernel, case, big_pool)
    monkeypatch.setattr(attention, "attend_prefill", wrapped(attention.attend_prefill, mutant))
    assert rejected(kernel, case, big_pool)


@pytest.mark.parametrize("mutant", [zeros, stale])
@pytest.mark.parametrize("dtype", ["float16", "fp8"])
def test_paged_decode_check_rejects(
    big_pool: OperandPool, dtype: str, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, case = PagedDecode(dtype, "float16"), heads(2, 8, 2, kv_len=2048)
    assert accepted(kernel, case, big_pool)
    real = decode_triton.paged_attention
    monkeypatch.setattr(decode_triton, "paged_attention", wrapped(real, mutant))
    assert rejected(kernel, case, big_pool)


def test_paged_decode_check_rejects_half_of_the_splits(
    big_pool: OperandPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = decode_triton.paged_attention

    def half(cache: Any, out: Tensor, splits: int) -> Tensor:
        lengths = (cache.lengths // 2).to(torch.int32)
        shorter = decode_triton.PagedCache(cache.q, cache.k, cache.v, cache.table, lengths)
        return real(shorter, out, splits)

    monkeypatch.setattr(decode_triton, "paged_attention", half)
    assert rejected(PagedDecode("float16"), heads(1, 4, 1, kv_len=4096), big_pool)


LATENT = {"batch": 2.0, "kv_len": 700.0, "heads": 48.0}


@pytest.mark.parametrize("mutant", [zeros, second_half_left_out, rolled, stale])
@pytest.mark.parametrize("cache", ["float16", "fp8"])
def test_latent_decode_check_rejects(
    big_pool: OperandPool, cache: str, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = LatentDecode(cache, "float16")
    assert accepted(kernel, LATENT, big_pool)
    real = latent_triton.latent_attention
    monkeypatch.setattr(latent_triton, "latent_attention", wrapped(real, mutant))
    assert rejected(kernel, LATENT, big_pool)


def test_latent_decode_check_rejects_half_of_the_context(
    big_pool: OperandPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = latent_triton.latent_attention

    def half(cache: Any, out: Tensor, splits: int) -> Tensor:
        lengths = (cache.lengths // 2).to(torch.int32)
        return real(replace(cache, lengths=lengths), out, splits)

    monkeypatch.setattr(latent_triton, "latent_attention", half)
    assert rejected(LatentDecode("float16", "float16"), LATENT, big_pool)


@pytest.mark.parametrize("mutant", [zeros, second_half_left_out, rolled, swapped_tiles, stale])
def test_latent_prefill_check_rejects(
    big_pool: OperandPool, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, case = LatentPrefill("float16"), {"batch": 1.0, "seq_len": 200.0, "heads": 3.0}
    assert accepted(kernel, case, big_pool)
    real = latent_triton.latent_prefill
    monkeypatch.setattr(latent_triton, "latent_prefill", wrapped(real, mutant))
    assert rejected(kernel, case, big_pool)


@pytest.mark.parametrize("mutant", [zeros, second_half_left_out, rolled, swapped_tiles, stale])
@pytest.mark.parametrize("mode", ["copy", "triad"])
@pytest.mark.parametrize("size", [2.0**16 + 512, 3.0 * 2**24])
def test_stream_check_rejects(
    big_pool: OperandPool, mode: str, size: float, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, case = TorchStream(mode), {"bytes": size}
    assert accepted(kernel, case, big_pool)
    real = stream.stream_call

    def call(mode: str, inputs: list[Tensor], outputs: list[Tensor]) -> Callable[[], Tensor]:
        run = real(mode, inputs, outputs)

        def mutated() -> Tensor:
            result = run()
            outputs[0].copy_(mutant(outputs[0]))
            return result

        return mutated

    monkeypatch.setattr(stream, "stream_call", call)
    assert rejected(kernel, case, big_pool)


@pytest.mark.parametrize("mode", ["read", "write", "copy", "triad"])
@pytest.mark.parametrize("size", [2.0**16 + 512, 3.0 * 2**24])
def test_stream_check_rejects_half_of_the_work(
    big_pool: OperandPool, mode: str, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stream.stream_call

    def half(mode: str, inputs: list[Tensor], outputs: list[Tensor]) -> Callable[[], Tensor]:
        return real(mode, [a[: a.numel() // 2] for a in inputs],
                    [a[: a.numel() // 2] for a in outputs])  # fmt: skip

    monkeypatch.setattr(stream, "stream_call", half)
    assert rejected(TorchStream(mode), {"bytes": size}, big_pool)


class Corrupted:
    """A Triton kernel whose output is mutated after it has run."""

    def __init__(self, real: Any, output: str, mutant: Mutant) -> None:
        self.real, self.output, self.mutant = real, output, mutant

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            self.real[grid](*args, **kwargs)
            out = args[self.real.arg_names.index(self.output)]
            out.copy_(self.mutant(out))

        return launch


class HalfGrid:
    """A Triton kernel of which only the first half of the programs run."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.real[(max(1, grid[0] // 2), *grid[1:])]  # type: ignore[no-any-return]


@pytest.mark.parametrize("mutant", [zeros, second_half_left_out, rolled, swapped_tiles, stale])
@pytest.mark.parametrize(("mode", "output"), [("read", "sums_ptr"), ("copy", "out_ptr"),
                                              ("triad", "out_ptr")])  # fmt: skip
def test_triton_stream_check_rejects(
    big_pool: OperandPool, mode: str, output: str, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, case = TritonStream(mode), {"bytes": 2.0**20 * 3}
    assert accepted(kernel, case, big_pool)
    name = f"{mode}_kernel"
    real = getattr(stream_triton, name)
    monkeypatch.setattr(stream_triton, name, Corrupted(real, output, mutant))
    assert rejected(kernel, case, big_pool)


@pytest.mark.parametrize("mode", ["read", "write", "copy", "triad"])
def test_triton_stream_check_rejects_half_of_the_programs(
    big_pool: OperandPool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{mode}_kernel"
    monkeypatch.setattr(stream_triton, name, HalfGrid(getattr(stream_triton, name)))
    assert rejected(TritonStream(mode), {"bytes": 2.0**19 * 3}, big_pool)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_triton_gemm_check_rejects(
    big_pool: OperandPool, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, case = TritonMatmul("float16"), {"m": 256.0, "n": 512.0, "k": 128.0}
    assert accepted(kernel, case, big_pool)
    real = matmul_triton.triton_matmul

    def mutated(x: Tensor, w: Tensor, y: Tensor, tile: Any = None) -> Tensor:
        return y.copy_(mutant(real(x, w, y, tile)))

    monkeypatch.setattr(matmul_triton, "triton_matmul", mutated)
    assert rejected(kernel, case, big_pool)


LAYER = {"hidden": 128.0, "width": 128.0, "experts": 4.0, "top_k": 2.0, "ep": 1.0}


@pytest.mark.parametrize("mutant", [zeros, second_half_left_out, rolled, swapped_tiles, stale])
@pytest.mark.parametrize("tokens", [8.0, 96.0])
@pytest.mark.parametrize("step", [0, 1], ids=["gate-up", "down"])
def test_experts_check_rejects(
    big_pool: OperandPool, tokens: float, step: int, mutant: Mutant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kernel = GroupedExperts("float16", "zipf")
    case = {"tokens": tokens, **LAYER}
    assert accepted(kernel, case, big_pool)
    real, calls = experts_triton.grouped_product, []

    def mutated(x: Tensor, w: Tensor, y: Tensor, *rest: Any) -> Tensor:
        result = real(x, w, y, *rest)
        calls.append(1)
        return y.copy_(mutant(y)) if (len(calls) - 1) % 2 == step else result

    monkeypatch.setattr(experts_triton, "grouped_product", mutated)
    assert rejected(kernel, case, big_pool)


def test_experts_check_rejects_half_of_the_tiles(
    big_pool: OperandPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = GroupedExperts("float16", "zipf")
    monkeypatch.setattr(experts_triton, "grouped_kernel", HalfGrid(experts_triton.grouped_kernel))
    assert rejected(kernel, {"tokens": 96.0, **LAYER}, big_pool)


@pytest.mark.parametrize("kernel", [TorchWorkingSet(), TritonWorkingSet()], ids=str)
def test_working_set_check_rejects_half_of_the_reads(
    big_pool: OperandPool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {"bytes": 2.0**20}
    assert accepted(kernel, case, big_pool)
    real_triton = working_set_triton.working_set_kernel

    class Half:
        def __getitem__(self, grid: Any) -> Callable[..., None]:
            def launch(x: Tensor, sums: Tensor, items: int, repeats: int, *rest: Any,
                       **kwargs: Any) -> None:  # fmt: skip
                real_triton[grid](x, sums, items // 2, repeats, *rest, **kwargs)

            return launch

    monkeypatch.setattr(working_set_triton, "working_set_kernel", Half())
    if kernel.backend == "torch":
        total = torch.Tensor.sum

        def half(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            short = self[..., : self.shape[-1] // 2] if self.dim() == 2 else self
            return total(short, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, "sum", half)
    assert rejected(kernel, case, big_pool)


@pytest.mark.parametrize("mutant", [zeros, second_half_left_out, rolled, swapped_tiles, stale])
def test_gather_check_rejects(
    big_pool: OperandPool, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, case = PageGather("float32"), {"bytes": 2.0**22}
    assert accepted(kernel, case, big_pool)
    real = torch.index_select

    def mutated(*args: Any, out: Tensor, **kwargs: Any) -> Tensor:
        return out.copy_(mutant(real(*args, out=out, **kwargs)))

    monkeypatch.setattr(gather.torch, "index_select", mutated)
    assert rejected(kernel, case, big_pool)


@pytest.mark.parametrize("mutant", [zeros, rolled, swapped_tiles, stale])
@pytest.mark.parametrize("op", ["rms_norm", "silu_mul", "rotary", "embed", "gelu"])
@pytest.mark.parametrize("rows", [256.0, 8192.0])
def test_elementwise_check_rejects(
    big_pool: OperandPool, op: str, rows: float, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, case = Elementwise(op, "bfloat16"), {"rows": rows, "width": 128.0}
    assert accepted(kernel, case, big_pool)
    real = getattr(elementwise, op)

    def mutated(*args: Tensor) -> Tensor:
        result: Tensor = real(*args)
        # The reference runs the same function in float64; only the measured one is mutated.
        return result if result.dtype == torch.float64 else mutant(result)

    monkeypatch.setattr(elementwise, op, mutated)
    assert rejected(kernel, case, big_pool)
