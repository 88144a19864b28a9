"""Compile what the measurement plan will launch, for GPUs that are not in this machine.

Without the GPUs, this is the closest test: the machine code must use the matrix units and wide
loads of the target, fit its shared memory and spill no register. The arguments are those of the
plan, so the code is what a calibration would run.
"""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from repository import HELPERS
from simulation import MI300X, Chip, Machine, variables

pytestmark = pytest.mark.slow

SCRIPT = HELPERS / "compile_kernels.py"
SHARED_BYTES = {
    # Shared memory that one block may use. Sources: CUDA C++ programming guide (compute
    # capabilities); CDNA3 and CDNA4 instruction set guides (local data share).
    "sm_80": 163 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "gfx942": 64 * 1024,
    "gfx950": 160 * 1024,
}
MATRIX = {"sm_80": "mma", "sm_90": "wgmma", "sm_100": "tcgen05", "gfx942": "mfma", "gfx950": "mfma"}
KERNELS = {
    "read_kernel", "write_kernel", "copy_kernel", "triad_kernel", "working_set_kernel",
    "chase_kernel", "split_kernel", "join_kernel", "grouped_kernel", "matmul_kernel",
    "latent_decode_kernel", "latent_prefill_kernel",
    "persistent_kernel",
}  # fmt: skip

Compiled = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=SHARED_BYTES)
def chip(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Compiled]:
    name = request.param
    chip = replace(Chip() if name.startswith("sm") else MI300X, architecture=name)
    folder = tmp_path_factory.mktemp("compile")
    environment = variables(Machine(chip=chip), folder, TRITON_CACHE_DIR=str(folder / "cache"))
    environment.pop("TRITON_INTERPRET")
    run = subprocess.run(
        [sys.executable, "-P", str(SCRIPT), name],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return name, json.loads(run.stdout)


def of(compiled: Compiled, *kernels: str) -> Compiled:
    found = {k: v for k, v in compiled.items() if v["kernel"] in kernels}
    assert found
    return found


def test_every_triton_kernel_of_the_plan_is_compiled(chip: tuple[str, Compiled]) -> None:
    assert {v["kernel"] for v in chip[1].values()} == KERNELS
    tiles = {v["block_m"] for v in of(chip[1], "grouped_kernel").values()}
    assert tiles == {16, 32, 64, 128}


def test_shared_memory_of_every_kernel_fits_the_gpu(chip: tuple[str, Compiled]) -> None:
    name, kernels = chip
    too_much = {
        k: v["shared_bytes"] for k, v in kernels.items() if v["shared_bytes"] > SHARED_BYTES[name]
    }
    assert too_much == {}


def test_no_kernel_spills_registers(chip: tuple[str, Compiled]) -> None:
    assert {k: v["spills"] for k, v in chip[1].items() if v["spills"]} == {}


def test_large_tiles_use_the_matrix_units_of_the_gpu(chip: tuple[str, Compiled]) -> None:
    name, kernels = chip
    products = of(kernels, "matmul_kernel", "persistent_kernel", "grouped_kernel")
    large = {k: v for k, v in products.items() if v["block_m"] >= 64}
    assert len(large) >= 6
    assert [k for k, v in large.items() if not v[MATRIX[name]]] == []


def test_attention_and_small_tiles_use_matrix_units(chip: tuple[str, Compiled]) -> None:
    units = ("mma", "wgmma", "tcgen05", "mfma")
    kernels = of(chip[1], "split_kernel", "grouped_kernel", "matmul_kernel")
    assert [k for k, v in kernels.items() if not any(v[u] for u in units)] == []


def test_every_planned_stream_moves_16_bytes_at_a_time(chip: tuple[str, Compiled]) -> None:
    reading = of(chip[1], "read_kernel", "copy_kernel", "triad_kernel", "working_set_kernel")
    assert [k for k, v in reading.items() if not v["wide_load"]] == []
    writing = of(chip[1], "write_kernel", "copy_kernel", "triad_kernel")
    assert [k for k, v in writing.items() if not v["wide_store"]] == []


def test_persistent_matmuls_use_the_tensor_memory_accelerator(chip: tuple[str, Compiled]) -> None:
    name, kernels = chip
    if name not in ("sm_90", "sm_100"):
        pytest.skip("this GPU has no tensor memory accelerator")
    assert all(v["descriptor"] for v in of(kernels, "persistent_kernel").values())
