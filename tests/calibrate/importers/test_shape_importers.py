"""Products, streams and kernel tables of other tools; tables that are known to be bad."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from groundspeed.calibrate import transfer_law
from groundspeed.calibrate.fit.dataframe import FittedLaw
from groundspeed.calibrate.importers import IMPORTERS, ImportRequest, import_profile
from groundspeed.estimator.hardware.find_hardware import shipped_profile
from groundspeed.profiles import InputError, check_profile
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.store import require_valid_profile
from repository import SHIPPED_PROFILES, TEST_DATA

SILICON = TEST_DATA / "silicon"

MAMF = """Benchmark started on 2025-05-03 06:17:43

** Command line:
/usr/bin/python ./mamf-finder.py --dtype bfloat16 --m 1024 --n 5120 --k_range 4096 10240 2048

** Dtype: torch.bfloat16

** Platform/Device info:
_CudaDeviceProperties(name='NVIDIA A100-SXM4-80GB', major=8, minor=0, total_memory=81153MB)

     1 | 262.1(mean) 262.3(median) 266.0(max) @ 1024x4096x5120 | best: 262.1(mean)\r
     2 | 268.0(mean) 268.4(median) 272.2(max) @ 1024x8192x5120 | best: 268.0(mean)\r
     3 | 271.2(mean) 271.3(median) 275.9(max) @ 1024x10240x5120 | best: 271.2(mean)

Tried  3 shapes => the best outcomes were:
mean:   271.2 TFLOPS @ 1024x10240x5120 (MxNxK)
median: 271.3 TFLOPS @ 1024x10240x5120 (MxNxK)
max:    275.9 TFLOPS @ 1024x10240x5120 (MxNxK)
"""

BABELSTREAM = """BabelStream
Version: 5.0
Implementation: CUDA
Running kernels 100 times
Precision: double
Array size: 2147.5 MB (=2.1 GB)
Total size: 6442.5 MB (=6.4 GB)
Using CUDA device NVIDIA H200
Driver: 12040
Function    MBytes/sec  Min (sec)   Max         Average
Copy        4010000.000 0.00107105  0.00108     0.001075
Mul         4000000.000 0.00107373  0.00108     0.001075
Add         4150000.000 0.00155241  0.00156     0.001555
Triad       4150000.000 0.00155241  0.00156     0.001555
Dot         4480000.000 0.00095870  0.00097     0.000960
"""


def read(tool: str, text: str, device: str | None = None) -> Profile:
    request = ImportRequest(Path(__file__), text, tool, device)
    return import_profile(request, IMPORTERS[tool], "a test")


def rate(profile: Profile, quantity: str) -> float:
    return next(r.value for r in profile.rates if r.quantity.startswith(quantity))


def test_mamf() -> None:
    profile = read("mamf", MAMF)
    require_valid_profile(profile, "mamf")
    assert profile.datasheet is not None and profile.datasheet.id == "a100-sxm-80gb"
    assert rate(profile, "matmul bfloat16") == pytest.approx(271.3e12)
    assert len(profile.curves[0].points) == 3
    assert profile.environment.date_utc == "2025-05-03T06:17:43Z"


def test_superbench() -> None:
    nodes = [
        {"node": f"n{i}", "cublaslt-gemm/fp8e4m3_0_16384_16384_16384_flops:0": value,
         "cublaslt-gemm/bf16_0_8192_8192_8192_flops:0": 700.0, "mem-bw/h2d_bw:0": 55.4,
         "kernel-launch/event_time:0": 0.005}
        for i, value in enumerate((1600.0, 1626.0, 900.0))
    ]  # fmt: skip
    profile = read("superbench", "\n".join(json.dumps(n) for n in nodes), "h200")
    require_valid_profile(profile, "superbench")
    assert rate(profile, "matmul fp8") == pytest.approx(1600e12)  # the slow node does not decide
    assert rate(profile, "host link h2d") == pytest.approx(55.4e9)
    assert "medians over 3 nodes" in profile.warnings


def test_babelstream() -> None:
    profile = read("babelstream", BABELSTREAM)
    require_valid_profile(profile, "babelstream")
    assert profile.datasheet is not None and profile.datasheet.id == "h200-sxm"
    assert rate(profile, "memory copy") == pytest.approx(4010e9, rel=1e-3)
    assert rate(profile, "memory read") == pytest.approx(4480e9, rel=1e-3)


@pytest.mark.parametrize(
    ("tool", "text", "message"),
    [
        ("mamf", "hello", "not a log of mamf-finder"),
        ("mamf", "** Dtype: torch.bfloat16\n", "holds no shape"),
        ("mamf", MAMF.replace("NVIDIA A100-SXM4-80GB", "Tea Kettle"), "Tea Kettle"),
        ("superbench", "{", "not valid JSON"),
        ("superbench", "[]", "not a JSON object"),
        ("superbench", '{"node": "a"}', "holds no cublaslt-gemm"),
        ("babelstream", "hello", "not the output of BabelStream"),
        ("babelstream", BABELSTREAM.replace("MBytes", "MiBytes"), "another unit"),
        ("babelstream", BABELSTREAM.replace("4010000.0", "4e12"), "has a rate of"),
    ],
)
def test_what_is_not_theirs_is_refused(tool: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tool, text)


# Tables that were published and are wrong, or that people make.


def test_sparse_peaks_are_above_the_roof() -> None:
    """With sparsity a sheet's peak is twice the dense one: such a rate was not measured."""
    text = MAMF.replace("271.3", "542.6").replace("268.4", "536.8").replace("262.3", "524.6")
    with pytest.raises(InputError, match="is above 312.0, the bfloat16 roof of a100"):
        require_valid_profile(read("mamf", text), "sparse")


