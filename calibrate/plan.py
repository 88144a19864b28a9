"""What a calibration measures: the cases of each kernel, chosen before anything is timed.

A mode is a budget: how many points for each operation, how long one call may take, how precise a
median must be. Candidates are spread over the box in which models live (one row to a full
prefill, a head of 64 to a vocabulary of 262,144), those too slow for this device are left out, and
the farthest-point rule picks among the rest. A plan is a pure function of device, mode, seed and
the few probe rates that say how fast the device roughly is, so a killed run finds the same plan.
"""

import importlib.util
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from groundspeed.calibrate.points import farthest_points
from groundspeed.calibrate.stopping import StopRule
from groundspeed.kernels.attention import DecodeAttention, PrefillAttention
from groundspeed.kernels.glue import Glue
from groundspeed.kernels.kernel import Kernel
from groundspeed.kernels.launch import Launch
from groundspeed.kernels.matmul import TorchMatmul
from groundspeed.kernels.stream import ARRAYS, TorchStream
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.schema import Device

Limit = Literal["compute", "memory"]


@dataclass(frozen=True)
class Yardsticks:
    """Fixed cases of a kind of device, each long enough to see its clock and its neighbours."""

    probe: Mapping[str, float]
    """Says roughly how fast a data type is."""
    attention_probe: Mapping[str, float]
    references: Mapping[Limit, Mapping[str, float]]
    """The products that are repeated throughout a run to see the machine drift."""


