"""Compile every Triton kernel in every configuration for GPUs that are not in this machine.

Without the GPUs, this is the closest test: the machine code must use the matrix units and wide
loads of the target, fit its shared memory and spill no register.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from program import environment

pytest.importorskip("triton", reason="triton is not installed")

from repository import HELPERS

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

Compiled = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=SHARED_BYTES)
def chip(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Compiled]:
    variables = environment(TRITON_CACHE_DIR=str(tmp_path_factory.mktemp("cache")))
    variables.pop("TRITON_INTERPRET", None)
    run = subprocess.run(
        [sys.executable, "-P", str(SCRIPT), request.param],
        env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return request.param, json.loads(run.stdout)


def test_shared_memory_of_every_kernel_fits_the_gpu(chip: tuple[str, Compiled]) -> None:
    name, kernels = chip
    too_much = {
        k: v["shared_bytes"] for k, v in kernels.items() if v["shared_bytes"] > SHARED_BYTES[name]
    }
    assert too_much == {}


def test_no_kernel_spills_registers(chip: tuple[str, Compiled]) -> None:
    assert {k: v["spills"] for k, v in chip[1].items() if v["spills"]} == {}


def test_matmuls_with_large_tiles_use_the_matrix_units_of_the_gpu(
    chip: tuple[str, Compiled],
) -> None:
    name, kernels = chip
    large = {k: v for k, v in kernels.items() if k.startswith("matmul") and "16x" not in k[:16]}
    assert len(large) >= 6
    assert [k for k, v in large.items() if not v[MATRIX[name]]] == []


def test_attention_and_experts_use_matrix_units(chip: tuple[str, Compiled]) -> None:
    units = ("mma", "wgmma", "tcgen05", "mfma")
    kernels = {
        k: v for k, v in chip[1].items() if k.startswith(("decode b", "decode f", "experts"))
    }
    assert len(kernels) == (4 if chip[0] == "sm_80" else 7)
    assert [k for k, v in kernels.items() if not any(v[u] for u in units)] == []


def test_streams_move_16_bytes_at_a_time(chip: tuple[str, Compiled]) -> None:
    kernels = chip[1]
    for name in ("stream read", "stream copy", "stream triad", "working set"):
        assert kernels[name]["wide_load"], name
    for mode in ("write", "copy", "triad"):
        assert kernels[f"stream {mode}"]["wide_store"], mode


def test_persistent_matmuls_use_the_tensor_memory_accelerator(chip: tuple[str, Compiled]) -> None:
    name, kernels = chip
    if name not in ("sm_90", "sm_100"):
        pytest.skip("this GPU has no tensor memory accelerator")
    persistent = [v for k, v in kernels.items() if "persistent" in k]
    assert persistent and all(v["descriptor"] for v in persistent)