def test_gib_taken_for_gb_is_above_the_memory() -> None:
    """4,650 GiB/s written as GB/s would be 4,330: the other way round it beats the memory."""
    text = BABELSTREAM.replace("4480000.000 0.00095870", "5153960.000 0.00095870")
    with pytest.raises(InputError, match="above the memory's 4800"):
        require_valid_profile(read("babelstream", text), "GiB")


def test_microseconds_taken_for_milliseconds() -> None:
    frame = pd.read_csv(SILICON / "h100_matmul_240.csv")
    frame["time_us"] /= 1000.0
    text = frame.to_csv(index=False)
    request = ImportRequest(Path(__file__), text, "csv", "h100-sxm", "matmul")
    with pytest.raises(InputError, match="roof"):
        require_valid_profile(import_profile(request, IMPORTERS["csv"], "a test"), "us")


def test_a_copy_of_a_faster_gpu_is_caught() -> None:
    """An H100's times under the name of an A100: above the roof it has."""
    text = (SILICON / "h100_matmul_240.csv").read_text()
    request = ImportRequest(Path(__file__), text, "csv", "a100-sxm-80gb", "matmul")
    with pytest.raises(InputError, match="the bfloat16 roof of a100-sxm-80gb"):
        require_valid_profile(import_profile(request, IMPORTERS["csv"], "a test"), "copy")


def make_tables(folder: Path, *, slow: float = 1.0, beyond: float = 1.0) -> Path:
    """A folder in aiconfigurator's layout: an H100's products, and made-up attention."""
    pytest.importorskip("pyarrow", reason="the tables are parquet: pip install pyarrow")
    frame = pd.read_csv(SILICON / "h100_matmul_240.csv")
    gemm = pd.DataFrame(
        {
            "gemm_dtype": "bfloat16",
            "kernel_source": "torch_flow",
            "latency": frame["time_us"] * 1e-3,
        }
    ).join(frame[["m", "n", "k"]])
    gemm["latency"] *= slow
    path = folder / "h100_sxm" / "gemm" / "trtllm" / "1.3.0rc20"
    path.mkdir(parents=True)
    gemm.to_parquet(path / "gemm_perf.parquet")
    rows = [
        (b, s, h)
        for b in (1, 2, 4, 8, 16, 32, 64)
        for s in (128, 512, 2048, 8192, 32768)
        for h in (8, 16, 32, 64)
    ]
    decode = pd.DataFrame(rows, columns=["batch_size", "isl", "num_heads"])
    decode["step"] = 1
    decode["num_key_value_heads"] = 8
    decode["head_dim"], decode["window_size"] = 128, 0
    decode["attn_dtype"] = decode["kv_cache_dtype"] = "bfloat16"
    moved = 4.0 * decode["batch_size"] * decode["isl"] * 8 * 128
    decode["latency"] = 0.012 + moved / (0.9 * beyond * 3.35e12) * 1e3
    path = folder / "h100_sxm" / "attention" / "vllm" / "0.24.0"
    path.mkdir(parents=True)
    decode.to_parquet(path / "generation_attention_perf.parquet")
    return folder


