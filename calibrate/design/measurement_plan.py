"""Plan a calibration: select the cases of each kernel before anything is timed.

A mode is a budget: how many points for each operation, how long one call may take, and how precise
a median must be. The candidates cover the sizes found in models (one row to a full prefill, a head
of 64 to a vocabulary of 262,144). Those too slow for the device are removed, and the farthest-point
rule selects from the rest. A plan is a pure function of the device, the mode, the seed and a few
probed rates of the device. A killed run therefore finds the same plan again.

    plan = make_plan(device, MODES["standard"], limits, seed=0)
"""

import importlib.util
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from groundspeed.calibrate.design.candidates import (
    ELEMENTWISE_WIDTHS,
    alignment_candidates,
    attention_candidates,
    elementwise_candidates,
    expert_candidates,
    latency_candidates,
    latent_candidates,
    matmul_candidates,
    projection_candidates,
    stream_candidates,
)
from groundspeed.calibrate.design.point_selection import farthest_points
from groundspeed.calibrate.timing.stopping import StopRule
from groundspeed.kernels.attention.attention import DecodeAttention, PrefillAttention
from groundspeed.kernels.decoder.elementwise import Elementwise
from groundspeed.kernels.kernel import DTYPES, Kernel
from groundspeed.kernels.launch.launch import Launch
from groundspeed.kernels.launch.layer_latency import LayerLatency
from groundspeed.kernels.links.host_link import DIRECTIONS, MEMORY, HostLink
from groundspeed.kernels.matmul.low_precision import (
    INT8_MIN_ROWS,
    Fp8Matmul,
    Int8Matmul,
    Tf32Matmul,
)
from groundspeed.kernels.matmul.matmul import TorchMatmul
from groundspeed.kernels.memory.gather import PAGE_BYTES, PageGather
from groundspeed.kernels.memory.stream import ARRAYS, TorchStream
from groundspeed.kernels.memory.working_set import TorchWorkingSet
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.schema import Device
from groundspeed.profiles.summary import BEYOND_CACHE

Limit = Literal["compute", "memory"]


@dataclass(frozen=True)
class ReferenceCases:
    """Fixed cases for one kind of device, long enough to show changes of clock and load."""

    probe: Mapping[str, float]
    """GEMM that gives the approximate rate of a data type."""
    attention_probe: Mapping[str, float]
    """Prefill attention that gives the approximate rate of attention."""
    references: Mapping[Limit, Mapping[str, float]]
    """GEMMs that are repeated throughout a run to detect drift of the machine."""


