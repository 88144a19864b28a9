"""Compile what the measurement plan will launch, for one GPU target, and print JSON.

The target GPU need not be in this machine: the script runs on a simulated one, on which every
Triton kernel of the plan is launched with its own arguments. What Triton would compile for them is
then compiled for the target: the data types and alignments of the pointers, and for each integer
whether it is one, a multiple of 16, or neither. A test that declares every integer a multiple of 16
compiles wide loads that the real launch would not have.

    python compile_kernels.py sm_90      # in the environment of simulation.variables
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from groundspeed.calibrate.design.measurement_plan import MODES, Limits, PlannedCase, make_plan
from groundspeed.calibrate.design.tile_search import trials, tuned_shapes
from groundspeed.calibrate.run.device import open_device
from groundspeed.kernels.operands import OperandPool

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}

TYPES = {
    torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int32: "*i32",
    torch.int64: "*i64", torch.float8_e4m3fn: "*fp8e4nv", torch.float8_e4m3fnuz: "*fp8e4b8",
}  # fmt: skip

FREE_CONSTANTS = {"H", "G", "SPLITS"}
"""Constants of which one value is compiled: they change the number of heads and splits only."""


@dataclass(frozen=True)
class Launch:
    """One compilation that a launch needs."""

    name: str
    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    warps: int
    stages: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What distinguishes this compilation from others."""
        fixed = tuple(c for c in self.constants if c[0] not in FREE_CONSTANTS)
        return self.name, self.signature, fixed, self.aligned, self.warps, self.stages

    @property
    def title(self) -> str:
        """Name for messages: kernel, data types and constants."""
        types = " ".join(sorted({t[1:] for _, t in self.signature if t.startswith("*")}))
        constants = " ".join(f"{k}={v}" for k, v in self.constants)
        return f"{self.name} {types} {constants}"


LAUNCHES: list[Launch] = []


def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    """Stand in for the launch of a kernel: note what it would compile."""
    options = {k: kwargs.pop(k) for k in ("num_warps", "num_stages") if k in kwargs}
    values = dict(zip(self.arg_names, args, strict=False)) | kwargs
    constexprs = {p.name for p in self.params if p.is_constexpr}
    signature, constants, aligned = [], [], []
    for name in self.arg_names:
        value = values[name]
        if name in constexprs or (isinstance(value, int) and value == 1):
            constants.append((name, value))
            signature.append((name, "constexpr"))
        elif isinstance(value, torch.Tensor):
            signature.append((name, TYPES[value.dtype]))
            if value.data_ptr() % 16 == 0:
                aligned.append(name)
        elif isinstance(value, int):
            signature.append((name, "i32" if abs(value) < 2**31 else "i64"))
            if value % 16 == 0:
                aligned.append(name)
        else:
            signature.append((name, "fp32"))
    LAUNCHES.append(
        Launch(
            self.fn.__name__,
            self,
            tuple(signature),
            tuple(constants),
            tuple(aligned),
            options.get("num_warps", 4),
            options.get("num_stages", 3),
        )
    )


def planned_cases(kind: str) -> Iterator[PlannedCase]:
    """Yield every case of a full calibration that a Triton kernel runs, and the tiles to tune."""
    running = open_device("cuda:0")
    rates: dict[str, float] = dict.fromkeys(("bfloat16", "float16", "float32", "fp8"), 7e14)
    limits = Limits(0.2, rates, 4e14, 2.0**32)
    plan = make_plan(running.device, MODES["full"], limits, seed=0)
    no_fp8 = kind == "sm_80"
    for case in plan:
        fp8 = "fp8" in case.kernel.config_key.values()
        if case.kernel.backend == "triton" and not (fp8 and no_fp8):
            yield case
    for shape in tuned_shapes(MODES["full"]):
        yield from trials(shape)


def launches(kind: str) -> list[Launch]:
    """Return the distinct compilations of all cases."""
    JITFunction.run = record  # type: ignore[method-assign]
    pool = OperandPool(torch.device("cuda", 0), pool_bytes=2**32, cold_bytes=1)
    with torch.inference_mode():
        for case in planned_cases(kind):
            case.kernel.prepare(case.case, pool)[0]()
    distinct: dict[tuple[Any, ...], Launch] = {}
    for launch in LAUNCHES:
        distinct.setdefault(launch.key, launch)
    return list(distinct.values())


def compiled(launch: Launch, target: GPUTarget) -> dict[str, Any]:
    """Compile one launch; return its shared memory, spills and the kinds of instructions used."""
    names = [name for name, _ in launch.signature]
    source = ASTSource(
        launch.kernel,
        signature=dict(launch.signature),
        constexprs=dict(launch.constants),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in launch.aligned},
    )
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    binary = triton.compile(source, target=target, options=options)
    assembly = binary.asm.get("ptx") or binary.asm["amdgcn"]
    return {
        "kernel": launch.name,
        "block_m": dict(launch.constants).get("BLOCK_M", 0),
        "shared_bytes": binary.metadata.shared,
        "spills": spills(binary, target),
        "wgmma": "wgmma" in assembly,
        "tcgen05": "tcgen05.mma" in assembly,
        "mfma": "v_mfma" in assembly,
        "mma": "mma.sync" in assembly,
        "descriptor": "cp.async.bulk.tensor" in assembly,
        "wide_load": bool(
            re.search(r"ld\.global[.\w:]*\.v(4\.b32|2\.b64)|(global|buffer)_load_dwordx4", assembly)
        ),
        "wide_store": bool(
            re.search(
                r"st\.global[.\w:]*\.v(4\.b32|2\.b64)|(global|buffer)_store_dwordx4", assembly
            )
        ),
        "narrow_load": bool(
            re.search(r"ld\.global[.\w:]*\s*\{?\s*%r|(global|buffer)_load_dword\s", assembly)
        ),
    }


def spills(binary: Any, target: GPUTarget) -> int:
    """Return the spills that the assembler reports: bytes on NVIDIA, registers on AMD."""
    if target.backend == "hip":
        counts = re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", binary.asm["amdgcn"])
        return sum(map(int, counts))
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    tool = tools / ("ptxas-blackwell" if int(target.arch) >= 90 else "ptxas")
    architecture = f"sm_{target.arch}" + ("a" if int(target.arch) >= 90 else "")
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(binary.asm["ptx"])
        file.flush()
        listing = subprocess.run(
            [tool, "-v", f"--gpu-name={architecture}", file.name, "-o", "/dev/null"],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", listing))


def main() -> None:
    """Compile all launches for the target named on the command line and print the results."""
    name = sys.argv[1]
    results = {}
    for launch in launches(name):
        title, number = launch.title, 2
        while title in results:
            title, number = f"{launch.title} #{number}", number + 1
        results[title] = compiled(launch, TARGETS[name])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