def aiconfigurator(folder: Path, device: str = "h100") -> Profile:
    request = ImportRequest(folder, "", "aiconfigurator", device)
    return import_profile(request, IMPORTERS["aiconfigurator"], "a test")


def test_aiconfigurator(tmp_path: Path) -> None:
    profile = aiconfigurator(make_tables(tmp_path))
    require_valid_profile(profile, "aiconfigurator")
    law = profile.law("matmul", dtype="bfloat16")
    assert law is not None and law.origin == "imported"
    assert law.held_out.median_fraction < 0.08
    assert profile.law("attention_decode", kv_dtype="bfloat16", library="vllm") is not None


def test_a_table_above_the_memory_is_left_out_and_said(tmp_path: Path) -> None:
    """As TensorRT-LLM 1.0's decode attention on an A100, which reads half of its cache."""
    profile = aiconfigurator(make_tables(tmp_path, beyond=1.7))
    assert profile.law("attention_decode") is None
    (warning,) = [w for w in profile.warnings if w.startswith("left out")]
    assert "attention_decode bfloat16 bfloat16 vllm" in warning
    assert "exceed the memory bandwidth" in warning


def test_devices_without_tables_are_named(tmp_path: Path) -> None:
    folder = make_tables(tmp_path)
    with pytest.raises(InputError, match="has no tables for mi300x"):
        aiconfigurator(folder, "mi300x")
    with pytest.raises(InputError, match="has no tables for b200-sxm"):
        aiconfigurator(folder, "b200")


# Transfer, against a device it was not fitted to.


def test_from_h200_to_h100_without_a_single_point() -> None:
    """4.5 / 12.5 % was the best known; the extract is NVIDIA's own H100 collection."""
    source = shipped_profile("h200-sxm")
    assert source is not None
    seen = pd.read_csv(SILICON / "h100_matmul_240.csv")
    laws = transfer_law(source, "h100-sxm")
    predicted = FittedLaw("matmul", tuple(x for x in laws if x.operation == "matmul")).predict(seen)
    error = np.abs(predicted["time_us"] / seen["time_us"] - 1.0)
    assert error.median() < 0.06
    assert error.quantile(0.9) < 0.15
    inside = (seen["time_us"] >= predicted["low_us"]) & (seen["time_us"] <= predicted["high_us"])
    assert 0.80 <= inside.mean() <= 0.99
    anchors = seen.sample(12, random_state=3).assign(operation="matmul")
    mended = transfer_law(source, "h100-sxm", anchors)
    again = FittedLaw("matmul", tuple(x for x in mended if x.operation == "matmul")).predict(seen)
    assert np.abs(again["time_us"] / seen["time_us"] - 1.0).median() < 0.065


def test_published_points_slow_an_mi300x_down() -> None:
    """It reaches half of its sheet's matrix rate where an H200 reaches five sixths."""
    from groundspeed.profiles.laws import law_time

    mi300x = shipped_profile("mi300x")
    assert mi300x is not None and mi300x.datasheet is not None
    law = mi300x.law("matmul", dtype="bfloat16")
    assert law is not None
    case = {"m": np.array([8192.0]), "n": np.array([8192.0]), "k": np.array([8192.0])}
    share = 2 * 8192.0**3 / law_time(law, case).time_s[0] / mi300x.datasheet.peak_flops("bfloat16")
    assert 0.42 < share < 0.6
    two, eight = (
        mi300x.law("collective", op="all_reduce", world_size=n, mode="nccl") for n in ("2", "8")
    )
    assert two is not None and eight is not None
    big = {"bytes": np.array([2.0**30])}
    # Two devices share one link of seven: less bus bandwidth, in spite of the shorter ring.
    busbw = [2.0**30 / law_time(x, big).time_s[0] * f for x, f in ((two, 1.0), (eight, 1.75))]
    assert busbw[1] / busbw[0] > 4.0


def test_every_shipped_profile_holds_against_physics() -> None:
    for path in sorted(SHIPPED_PROFILES.glob("*.json")):
        profile = shipped_profile(path.stem)
        assert profile is not None
        assert [v.what for v in check_profile(profile) if v.severity == "error"] == []
