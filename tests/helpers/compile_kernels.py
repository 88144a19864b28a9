"""Compile every Triton kernel in every configuration for one GPU target and print JSON.

The target GPU need not be in this machine. For each kernel, the output gives its shared memory, its
register spills and whether it uses matrix instructions and wide loads. Run the script without
TRITON_INTERPRET, because an interpreted kernel cannot be compiled:

    python compile_kernels.py sm_90
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from groundspeed.kernels.attention import decode_triton
from groundspeed.kernels.experts import experts_triton
from groundspeed.kernels.matmul import matmul_triton
from groundspeed.kernels.memory import latency_triton, stream_triton, working_set_triton

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}
CDNA_STAGES = 2


@dataclass(frozen=True)
class Job:
    """One kernel in one configuration to compile."""

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, int] = field(default_factory=dict)
    warps: int = 4
    stages: int = 3


def jobs(target: str) -> Iterator[Job]:
    """Yield every kernel in every configuration that is compiled for a target."""
    fp8 = "fp8e4b8" if target == "gfx942" else "fp8e4nv"
    shape = {"M": "i32", "N": "i32", "K": "i32"}
    pointers = {"x_ptr": "*bf16", "w_ptr": "*bf16", "y_ptr": "*bf16"}
    for tile in matmul_triton.TILES:
        constants = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": tile.group}
        kind = "persistent" if tile.persistent else "plain"
        kernel = matmul_triton.persistent_kernel if tile.persistent else matmul_triton.matmul_kernel
        signature = pointers | shape | ({"PROGRAMS": "i32"} if tile.persistent else {})
        name = f"matmul {kind} {tile.m}x{tile.n}x{tile.k}"
        yield Job(name, kernel, signature, constants, tile.warps, tile.stages)
    block = {"BLOCK": stream_triton.BLOCK}
    items = {"items": "i32"}
    a, b, out = {"a_ptr": "*fp32"}, {"b_ptr": "*fp32"}, {"out_ptr": "*fp32"}
    yield Job("stream read", stream_triton.read_kernel, a | {"sums_ptr": "*fp32"} | items, block)
    write = out | items | {"value": "fp32"}
    yield Job("stream write", stream_triton.write_kernel, write, block)
    yield Job("stream copy", stream_triton.copy_kernel, a | out | items, block)
    triad = a | b | out | items | {"factor": "fp32"}
    yield Job("stream triad", stream_triton.triad_kernel, triad, block)
    caches = ("bf16",) if target == "sm_80" else ("bf16", fp8)  # sm_80 has no fp8
    for cache in caches:
        for group, dim, splits in ((4, 128, 1), (8, 128, 16), (7, 64, 4)):
            signature = {
                "q_ptr": "*bf16", "k_ptr": f"*{cache}", "v_ptr": f"*{cache}", "table_ptr": "*i32",
                "length_ptr": "*i32", "part_ptr": "*fp32", "lse_ptr": "*fp32", "scale": "fp32",
                "pages": "i32",
            }  # fmt: skip
            constants = {
                "H": 8, "G": group, "D": dim, "PAGE": decode_triton.PAGE, "SPLITS": splits,
                "BLOCK_G": 16, "BLOCK_N": decode_triton.BLOCK_N,
            }  # fmt: skip
            name = f"decode {cache} group {group} dim {dim} splits {splits}"
            yield Job(name, decode_triton.split_kernel, signature, constants, stages=2)
    join = {"part_ptr": "*fp32", "lse_ptr": "*fp32", "out_ptr": "*bf16"}
    yield Job("decode join", decode_triton.join_kernel, join, {"D": 128, "SPLITS": 16})
    signature = pointers | {"row_ptr": "*i32", "expert_ptr": "*i32", "N": "i32", "K": "i32"}
    constants = {
        "BLOCK_M": experts_triton.BLOCK_M,
        "BLOCK_N": experts_triton.BLOCK_N,
        "BLOCK_K": experts_triton.BLOCK_K,
    }  # fmt: skip
    yield Job("experts", experts_triton.grouped_kernel, signature, constants, stages=4)
    chase = {"chain_ptr": "*i64", "end_ptr": "*i64", "steps": "i32"}
    reading = {"x_ptr": "*fp32", "sums_ptr": "*fp32", "items": "i32", "repeats": "i32"}
    kernel = working_set_triton.working_set_kernel
    block = {"BLOCK": working_set_triton.BLOCK}
    yield Job("working set", kernel, reading, block, working_set_triton.WARPS)
    yield Job("chase", latency_triton.chase_kernel, chase, warps=1)


def compiled(job: Job, target: GPUTarget) -> dict[str, Any]:
    """Compile one job; return its shared memory, spills and the kinds of instructions used."""
    constants = {name: "constexpr" for name in job.constants}
    # Torch's allocator aligns pointers to 16 bytes, and sizes in models are multiples of 16.
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, kind in enumerate(job.signature.values())
        if kind.startswith("*") or kind == "i32"
    }
    source = ASTSource(
        job.kernel,
        signature=job.signature | constants,
        constexprs=job.constants,
        attrs=attributes,
    )
    stages = job.stages if target.backend == "cuda" else min(job.stages, CDNA_STAGES)
    binary = triton.compile(
        source, target=target, options={"num_warps": job.warps, "num_stages": stages}
    )
    assembly = binary.asm.get("ptx") or binary.asm["amdgcn"]
    return {
        "shared_bytes": binary.metadata.shared,
        "spills": spills(binary, target),
        "wgmma": "wgmma" in assembly,
        "tcgen05": "tcgen05.mma" in assembly,
        "mfma": "v_mfma" in assembly,
        "mma": "mma.sync" in assembly,
        "descriptor": "cp.async.bulk.tensor" in assembly,
        "wide_load": bool(
            re.search(r"ld\.global[.\w:]*\.v4\.b32|(global|buffer)_load_dwordx4", assembly)
        ),
        "wide_store": bool(
            re.search(r"st\.global[.\w:]*\.v4\.b32|(global|buffer)_store_dwordx4", assembly)
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
    """Compile all jobs for the target named on the command line and print the results as JSON."""
    name = sys.argv[1]
    print(json.dumps({job.name: compiled(job, TARGETS[name]) for job in jobs(name)}))


if __name__ == "__main__":
    main()
