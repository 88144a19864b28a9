"""Importers for the output of other link benchmarks: values, refusals and physical limits."""

from pathlib import Path

import pandas as pd
import pytest

from groundspeed.calibrate.importers import IMPORTERS, ImportRequest, import_profile
from groundspeed.profiles import InputError, check_profile
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.utilization import utilization
from program import groundspeed
from repository import TEST_DATA

DATA = TEST_DATA / "links"


def read(tool: str, name: str, text: str | None = None, **more: str) -> Profile:
    path = DATA / name
    request = ImportRequest(path, path.read_text() if text is None else text, tool, **more)
    profile = import_profile(request, IMPORTERS[tool], "a test")
    assert [v.what for v in check_profile(profile) if v.severity == "error"] == []
    return profile


def rate(profile: Profile, quantity: str) -> float:
    return next(r.value for r in profile.rates if r.quantity.startswith(quantity))


def test_nccl_tests_table_is_imported() -> None:
    profile = read("nccl-tests", "all_reduce_h100.txt")
    (curve,) = profile.curves
    assert curve.config_key == {"op": "all_reduce", "world_size": "2", "mode": "eager"}
    assert curve.origin == "imported"
    assert profile.datasheet is not None and profile.datasheet.id == "h100-sxm"
    assert rate(profile, "all_reduce x2") == pytest.approx(315.08e9, rel=1e-4)
    law = profile.law("collective", op="all_reduce", world_size="2")
    assert law is not None and law.origin == "imported"


def test_nccl_tests_json_marks_the_row_with_wrong_results_invalid() -> None:
    profile = read("nccl-tests", "all_gather.json")
    (curve,) = profile.curves
    assert curve.config_key == {"op": "all_gather", "world_size": "4", "mode": "graph"}
    assert [p.valid for p in curve.points] == [True, True, True, False]
    assert profile.interconnect is not None and profile.interconnect.version == "2.29.2"
    assert rate(profile, "all_gather x4 in a graph") == pytest.approx(197.07e9, rel=1e-3)


def test_nvbandwidth_json_is_imported() -> None:
    profile = read("nvbandwidth", "nvbandwidth.json")
    assert rate(profile, "host link h2d pinned") == pytest.approx(55.4e9)
    assert rate(profile, "pairs one-way") == pytest.approx(396.1e9)
    assert profile.warnings == ("waived: device_to_device_bidirectional_memcpy_write_ce",)
    assert profile.environment.driver == "560.35.05"


def test_rocm_bandwidth_test_output_is_imported() -> None:
    profile = read("rocm-bandwidth-test", "rocm_bandwidth_test.txt")
    assert profile.device.vendor == "amd"
    assert rate(profile, "pairs one-way") == pytest.approx(48.11e9)
    assert rate(profile, "pairs both-ways") == pytest.approx(91.3e9)
    assert rate(profile, "host link d2h pinned") == pytest.approx(56.12e9)


def test_transferbench_output_needs_a_device_name() -> None:
    with pytest.raises(InputError, match="does not say which GPU was measured"):
        read("transferbench", "transferbench_p2p.txt")
    profile = read("transferbench", "transferbench_p2p.txt", device="mi300x")
    assert rate(profile, "pairs one-way") == pytest.approx(47.9e9)
    assert rate(profile, "host link h2d pinned") == pytest.approx(52.3e9)


TABLE = (DATA / "all_reduce_h100.txt").read_text()


