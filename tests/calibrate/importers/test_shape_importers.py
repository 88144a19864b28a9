"""Importers for matmul, stream and kernel tables of other tools; known bad tables are refused."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from groundspeed.calibrate import transfer_law
from groundspeed.calibrate.fit.dataframe import FittedLaw
from groundspeed.calibrate.importers import IMPORTERS, ImportRequest, import_profile
from groundspeed.estimator.hardware.find_hardware import shipped_profile
from groundspeed.profiles import InputError, check_profile
from groundspeed.profiles.difference import compare_profiles
from groundspeed.profiles.laws import Law
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.store import load_profile, require_valid_profile
from program import groundspeed
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


def test_mamf_finder_log_is_imported() -> None:
    profile = read("mamf", MAMF)
    require_valid_profile(profile, "mamf")
    assert profile.datasheet is not None and profile.datasheet.id == "a100-sxm-80gb"
    assert rate(profile, "matmul bfloat16") == pytest.approx(271.3e12)
    assert len(profile.curves[0].points) == 3
    assert profile.environment.date_utc == "2025-05-03T06:17:43Z"


def test_superbench_results_are_imported_as_medians_over_nodes() -> None:
    nodes = [
        {"node": f"n{i}", "cublaslt-gemm/fp8e4m3_0_16384_16384_16384_flops:0": value,
         "cublaslt-gemm/bf16_0_8192_8192_8192_flops:0": 700.0, "mem-bw/h2d_bw:0": 55.4,
         "kernel-launch/event_time:0": 0.005}
        for i, value in enumerate((1600.0, 1626.0, 900.0))
    ]  # fmt: skip
    profile = read("superbench", "\n".join(json.dumps(n) for n in nodes), "h200")
    require_valid_profile(profile, "superbench")
    assert rate(profile, "matmul fp8") == pytest.approx(1600e12)  # the median ignores the slow node
    assert rate(profile, "host link h2d") == pytest.approx(55.4e9)
    assert "medians over 3 nodes" in profile.warnings


def test_babelstream_output_is_imported() -> None:
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
def test_text_that_is_not_the_tool_s_output_is_refused(tool: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tool, text)


# Mistakes that occur in published tables or that users make.


def test_rates_counted_with_sparsity_are_refused() -> None:
    """A peak with sparsity is twice the dense peak, so no dense measurement can reach it."""
    text = MAMF.replace("271.3", "542.6").replace("268.4", "536.8").replace("262.3", "524.6")
    with pytest.raises(InputError, match="is above 312.0, the bfloat16 roof of a100"):
        require_valid_profile(read("mamf", text), "sparse")


def test_stream_rate_above_the_memory_bandwidth_is_refused() -> None:
    """4,650 GB/s are 4,330 GiB/s; the wrong conversion upwards exceeds the memory bandwidth."""
    text = BABELSTREAM.replace("4480000.000 0.00095870", "5153960.000 0.00095870")
    with pytest.raises(InputError, match="above the memory bandwidth of 4800"):
        require_valid_profile(read("babelstream", text), "GiB")


def test_matmul_times_a_thousand_times_too_short_are_refused() -> None:
    frame = pd.read_csv(SILICON / "h100_matmul_240.csv")
    frame["time_us"] /= 1000.0
    text = frame.to_csv(index=False)
    request = ImportRequest(Path(__file__), text, "csv", "h100-sxm", "matmul")
    with pytest.raises(InputError, match="roof"):
        require_valid_profile(import_profile(request, IMPORTERS["csv"], "a test"), "us")


def test_times_of_an_h100_imported_as_an_a100_are_refused() -> None:
    """The times of an H100 give rates above the roof of an A100."""
    text = (SILICON / "h100_matmul_240.csv").read_text()
    request = ImportRequest(Path(__file__), text, "csv", "a100-sxm-80gb", "matmul")
    with pytest.raises(InputError, match="the bfloat16 roof of a100-sxm-80gb"):
        require_valid_profile(import_profile(request, IMPORTERS["csv"], "a test"), "copy")


def make_tables(folder: Path, *, time_factor: float = 1.0, bandwidth_factor: float = 1.0) -> Path:
    """Write a folder in aiconfigurator's layout: matmuls of an H100 and synthetic attention.

    ``time_factor`` multiplies the matmul times, ``bandwidth_factor`` the attention's bandwidth.
    """
    pytest.importorskip("pyarrow", reason="the tables are parquet: pip install pyarrow")
    frame = pd.read_csv(SILICON / "h100_matmul_240.csv")
    gemm = pd.DataFrame(
        {
            "gemm_dtype": "bfloat16",
            "kernel_source": "torch_flow",
            "latency": frame["time_us"] * 1e-3,
        }
    ).join(frame[["m", "n", "k"]])
    gemm["latency"] *= time_factor
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
    decode["latency"] = 0.012 + moved / (0.9 * bandwidth_factor * 3.35e12) * 1e3
    path = folder / "h100_sxm" / "attention" / "vllm" / "0.24.0"
    path.mkdir(parents=True)
    decode.to_parquet(path / "generation_attention_perf.parquet")
    return folder


def aiconfigurator(folder: Path, device: str = "h100") -> Profile:
    request = ImportRequest(folder, "", "aiconfigurator", device)
    return import_profile(request, IMPORTERS["aiconfigurator"], "a test")


def test_aiconfigurator_tables_are_imported_with_laws(tmp_path: Path) -> None:
    profile = aiconfigurator(make_tables(tmp_path))
    require_valid_profile(profile, "aiconfigurator")
    law = profile.law("matmul", dtype="bfloat16")
    assert law is not None and law.origin == "imported"
    assert law.held_out.median_fraction < 0.08
    assert profile.law("attention_decode", kv_dtype="bfloat16", library="vllm") is not None


def test_aiconfigurator_table_above_the_memory_bandwidth_is_left_out(tmp_path: Path) -> None:
    """An example is TensorRT-LLM 1.0's decode attention on A100, which reads half of its cache."""
    profile = aiconfigurator(make_tables(tmp_path, bandwidth_factor=1.7))
    assert profile.law("attention_decode") is None
    (warning,) = [w for w in profile.warnings if w.startswith("left out")]
    assert "attention_decode bfloat16 bfloat16 vllm" in warning
    assert "exceed the memory bandwidth" in warning


