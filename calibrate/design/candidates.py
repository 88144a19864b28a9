"""Generate the candidate cases from which a measurement plan selects.

The candidates cover the sizes found in models: from one row to a full prefill, from a few heads to
a vocabulary of 262,144, and KV caches from a few tokens to 32k. Each function is pure: its result
depends on its arguments only. The plan removes the cases that are too slow or too big for the
device and selects from the rest by the farthest-point rule.
"""

import itertools

import numpy as np

from groundspeed.profiles.utilization import LAYERS

Candidate = dict[str, float]


def matmul_candidates(seed: int) -> list[Candidate]:
    """Random GEMM shapes: one row to a full prefill, one head to a vocabulary."""
    generator = np.random.default_rng(seed)
    count = 4000
    m = np.rint(2.0 ** generator.uniform(0.0, 14.0, count))
    # Above 16, rows are rounded up to a multiple of 16: unaligned row counts behave differently.
    m = np.where(m > 16, np.ceil(m / 16) * 16, m)
    n = np.ceil(2.0 ** generator.uniform(8.0, 18.0, count) / 64) * 64
    k = np.ceil(2.0 ** generator.uniform(8.0, 15.0, count) / 64) * 64
    return [{"m": float(a), "n": float(b), "k": float(c)} for a, b, c in zip(m, n, k, strict=True)]


STREAM_STEP_BYTES = 1536
"""[bytes] Stream sizes are multiples of this, so that each of one, two or three arrays has a
multiple of 16 elements. Triton compiles 16-byte loads only for such sizes."""


def stream_candidates(largest_bytes: float, step_bytes: int = STREAM_STEP_BYTES) -> list[Candidate]:
    """Stream sizes from 64 KiB up, two per doubling, in multiples of ``step_bytes``."""
    top = np.log2(largest_bytes)
    sizes = [round(2.0**x / step_bytes) * step_bytes for x in np.arange(16.0, top + 0.01, 0.5)]
    return [{"bytes": float(size)} for size in sizes if 0 < size <= largest_bytes]


LONGEST = {"cpu": {"seq_len": 13, "kv_len": 15}, "gpu": {"seq_len": 15, "kv_len": 17}}
"""Base-2 logarithm of the longest prompt (``seq_len``) and the longest KV cache (``kv_len``), by
kind of device."""

LARGEST_BATCH = {"cpu": 6, "gpu": 8}
"""Base-2 logarithm of the largest batch, by kind of device."""


def attention_candidates(length: str, seed: int, kind: str) -> list[Candidate]:
    """Random batches, lengths and head counts for attention.

    Parameters
    ----------
    length : {'seq_len', 'kv_len'}
        Column of the length: prompt (prefill) or KV cache (decode).
    seed : int
        Random seed.
    kind : {'cpu', 'gpu'}
        Kind of device, which sets the longest length and the largest batch.
    """
    generator = np.random.default_rng(seed + 1)
    longest, largest = float(LONGEST[kind][length]), float(LARGEST_BATCH[kind])
    cases = []
    for _ in range(3000):
        kv_heads = 2.0 ** generator.integers(0, 6)
        group = float(generator.choice([1, 2, 4, 5, 7, 8]))
        cases.append(
            {
                "batch": float(round(2.0 ** generator.uniform(0.0, largest))),
                length: float(round(2.0 ** generator.uniform(5.0, longest) / 16) * 16),
                "heads": kv_heads * group,
                "kv_heads": kv_heads,
                "head_dim": float(generator.choice([64, 128])),
            }
        )
    return [c for c in cases if c["heads"] <= 128]


ELEMENTWISE_WIDTHS: dict[str, tuple[float, ...]] = {
    "rms_norm": (512, 1024, 2048, 4096, 8192),
    "layer_norm": (512, 1024, 2048, 4096, 8192),
    "residual_add": (512, 1024, 2048, 4096, 8192),
    "silu_mul": (4096, 8192, 16384, 32768, 65536),
    "gelu": (2048, 4096, 8192, 16384, 32768),
    "rotary": (512, 1024, 2048, 4096, 8192),
    "kv_write": (128, 512, 1024, 2048, 4096),
    "embed": (512, 1024, 2048, 4096, 8192),
    "argmax": (32768, 65536, 131072, 262144),
    "sample": (32768, 65536, 131072, 262144),
    "fp8_quantize": (1024, 2048, 4096, 8192, 16384),
}
"""Row widths of the elementwise operations, as found in models."""