def _attention(batch: int, length: int, heads: int, dim: int) -> dict[str, float]:
    values = {"batch": batch, "seq_len": length, "heads": heads, "kv_heads": heads // 4}
    return {k: float(v) for k, v in (values | {"head_dim": dim}).items()}


CPU_REFERENCE_CASES = ReferenceCases(
    probe={"m": 256.0, "n": 1024.0, "k": 1024.0},
    attention_probe=_attention(1, 512, 16, 64),
    references={
        "compute": {"m": 192.0, "n": 1024.0, "k": 1024.0},
        "memory": {"m": 1.0, "n": 8192.0, "k": 1024.0},
    },
)
GPU_REFERENCE_CASES = ReferenceCases(
    probe={"m": 4096.0, "n": 4096.0, "k": 4096.0},
    attention_probe=_attention(4, 4096, 32, 128),
    references={
        "compute": {"m": 4096.0, "n": 8192.0, "k": 4096.0},
        "memory": {"m": 1.0, "n": 65536.0, "k": 8192.0},
    },
)


def reference_cases(kind: str) -> ReferenceCases:
    """Return the fixed cases for a CPU (``cpu``) or a GPU (any other kind)."""
    return CPU_REFERENCE_CASES if kind == "cpu" else GPU_REFERENCE_CASES


@dataclass(frozen=True)
class Mode:
    """Budget of a calibration."""

    name: str
    matmul_points: Mapping[str, int]
    """GEMM points for each data type. Data types that the device lacks are left out, with the
    reason."""
    stream_points: int
    """Points for each memory stream and for the page gather."""
    attention_points: int
    """Points for each of prefill and decode attention."""
    elementwise_points: int
    """Points for each elementwise operation."""
    longest_call_s: float
    """[s] Longest expected duration of one call; slower cases are not measured."""
    rule: StopRule
    """Rule that ends the sampling of a case."""
    peak_steps: int
    """Maximum number of shapes tried in the search for the best shape of each data type."""
    sustained: Mapping[str, float]
    """[s] How long the best shape of each data type runs, until its rate is steady."""
    kernel_names: bool = True
    """Whether to look up which kernel the library chose for each case."""
    data: bool = False
    """Whether to measure the best shape also with uniform, constant and zero operands."""
    working_sets: int = 32
    """Number of sizes on the curve that locates the caches: three for each doubling."""
    projections: int = 0
    """GEMM points with layer shapes of real models, for each of bfloat16 and fp8."""
    alignment: bool = False
    """Whether to measure GEMMs with 2^i and 2^i + 1 rows."""
    experts: bool = False
    """Whether to measure the experts of mixtures, and latent attention."""
    largest_operand_bytes: float = 2.0**29
    """[bytes] Largest operand on a CPU: a vocabulary times a hidden size in 16 bit."""
    largest_gpu_operand_bytes: float = 2.0**32
    """[bytes] Largest operand on a GPU."""

    def dtypes(self, kind: str) -> list[str]:
        """Data types to try. A CPU skips the narrow ones, which it emulates at minutes per case."""
        return [d for d in self.matmul_points if kind != "cpu" or d in DTYPES]


QUICK = Mode(
    name="quick",
    matmul_points={"bfloat16": 40, "float16": 10, "float32": 10, "fp8": 16},
    stream_points=7,
    attention_points=18,
    elementwise_points=10,
    longest_call_s=0.05,
    rule=StopRule(min_samples=10, min_time_s=0.02, half_width_fraction=0.02, time_cap_s=0.4),
    peak_steps=10,
    sustained={},
    working_sets=16,
    kernel_names=False,
)
STANDARD = Mode(
    name="standard",
    matmul_points={
        "bfloat16": 96, "float16": 24, "float32": 24, "tf32": 12, "fp8": 48, "fp8_row": 24,
        "fp8_exact": 24, "int8": 16,
    },
    stream_points=12,
    attention_points=40,
    elementwise_points=16,
    longest_call_s=0.2,
    rule=StopRule(min_samples=15, min_time_s=0.05, half_width_fraction=0.01, time_cap_s=1.5),
    peak_steps=24,
    sustained={"bfloat16": 10.0},
    data=True,
    experts=True,
)  # fmt: skip
FULL = replace(
    STANDARD,
    name="full",
    matmul_points={
        "bfloat16": 192, "float16": 48, "float32": 48, "tf32": 48, "fp8": 96, "fp8_row": 96,
        "fp8_exact": 48, "int8": 48,
    },
    stream_points=20,
    attention_points=96,
    elementwise_points=32,
    sustained={"bfloat16": 10.0, "float16": 10.0, "fp8": 10.0, "float32": 10.0},
    projections=120,
    alignment=True,
)  # fmt: skip
MODES = {m.name: m for m in (QUICK, STANDARD, FULL)}


def only_dtypes(mode: Mode, dtypes: tuple[str, ...]) -> Mode:
    """Restrict a mode to GEMMs of these data types; return it unchanged if none are given."""
    if not dtypes:
        return mode
    points = {d: mode.matmul_points.get(d, OTHER_DTYPE_POINTS) for d in dtypes}
    sustained = {d: s for d, s in mode.sustained.items() if d in dtypes}
    return replace(mode, matmul_points=points, sustained=sustained)


OTHER_DTYPE_POINTS = 16
"""GEMM points of a data type that was requested but is not part of the mode."""


@dataclass(frozen=True)
class PlannedCase:
    """One case to measure, with its key in the journal."""

    key: str
    kernel: Kernel
    case: Mapping[str, float]
    label: str = ""
    """Distinguishes this case from others of the same kernel and shape, e.g. by its tile."""


def planned(kernel: Kernel, case: Mapping[str, float], prefix: str = "") -> PlannedCase:
    """Create a planned case, with a journal key made of prefix, kernel and shape."""
    shape = " ".join(f"{k}={v:g}" for k, v in case.items())
    name = " ".join((kernel.operation, *kernel.config_key.values(), kernel.backend))
    return PlannedCase(f"{prefix}{name} {shape}".strip(), kernel, case, prefix)


OPERANDS = 2.0
"""Largest size of a stream, in operands of the largest size: a copy reads one and writes one."""


@dataclass(frozen=True)
class Limits:
    """Limits of time and memory for one call."""

    seconds: float
    """[s] Longest expected duration of one call."""
    flops_per_s: Mapping[str, float]
    """[FLOP/s] Probed GEMM rate of each data type."""
    attention_flops_per_s: float
    """[FLOP/s] Probed rate of prefill attention."""
    operand_bytes: float
    """[bytes] Largest single operand."""

    def allows(self, kernel: Kernel, case: Mapping[str, float]) -> bool:
        """Return True if a case is within the time and memory limits of one call."""
        cost = kernel.cost(case)
        rate = self.flops_per_s.get(
            kernel.config_key.get("dtype", ""), max(self.flops_per_s.values())
        )
        if kernel.operation.startswith(("attention", "mla")):
            rate = self.attention_flops_per_s
        fits = max(cost.read_bytes, cost.written_bytes) <= self.operand_bytes
        return fits and cost.flops / rate <= self.seconds


FP8 = ("fp8", "fp8_row", "fp8_exact", "fp8_row_exact")
"""fp8 GEMMs: one scale per matrix or per row, with fast or exact accumulation."""


def matmul_kernel(dtype: str, *, operation: str = "matmul") -> Kernel:
    """Create the library GEMM kernel of a data type.

    Raises
    ------
    InputError
        If the data type is unknown.
    """
    if dtype in DTYPES:
        return TorchMatmul(dtype, operation=operation)
    if dtype in FP8:
        scales, _, _ = dtype.partition("_exact")
        return Fp8Matmul(scales, "exact" if dtype.endswith("_exact") else "fast", operation)
    if dtype == "int8":
        return Int8Matmul(operation=operation)
    if dtype == "tf32":
        return Tf32Matmul(operation=operation)
    known = [*DTYPES, *FP8, "int8", "tf32"]
    raise InputError(f"unknown data type '{dtype}'", remedy=did_you_mean(dtype, known))


CASE_OVERHEAD_S = 0.08
"""[s] Time to check, prepare and journal one case; measured on two CPU cores."""


def expected_s(plan: list[PlannedCase], mode: Mode, limits: Limits) -> float:
    """[s] Estimate the duration of a plan from the probed rates."""
    total = sum(mode.sustained.values())
    for case in plan:
        dtype = case.kernel.config_key.get("dtype", "")
        rate = limits.flops_per_s.get(dtype, max(limits.flops_per_s.values()))
        once = case.kernel.cost(case.case).flops / rate
        total += max(mode.rule.min_time_s, mode.rule.min_samples * once) + CASE_OVERHEAD_S
    return total


def make_plan(device: Device, mode: Mode, limits: Limits, *, seed: int) -> list[PlannedCase]:
    """Select all cases of a calibration, in the random order in which they are measured.

    Returns
    -------
    list of PlannedCase
        The cases in random order, so that a machine that warms up or is disturbed for a while does
        not distort a single curve.
    """
    cases: list[PlannedCase] = []
    for dtype, budget in mode.matmul_points.items():
        if dtype in limits.flops_per_s:
            candidates = matmul_candidates(seed)
            if dtype == "int8":
                candidates = [c for c in candidates if c["m"] >= INT8_MIN_ROWS]
            cases += _choose(matmul_kernel(dtype), candidates, budget, limits, seed)
    streams = stream_candidates(OPERANDS * limits.operand_bytes)
    for stream in ARRAYS:
        cases += _choose(TorchStream(stream), streams, mode.stream_points, limits, seed)
    largest = OPERANDS * limits.operand_bytes
    pages = [c for c in stream_candidates(largest, 2 * PAGE_BYTES) if c["bytes"] >= 64 * PAGE_BYTES]
    cases += _choose(PageGather(), pages, mode.stream_points, limits, seed)
    budget = mode.attention_points
    kind = "cpu" if device.kind == "cpu" else "gpu"
    prefill, decode = (attention_candidates(c, seed, kind) for c in ("seq_len", "kv_len"))
    cases += _choose(PrefillAttention("bfloat16"), prefill, budget, limits, seed)
    cases += _choose(DecodeAttention("bfloat16"), decode, budget, limits, seed)
    for op in ELEMENTWISE_WIDTHS:
        cases += _choose(
            Elementwise(op, "bfloat16"),
            elementwise_candidates(op),
            mode.elementwise_points,
            limits,
            seed,
        )
    cases += _extra_matmuls(mode, limits, seed)
    cases += [planned(Launch("eager"), {}), planned(LayerLatency("layer"), {})]
    if device.kind == "cpu":
        cases += [planned(TorchWorkingSet(), c) for c in working_sets(device, mode, limits)]
    else:
        cases += [planned(Launch(op), {}) for op in ON_A_GPU]
        cases.append(planned(LayerLatency("layer-dispatch"), {}))
        for direction, memory in itertools.product(DIRECTIONS, MEMORY):
            cases.append(planned(HostLink(direction, memory), {"bytes": HOST_LINK_BYTES}))
        cases += _triton_cases(device, mode, limits, seed)
    order = np.random.default_rng(seed).permutation(len(cases))
    return [cases[i] for i in order]


ON_A_GPU = ("queued", "graph", "synchronize", "round-trip")
"""Launch variants that exist only on a device with a launch queue."""

HOST_LINK_BYTES = 2.0**28
"""[bytes] Transfer size that reaches the full rate of the link and can still be pinned."""


def working_sets(device: Device, mode: Mode, limits: Limits) -> list[dict[str, float]]:
    """Working-set sizes from below all shared caches to far beyond the last one."""
    cache = device.last_level_cache_bytes or 2.0**26
    top = min(BEYOND_CACHE * cache, limits.operand_bytes)
    sizes = np.geomspace(SMALLEST_WORKING_SET_BYTES, top, mode.working_sets)
    return [{"bytes": float(round(s / 4096) * 4096)} for s in sizes]


SMALLEST_WORKING_SET_BYTES = 2.0**16
"""[bytes] Smallest working set: below every shared cache."""


def _extra_matmuls(mode: Mode, limits: Limits, seed: int) -> list[PlannedCase]:
    """GEMM shapes shown in the profile but not fitted: layers of real models, and tile edges."""
    cases: list[PlannedCase] = []
    for dtype in ("bfloat16", "fp8"):
        if dtype not in limits.flops_per_s:
            continue
        if mode.projections:
            kernel = matmul_kernel(dtype, operation="matmul_projections")
            cases += _choose(kernel, projection_candidates(), mode.projections, limits, seed)
        if mode.alignment:
            kernel = matmul_kernel(dtype, operation="matmul_alignment")
            cases += [planned(kernel, c) for c in alignment_candidates()]
    return cases


def _triton_cases(device: Device, mode: Mode, limits: Limits, seed: int) -> list[PlannedCase]:
    """Cases of this project's Triton kernels, whose source is known; empty without triton."""
    if importlib.util.find_spec("triton") is None:
        return []
    from groundspeed.kernels.attention.decode_triton import PagedDecode
    from groundspeed.kernels.attention.latent_triton import LatentDecode, LatentPrefill
    from groundspeed.kernels.experts.experts_triton import GroupedExperts
    from groundspeed.kernels.memory.latency_triton import PointerChase
    from groundspeed.kernels.memory.stream_triton import TritonStream
    from groundspeed.kernels.memory.working_set_triton import TritonWorkingSet

    cases = []
    streams = stream_candidates(OPERANDS * limits.operand_bytes)
    for stream in ARRAYS:
        cases += _choose(TritonStream(stream), streams, 5, limits, seed)
    decode = attention_candidates("kv_len", seed, "gpu")
    for dtype in ("bfloat16", "fp8"):
        cases += _choose(PagedDecode(dtype), decode, mode.attention_points // 2, limits, seed)
    level = device.last_level_cache_bytes or 2.0**26
    cases += [planned(PointerChase(), c) for c in latency_candidates(level)]
    cases += [planned(TritonWorkingSet(), c) for c in working_sets(device, mode, limits)]
    if mode.experts:
        for routing in ("balanced", "zipf"):
            experts = GroupedExperts("bfloat16", routing)
            allowed = [c for c in expert_candidates() if limits.allows(experts, c)]
            cases += [planned(experts, c) for c in allowed]
        latent = latent_candidates("kv_len", seed)
        prompts = latent_candidates("seq_len", seed)
        for cache in ("bfloat16", "fp8"):
            cases += _choose(LatentDecode(cache), latent, mode.attention_points // 2, limits, seed)
        cases += _choose(LatentPrefill(), prompts, mode.attention_points // 2, limits, seed)
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
    columns = tuple(possible[0])
    log = np.log2(np.array([[c[name] for name in columns] for c in possible]))
    # Select the smallest and the largest case first, so that a one-row decode step lies inside
    # the fit range.
    ends = [int(np.argmin(log.sum(axis=1))), int(np.argmax(log.sum(axis=1)))]
    between = [i for i in farthest_points(log, budget, seed=seed).tolist() if i not in ends]
    chosen = dict.fromkeys([*ends, *between])
    return [planned(kernel, possible[i]) for i in list(chosen)[:budget]]