def test_device_without_aiconfigurator_tables_is_refused(tmp_path: Path) -> None:
    folder = make_tables(tmp_path)
    with pytest.raises(InputError, match="has no tables for mi300x"):
        aiconfigurator(folder, "mi300x")
    with pytest.raises(InputError, match="has no tables for b200-sxm"):
        aiconfigurator(folder, "b200")


# Transferred laws against measurements of the target device.


def _of_trtllm(laws: Iterable[Law]) -> tuple[Law, ...]:
    """Return the laws of products in TensorRT-LLM, from whose tables the data are."""
    return tuple(
        law.model_copy(
            update={"config_key": {k: v for k, v in law.config_key.items() if k != "library"}}
        )
        for law in laws
        if law.operation == "matmul" and law.config_key.get("library", "trtllm") == "trtllm"
    )


def test_transfer_from_h200_to_h100_has_a_median_error_below_6_percent() -> None:
    """The best known error was 4.5 / 12.5 % (median / P90); the data are NVIDIA's H100 timings."""
    source = shipped_profile("h200-sxm")
    assert source is not None
    seen = pd.read_csv(SILICON / "h100_matmul_240.csv")
    laws = transfer_law(source, "h100-sxm")
    predicted = FittedLaw("matmul", _of_trtllm(laws)).predict(seen)
    error = np.abs(predicted["time_us"] / seen["time_us"] - 1.0)
    assert error.median() < 0.06
    assert error.quantile(0.9) < 0.15
    inside = (seen["time_us"] >= predicted["low_us"]) & (seen["time_us"] <= predicted["high_us"])
    assert 0.80 <= inside.mean() <= 0.99
    anchors = seen.sample(12, random_state=3).assign(operation="matmul")
    mended = transfer_law(source, "h100-sxm", anchors)
    again = FittedLaw("matmul", _of_trtllm(mended)).predict(seen)
    assert np.abs(again["time_us"] / seen["time_us"] - 1.0).median() < 0.065


def test_mi300x_laws_stay_far_below_the_datasheet_peak() -> None:
    """An MI300X reaches half of its datasheet's matmul rate; an H200 reaches five sixths."""
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
    # Two devices have only one of the seven links between them, so their bus bandwidth is lower.
    busbw = [2.0**30 / law_time(x, big).time_s[0] * f for x, f in ((two, 1.0), (eight, 1.75))]
    assert busbw[1] / busbw[0] > 4.0


def test_every_shipped_profile_passes_the_physics_check() -> None:
    for path in sorted(SHIPPED_PROFILES.glob("*.json")):
        profile = shipped_profile(path.stem)
        assert profile is not None
        assert [v.what for v in check_profile(profile) if v.severity == "error"] == []


UNKNOWN_PART = """BabelStream
Version: 5.0
Implementation: CUDA
Running kernels 100 times
Precision: double
Array size: 268.4 MB (=0.3 GB)
Total size: 805.3 MB (=0.8 GB)
Using CUDA device {name}
Function    MBytes/sec  Min (sec)   Max         Average
Copy        1704190.123 0.00031     0.00033     0.00032
"""


def test_import_without_a_datasheet_compares_nothing_and_says_so(tmp_path: Path) -> None:
    capture = tmp_path / "stream.txt"
    capture.write_text(UNKNOWN_PART.format(name="Future"))
    made = tmp_path / "made.json"
    importing = ("profile", "import", "babelstream", str(capture), "-o", str(made))
    assert "name does not say whose GPU it is" in groundspeed(*importing, "--device", "X9").err
    ran = groundspeed(*importing, "--device", "NVIDIA X9")
    assert ran.code == 0, ran.err
    assert "there is no datasheet of 'NVIDIA X9': its rates are compared with" in flat(ran.out)
    profile = load_profile(made)
    assert profile.datasheet is None and profile.device.memory_bytes is None
    assert [round(r.value / 1e9) for r in profile.rates] == [1704]
    assert groundspeed("profile", "check", str(made)).code == 0
    refused = groundspeed("estimate", "qwen3-8b", "--gpu", str(made))
    assert refused.code == 2 and "memory size" in refused.err, refused.err


def test_single_published_numbers_have_an_unknown_noise(tmp_path: Path) -> None:
    """Intervals without width do not overlap even when the change is nothing."""
    made = []
    for day, rate in (("monday", "1704190.123"), ("tuesday", "1704190.124")):
        capture = tmp_path / f"{day}.txt"
        capture.write_text(UNKNOWN_PART.format(name="NVIDIA A100-SXM4-80GB").replace(
            "1704190.123", rate))  # fmt: skip
        made.append(tmp_path / f"{day}.json")
        groundspeed("profile", "import", "babelstream", str(capture), "-o", str(made[-1]))
    comparison = compare_profiles(load_profile(made[0]), load_profile(made[1]))
    assert [r.beyond_noise for r in comparison.rates] == [None]


def flat(text: str) -> str:
    return " ".join(text.split())
