"""Datasheets: every number has a source, common GPU names resolve, missing values are refused."""

import csv
from pathlib import Path

import pytest
from pydantic import ValidationError

from groundspeed.profiles import DeviceSpec, InputError, find_device, load_datasheets

REQUIRED = [
    *("h100-sxm", "h100-pcie", "h100-nvl", "h200-sxm", "h20", "h800-sxm"),
    *("a100-sxm-80gb", "a100-pcie-80gb", "b200-sxm", "b300-sxm", "gb200"),
    *("mi300x", "mi325x", "mi308x", "mi355x", "l40s", "l40", "v100-sxm"),
]

ROWS = {
    "H100 SXM5": "h100-sxm",
    "H100 PCIe": "h100-pcie",
    "H100 NVL": "h100-nvl",
    "H200 SXM": "h200-sxm",
    "H20": "h20",
    "H800 SXM": "h800-sxm",
    "A100 SXM 80GB": "a100-sxm-80gb",
    "A100 PCIe 80GB": "a100-pcie-80gb",
    "B200 SXM (HGX)": "b200-sxm",
    "B300 SXM": "b300-sxm",
    "GB200 (per GPU)": "gb200",
    "MI300X": "mi300x",
    "MI325X": "mi325x",
    "MI308X": "mi308x",
    "MI355X": "mi355x",
}


@pytest.mark.parametrize("device", REQUIRED)
def test_required_device_is_shipped_with_a_source_for_each_number(device: str) -> None:
    spec = load_datasheets()[device]
    assert spec.quantities()
    assert all(spec.sources[q.source].title for q in spec.quantities().values())


def test_datasheet_values_equal_the_reference_table(reference: Path) -> None:
    with (reference / "datasheets.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ROWS)
    for row in rows:
        spec = load_datasheets()[ROWS[row["gpu"]]]
        for column, value, scale in (
            ("bf16_dense_tflops", spec.peak_flops_per_s.get("bfloat16"), 1e12),
            ("fp8_dense_tflops", spec.peak_flops_per_s.get("fp8"), 1e12),
            ("tf32_dense_tflops", spec.peak_flops_per_s.get("tf32"), 1e12),
            ("hbm_gb", spec.memory_bytes, 1e9),
            ("hbm_tb_s", spec.memory_bandwidth_bytes_per_s, 1e12),
            ("scaleup_unidir_gb_s", spec.scaleup_bandwidth_bytes_per_s, 1e9),
            ("p2p_unidir_gb_s", spec.p2p_bandwidth_bytes_per_s, 1e9),
        ):
            if row[column]:
                assert value is not None, (row["gpu"], column)
                assert value.value == pytest.approx(float(row[column]) * scale), (
                    row["gpu"],
                    column,
                )
            else:
                assert value is None, (row["gpu"], column)


@pytest.mark.parametrize(
    ("name", "device", "said"),
    [
        ("NVIDIA H200", "h200-sxm", False),
        ("H200-SXM-141GB", "h200-sxm", False),
        ("A100-SXM4-80GB", "a100-sxm-80gb", False),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb", False),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb", False),
        ("NVIDIA H100 80GB HBM3", "h100-sxm", False),
        ("AMD Instinct MI300X OAM", "mi300x", False),
        ("Tesla V100-SXM2-32GB", "v100-sxm", False),
        ("NVIDIA GeForce RTX 4090", "rtx-4090", False),
        ("h100", "h100-sxm", True),
        ("H200", "h200-sxm", True),
        ("a100", "a100-sxm-80gb", True),
        ("b200", "b200-sxm", True),
        ("h20", "h20", False),
    ],
)
def test_gpu_name_resolves_with_a_note_if_ambiguous(name: str, device: str, said: bool) -> None:
    match = find_device(name)
    assert match.spec.id == device
    assert (match.note is not None) == said


@pytest.mark.parametrize("name", ["h2000", "", "L4S", "A1000", "MI300", "4090 Laptop"])
def test_unknown_gpu_is_refused_with_a_hint(name: str) -> None:
    with pytest.raises(InputError, match="unknown GPU .*(known: |did you mean)") as caught:
        find_device(name)
    assert "\n" not in str(caught.value)


def test_misspelt_gpu_is_refused_with_the_closest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'mi300x'"):
        find_device("mi300xx")


def test_missing_peak_is_refused() -> None:
    mi308x = load_datasheets()["mi308x"]
    with pytest.raises(InputError, match="gives no bfloat16 peak"):
        mi308x.peak_flops("bfloat16")
    with pytest.raises(InputError, match="bfloat16"):
        load_datasheets()["v100-sxm"].peak_flops("bfloat16")


def test_roof_is_the_rate_at_the_highest_clock() -> None:
    # 132 SMs x 4 tensor cores x 512 FMA x 2 x 1.98 GHz is above the H100's datasheet peak.
    h100 = load_datasheets()["h100-sxm"]
    assert h100.roof_flops("bfloat16") == pytest.approx(132 * 4 * 512 * 2 * 1.98e9, rel=2e-3)
    assert load_datasheets()["rtx-6000-ada"].roof_flops("bfloat16") is None


def test_peak_per_compute_unit_and_clock_is_plausible() -> None:
    """A peak with sparsity (twice the dense rate) or in a wrong unit is far outside this range."""
    for spec in load_datasheets().values():
        peak, units, clock = (
            spec.peak_flops_per_s.get("bfloat16"),
            spec.compute_units,
            spec.peak_clock_hz,
        )
        if peak and units and clock:
            per_unit_and_clock = peak.value / units.value / clock.value
            assert 400 <= per_unit_and_clock <= 9000, spec.id
        if peak and "fp8" in spec.peak_flops_per_s:
            assert 1.9 <= spec.peak_flops("fp8") / peak.value <= 2.1, spec.id


def test_datasheet_value_with_an_unlisted_source_is_refused() -> None:
    with pytest.raises(ValidationError, match="not listed"):
        DeviceSpec.model_validate(
            {
                "id": "x",
                "name": "X",
                "vendor": "other",
                "architecture": "x",
                "sources": {},
                "memory_bytes": {"value": 1e9, "source": "hearsay"},
            }
        )


def test_a_remark_in_the_name_of_a_gpu_is_said_not_to_be_modelled() -> None:
    found = find_device("A100-SXM4-80GB (330W cap)")
    assert found.spec.id == "a100-sxm-80gb"
    assert found.note is not None and "330W cap' is not modelled" in found.note