def elementwise_candidates(op: str) -> list[Candidate]:
    """Row counts from one to a prefill, with the row widths found in models."""
    rows = [2.0**x for x in range(8 if op in ("argmax", "sample") else 14)]
    return [
        {"rows": r, "width": w}
        for r, w in itertools.product(rows, ELEMENTWISE_WIDTHS[op])
        if r * w <= 2.0**25
    ]


EXPERT_SHAPES: tuple[Candidate, ...] = (
    {"hidden": 4096.0, "width": 14336.0, "experts": 8.0, "top_k": 2.0},
    {"hidden": 4096.0, "width": 3584.0, "experts": 8.0, "top_k": 2.0},
    {"hidden": 2048.0, "width": 768.0, "experts": 128.0, "top_k": 8.0},
    {"hidden": 4096.0, "width": 768.0, "experts": 128.0, "top_k": 8.0},
    {"hidden": 7168.0, "width": 256.0, "experts": 256.0, "top_k": 8.0},
)
"""Sizes of the experts of Mixtral-8x7B (few, wide; whole and split over 4 devices), Qwen3-30B-A3B
and Qwen3-235B-A22B split over 2 (many, narrow), and DeepSeek-V3 split over 8 (most, narrowest),
from their config.json."""

PROJECTION_ROWS = (1, 16, 64, 512, 4096)
TENSOR_PARALLEL = (1, 2, 4, 8)
ALIGNMENT_WIDTH = 4096.0
"""n and k of the GEMMs that show the effect of unaligned row counts."""


def projection_candidates() -> list[Candidate]:
    """GEMM shapes of the layers of real models, unsplit and split over 2, 4 and 8 devices."""
    shapes: set[tuple[int, int]] = set()
    for hidden, qkv, attention, mlp in LAYERS.values():
        for parts in TENSOR_PARALLEL:
            shapes |= {
                (qkv // parts, hidden),
                (hidden, attention // parts),
                (2 * mlp // parts, hidden),
                (hidden, mlp // parts),
            }
    return [
        {"m": float(m), "n": float(n), "k": float(k)}
        for m, (n, k) in itertools.product(PROJECTION_ROWS, sorted(shapes))
    ]


def alignment_candidates() -> list[Candidate]:
    """GEMMs with 2^i and 2^i + 1 rows, which show the cost of crossing the edge of a tile."""
    rows = [float(2**i + extra) for i in range(4, 13) for extra in (0, 1)]
    return [{"m": m, "n": ALIGNMENT_WIDTH, "k": ALIGNMENT_WIDTH} for m in rows]


EXPERT_TOKENS = (1.0, 8.0, 48.0, 256.0, 1024.0, 4096.0, 12288.0)
"""Token counts from one to a prefill."""


def expert_candidates() -> list[Candidate]:
    """Token counts and sizes of the experts of one layer on one device."""
    return [{"tokens": t, **shape, "ep": 1.0} for shape in EXPERT_SHAPES for t in EXPERT_TOKENS]


def latent_candidates(length: str, seed: int) -> list[Candidate]:
    """Random batches, lengths and head counts for latent attention on a GPU.

    Parameters
    ----------
    length : {'seq_len', 'kv_len'}
        Column of the length: prompt (prefill) or cache (decode).
    seed : int
        Random seed.
    """
    generator = np.random.default_rng(seed + 2)
    longest, largest = float(LONGEST["gpu"][length]), float(LARGEST_BATCH["gpu"])
    return [
        {
            "batch": float(round(2.0 ** generator.uniform(0.0, largest))),
            length: float(round(2.0 ** generator.uniform(5.0, longest) / 16) * 16),
            "heads": float(generator.choice([16, 32, 64, 128])),  # 128 heads on 8 to 1 devices
        }
        for _ in range(2000)
    ]


def latency_candidates(cache_bytes: float) -> list[Candidate]:
    """Working-set sizes from the nearest cache to eight times the last-level cache."""
    top = np.log2(8.0 * cache_bytes)
    return [{"bytes": float(2 ** round(x))} for x in np.linspace(14.0, top, 9)]