@pytest.mark.parametrize(
    ("tool", "text", "said"),
    [
        ("nccl-tests", "", "no table of nccl-tests found"),
        ("nccl-tests", TABLE.replace("# ", "  "), "fewer than two ranks"),
        ("nccl-tests", TABLE.replace("14.26", "fast"), "line 10: this row of the table"),
        ("nccl-tests", '{"results": 3}', "JSON of another layout"),
        ("nvbandwidth", "[]", "no test of nvbandwidth found"),
        ("nvbandwidth", "{}", "not the JSON of nvbandwidth"),
        ("rocm-bandwidth-test", "Device: 0", "no measurement of rocm-bandwidth-test"),
        ("transferbench", "hello", "no matrix of TransferBench"),
    ],
)
def test_text_that_is_not_the_tool_s_output_is_refused(tool: str, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(tool, "all_reduce_h100.txt", text, device="h100-sxm")


def test_busbw_factor_of_another_collective_is_refused() -> None:
    with pytest.raises(InputError, match=r"busbw is 1.00 times algbw, but for all_gather .* 0.50"):
        read("nccl-tests", "all_reduce_h100.txt", op="all_gather")


def test_busbw_far_above_the_link_bandwidth_is_refused(tmp_path: Path) -> None:
    """The table is eight times too fast, as if bits were taken for bytes.

    Not even in-network reduction explains a busbw of five times the link bandwidth.
    """
    fast = TABLE.replace("1703.90  315.08  315.08", " 212.99 2520.64 2520.64")
    path = tmp_path / "all_reduce.txt"
    path.write_text(fast)
    ran = groundspeed("profile", "import", "nccl-tests", str(path), "--profile-dir", str(tmp_path))
    assert ran.code == 2
    assert "above the link's 450 GB/s" in ran.err


def test_import_command_writes_a_profile_and_suggests_the_tool_name(tmp_path: Path) -> None:
    file = str(DATA / "all_reduce_h100.txt")
    ran = groundspeed("profile", "import", "nccl-tests", file, "--profile-dir", str(tmp_path))
    assert ran.code == 0, ran.err
    assert "all_reduce x2" in ran.out and "315 GB/s" in ran.out
    assert len(list(tmp_path.glob("nccl-tests-h100-sxm-*.json"))) == 1
    wrong = groundspeed("profile", "import", "ncl-tests", file)
    assert (wrong.code, "did you mean 'nccl-tests'" in wrong.err) == (2, True)


def silicon(reference: Path, name: str, query: str) -> str:
    frame = pd.read_csv(reference / "silicon" / f"h200_{name}.csv.gz").query(query)
    return frame.to_csv(index=False)


def test_import_of_7000_matmul_rows_keeps_192_and_fits_a_law(reference: Path) -> None:
    """7000 rows become a profile file below 300 kB whose law is fitted to 192 of them."""
    text = silicon(reference, "matmul", "dtype == 'bfloat16' and library.str.startswith('trtllm')")
    path = reference / "silicon" / "h200_matmul.csv.gz"
    request = ImportRequest(path, text, "csv", device="h200-sxm", op="matmul")
    profile = import_profile(request, IMPORTERS["csv"], "a test")
    assert [v.what for v in check_profile(profile) if v.severity == "error"] == []
    assert len(profile.model_dump_json(exclude_none=True)) < 300_000
    (law,) = profile.laws
    assert (law.origin, law.model_form, law.points) == ("imported", "gemm", 192)
    prefill = [u for u in utilization(profile) if u.phase == "prefill"]
    assert all(0.5 < (u.share or 0.0) < 0.9 for u in prefill)  # 60 % is at its low end
    assert "6808 of 7000 rows were not kept" in profile.warnings[0]


GOOD = "dtype,m,n,k,time_us\n" + "".join(
    f"bfloat16,{2**i},4096,4096,{8.0 + 2**i / 20}\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "op", "said"),
    [
        (GOOD, None, "does not say which operation"),
        (GOOD, "matmull", "did you mean 'matmul'"),
        (GOOD.replace("time_us", "time_ms"), "matmul", "lacks the column time_us"),
        (GOOD.replace("8.05", "fast"), "matmul", "line 2: time_us is 'fast'"),
        (GOOD.replace("8.05", "-1"), "matmul", "line 2: time_us is '-1"),
        (GOOD.replace("bfloat16,1,", "bfloat16,,"), "matmul", "line 2: m is 'nan'"),
        ("", "matmul", "not a table"),
        (GOOD.replace("bfloat16", "bf16x"), "matmul", "unknown data type 'bf16x'"),
    ],
)
def test_csv_with_missing_or_bad_values_is_refused(text: str, op: str | None, said: str) -> None:
    request = ImportRequest(DATA / "all_reduce_h100.txt", text, "csv", device="h200-sxm", op=op)
    with pytest.raises(InputError, match=said):
        import_profile(request, IMPORTERS["csv"], "a test")


def test_milliseconds_given_as_microseconds_are_refused(tmp_path: Path) -> None:
    """Milliseconds in the column for microseconds give rates far above the roof."""
    path = tmp_path / "gemm.csv"
    path.write_text("dtype,m,n,k,time_us\n" + "".join(
        f"bfloat16,{2**i},8192,8192,{0.001 * (20 + 2**i / 6)}\n" for i in range(6, 14)
    ))  # fmt: skip
    ran = groundspeed(
        "profile", "import", "csv", str(path), "--op", "matmul", "--device", "h200-sxm",
        "--profile-dir", str(tmp_path / "profiles"),
    )  # fmt: skip
    assert ran.code == 2
    assert "fails the physics check" in ran.err and "roof of h200-sxm" in ran.err
    assert not list((tmp_path / "profiles").glob("*.json"))


P2P = """\
[P2P (Peer-to-Peer) GPU Bandwidth Latency Test]
Device: 0, NVIDIA A100-SXM4-80GB, pciBusID: 10, pciDeviceID: 0, pciDomainID:0
Device: 1, NVIDIA A100-SXM4-80GB, pciBusID: 16, pciDeviceID: 0, pciDomainID:0
P2P Connectivity Matrix
     D\\D     0     1
     0\t     1     1
     1\t     1     1
Unidirectional P2P=Disabled Bandwidth Matrix (GB/s)
   D\\D     0      1
     0 1534.71  16.92
     1  17.00 1576.67
Unidirectional P2P=Enabled Bandwidth (P2P Writes) Matrix (GB/s)
   D\\D     0      1
     0 1534.71 268.94
     1 265.05 1582.26
Bidirectional P2P=Enabled Bandwidth Matrix (GB/s)
   D\\D     0      1
     0 1590.31 416.29
     1 418.51 1592.74
P2P=Enabled Latency (P2P Writes) Matrix (us)
   GPU     0      1
     0   3.36   3.38
     1   3.44   3.28
"""


def test_pairs_of_the_cuda_sample_are_read_with_peer_access(tmp_path: Path) -> None:
    text = P2P.replace("\\\\", "\\")
    profile = read("p2pbandwidthlatencytest", "README.md", text)
    assert profile.datasheet is not None and profile.datasheet.id == "a100-sxm-80gb"
    (one_way,) = [c for c in profile.curves if c.config_key["direction"] == "one-way"]
    rates = {(p.case["from"], p.case["to"]): p.case["bytes"] / p.time_s for p in one_way.points}
    assert rates[0, 1] == pytest.approx(268.94e9) and rates[1, 0] == pytest.approx(265.05e9)
    assert len(rates) == 2  # the diagonal is no pair


def test_another_part_than_the_file_names_is_said() -> None:
    profile = read("p2pbandwidthlatencytest", "README.md", P2P, device="h100-sxm")
    assert any("measured on 'NVIDIA A100-SXM4-80GB'" in w for w in profile.warnings)
    assert not read("p2pbandwidthlatencytest", "README.md", P2P, device="a100-sxm-80gb").warnings


def test_perftest_gives_the_link_in_units_of_its_header() -> None:
    real = (TEST_DATA / "tools" / "ib_write_bw.log").read_text()
    profile = read("perftest", "README.md", real, device="h100-sxm")
    # perftest calls 2^20 bytes a MB.
    assert rate(profile, "pairs one-way") == pytest.approx(24056.72 * 2**20, rel=1e-6)
    in_bits = real.replace("MB/sec", "Gb/sec").replace("24056.72", "201.80")
    profile = read("perftest", "README.md", in_bits, device="h100-sxm")
    assert rate(profile, "pairs one-way") == pytest.approx(201.80e9 / 8, rel=1e-6)
    with pytest.raises(InputError, match="8 bytes, too few"):
        read("perftest", "README.md", real.replace("8388608", "8      "), device="h100-sxm")


def test_hipblaslt_rows_must_agree_with_themselves() -> None:
    real = (TEST_DATA / "tools" / "hipblaslt_bench.txt").read_text()
    profile = read("hipblaslt-bench", "README.md", real, device="mi300x")
    (curve,) = profile.curves
    assert curve.config_key["dtype"] == "float32" and curve.backend == "hipblaslt"
    assert curve.points[0].time_s == pytest.approx(10.4e-6)
    with pytest.raises(InputError, match="but it says 4032.98"):
        read("hipblaslt-bench", "README.md", real.replace("403.298", "4032.98"), device="mi300x")
    for old, new, said in (
        (",10.4,", ",0,", "'0' as us"), (",10.4,", ",n/a,", "'n/a' as us"),
        ("hipblaslt-Gflops", "rocblas-Gflops", "no column hipblaslt-Gflops"),
        ("f32_r,f32_r", "f64_r,f32_r", "left out: 1 products of type f64_r"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            read("hipblaslt-bench", "README.md", real.replace(old, new, 1), device="mi300x")