def _attention(batch: int, length: int, heads: int, dim: int) -> dict[str, float]:
    values = {"batch": batch, "seq_len": length, "heads": heads, "kv_heads": heads // 4}
    return {k: float(v) for k, v in (values | {"head_dim": dim}).items()}


CPU_YARDSTICKS = Yardsticks(
    probe={"m": 256.0, "n": 1024.0, "k": 1024.0},
    attention_probe=_attention(1, 512, 16, 64),
    references={
        "compute": {"m": 192.0, "n": 1024.0, "k": 1024.0},
        "memory": {"m": 1.0, "n": 8192.0, "k": 1024.0},
    },
)
GPU_YARDSTICKS = Yardsticks(
    probe={"m": 4096.0, "n": 4096.0, "k": 4096.0},
    attention_probe=_attention(4, 4096, 32, 128),
    references={
        "compute": {"m": 4096.0, "n": 8192.0, "k": 4096.0},
        "memory": {"m": 1.0, "n": 65536.0, "k": 8192.0},
    },
)


def yardsticks(kind: str) -> Yardsticks:
    """The fixed cases for a processor or a GPU."""
    return CPU_YARDSTICKS if kind == "cpu" else GPU_YARDSTICKS


@dataclass(frozen=True)
class Mode:
    """How much a calibration may do."""

    name: str
    matmul_points: Mapping[str, int]
    """Points of each data type."""
    stream_points: int
    attention_points: int
    glue_points: int
    longest_call_s: float
    rule: StopRule
    largest_operand_bytes: float = 2.0**29
    """On a processor; a vocabulary times a hidden size in 16 bit."""
    largest_gpu_operand_bytes: float = 2.0**32


QUICK = Mode(
    name="quick",
    matmul_points={"bfloat16": 40, "float16": 10, "float32": 10},
    stream_points=7,
    attention_points=18,
    glue_points=10,
    longest_call_s=0.05,
    rule=StopRule(min_samples=10, min_time_s=0.02, half_width_fraction=0.02, time_cap_s=0.4),
)
STANDARD = Mode(
    name="standard",
    matmul_points={"bfloat16": 96, "float16": 24, "float32": 24},
    stream_points=12,
    attention_points=40,
    glue_points=16,
    longest_call_s=0.2,
    rule=StopRule(min_samples=15, min_time_s=0.05, half_width_fraction=0.01, time_cap_s=1.5),
)
MODES = {m.name: m for m in (QUICK, STANDARD)}


@dataclass(frozen=True)
class PlannedCase:
    """One case to measure, and the name it has in the journal."""

    key: str
    kernel: Kernel
    case: Mapping[str, float]


def planned(kernel: Kernel, case: Mapping[str, float], prefix: str = "") -> PlannedCase:
    """Name a case."""
    shape = " ".join(f"{k}={v:g}" for k, v in case.items())
    name = " ".join((kernel.operation, *kernel.regime.values(), kernel.backend))
    return PlannedCase(f"{prefix}{name} {shape}".strip(), kernel, case)


OPERANDS = 2.0
"""A case moves this many operands of the largest size at most."""


@dataclass(frozen=True)
class Limits:
    """What keeps a case from being too slow or too big."""

    seconds: float
    flops_per_s: Mapping[str, float]
    """Probed matrix rate of each data type."""
    attention_flops_per_s: float
    """Probed rate of prefill attention."""
    operand_bytes: float
    """Largest single operand."""

    def allows(self, kernel: Kernel, case: Mapping[str, float]) -> bool:
        """Whether a case fits the time and memory of one call."""
        cost = kernel.cost(case)
        rate = self.flops_per_s.get(kernel.regime.get("dtype", ""), max(self.flops_per_s.values()))
        if kernel.operation.startswith("attention"):
            rate = self.attention_flops_per_s
        return cost.flops / rate <= self.seconds and cost.bytes <= OPERANDS * self.operand_bytes


def make_plan(device: Device, mode: Mode, limits: Limits, *, seed: int) -> list[PlannedCase]:
    """All cases of a calibration, in the random order they are to be measured in.

    Returns
    -------
    list of PlannedCase
        Shuffled: a machine that warms up or is disturbed for a while must not bend one curve.
    """
    cases: list[PlannedCase] = []
    for dtype, budget in mode.matmul_points.items():
        if dtype in limits.flops_per_s:
            kernel = TorchMatmul(dtype)
            cases += _choose(kernel, _matmul_candidates(seed), budget, limits, seed)
    for stream in ARRAYS:
        cases += _choose(
            TorchStream(stream), _stream_candidates(limits), mode.stream_points, limits, seed
        )
    budget = mode.attention_points
    cases += _choose(
        PrefillAttention("bfloat16"), _attention_candidates("seq_len", seed), budget, limits, seed
    )
    cases += _choose(
        DecodeAttention("bfloat16"), _attention_candidates("kv_len", seed), budget, limits, seed
    )
    for op in GLUE_WIDTHS:
        cases += _choose(Glue(op, "bfloat16"), _glue_candidates(op), mode.glue_points, limits, seed)
    launches = ("eager",) if device.kind == "cpu" else ("eager", "queued", "graph")
    cases += [planned(Launch(op), {}) for op in launches]
    if device.kind != "cpu":
        cases += _triton_cases(limits, seed)
    order = np.random.default_rng(seed).permutation(len(cases))
    return [cases[i] for i in order]


def _triton_cases(limits: Limits, seed: int) -> list[PlannedCase]:
    """Our own kernels: what the chip does with code we can read; none where triton is absent."""
    if importlib.util.find_spec("triton") is None:
        return []
    from groundspeed.kernels.matmul_triton import TritonMatmul
    from groundspeed.kernels.stream_triton import TritonStream

    cases = []
    for side in (1024, 2048, 4096, 8192):
        shape = {"m": float(side), "n": float(side), "k": float(side)}
        kernel = TritonMatmul("bfloat16")
        if limits.allows(kernel, shape):
            cases.append(planned(kernel, shape))
    for mode in ARRAYS:
        cases += _choose(TritonStream(mode), _stream_candidates(limits), 5, limits, seed)
    return cases


def _choose(
    kernel: Kernel,
    candidates: list[dict[str, float]],
    budget: int,
    limits: Limits,
    seed: int,
) -> list[PlannedCase]:
    possible = [c for c in candidates if limits.allows(kernel, c)]
    if not possible:
        return []
    columns = OPERATIONS[kernel.operation].columns
    log = np.log2(np.array([[c[name] for name in columns] for c in possible]))
    return [planned(kernel, possible[i]) for i in farthest_points(log, budget, seed=seed)]


def _matmul_candidates(seed: int) -> list[dict[str, float]]:
    """Random shapes over the box of models: a row to a prefill, a head to a vocabulary."""
    generator = np.random.default_rng(seed)
    count = 4000
    m = np.rint(2.0 ** generator.uniform(0.0, 14.0, count))
    m = np.where(m > 16, np.ceil(m / 16) * 16, m)  # an odd count of rows is a regime of its own
    n = np.ceil(2.0 ** generator.uniform(8.0, 18.0, count) / 64) * 64
    k = np.ceil(2.0 ** generator.uniform(8.0, 15.0, count) / 64) * 64
    return [{"m": float(a), "n": float(b), "k": float(c)} for a, b, c in zip(m, n, k, strict=True)]


def _stream_candidates(limits: Limits) -> list[dict[str, float]]:
    top = np.log2(OPERANDS * limits.operand_bytes)
    return [{"bytes": float(24 * round(2.0**x / 24))} for x in np.arange(16.0, top + 0.01, 0.5)]


def _attention_candidates(length: str, seed: int) -> list[dict[str, float]]:
    generator = np.random.default_rng(seed + 1)
    longest = 13.0 if length == "seq_len" else 15.0
    cases = []
    for _ in range(3000):
        kv_heads = 2.0 ** generator.integers(0, 6)
        group = float(generator.choice([1, 2, 4, 5, 7, 8]))
        cases.append(
            {
                "batch": float(round(2.0 ** generator.uniform(0.0, 6.0))),
                length: float(round(2.0 ** generator.uniform(5.0, longest) / 16) * 16),
                "heads": kv_heads * group,
                "kv_heads": kv_heads,
                "head_dim": float(generator.choice([64, 128])),
            }
        )
    return [c for c in cases if c["heads"] <= 128]


GLUE_WIDTHS: dict[str, tuple[float, ...]] = {
    "rms_norm": (512, 1024, 2048, 4096, 8192),
    "layer_norm": (512, 1024, 2048, 4096, 8192),
    "residual_add": (512, 1024, 2048, 4096, 8192),
    "silu_mul": (4096, 8192, 16384, 32768, 65536),
    "gelu": (2048, 4096, 8192, 16384, 32768),
    "rotary": (512, 1024, 2048, 4096, 8192),
    "kv_write": (256, 512, 1024, 2048, 4096),
    "embed": (512, 1024, 2048, 4096, 8192),
    "argmax": (32768, 65536, 131072, 262144),
}
"""Row widths of the small operations, as models have them."""


def _glue_candidates(op: str) -> list[dict[str, float]]:
    rows = [2.0**x for x in range(8 if op == "argmax" else 14)]
    return [
        {"rows": r, "width": w}
        for r, w in itertools.product(rows, GLUE_WIDTHS[op])
        if r * w <= 2.0**25
    ]
