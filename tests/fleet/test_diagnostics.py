"""Output of vendors' diagnostics of one node: DCGM's JSON and gpu-fryer's summary."""

import json
from pathlib import Path

import pytest

from groundspeed.fleet.reading.fleet_files import read_fleet
from groundspeed.fleet.screen.findings import Finding
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import FleetTable
from groundspeed.profiles import InputError
from repository import TEST_DATA

REAL = TEST_DATA / "tools" / "dcgm_diag_gb10.json"


def judged(table: FleetTable) -> list[Finding]:
    """Return the findings that judge: one GPU has no class to compare its rates with."""
    return [f for f in screen(table).findings if f.verdict != "INCONCLUSIVE"]


def test_failed_deployment_test_is_a_warning_with_its_own_words() -> None:
    table = read_fleet([REAL])
    rates = table.rows.set_index("metric")["value"]
    assert rates["d2h_bandwidth"] == pytest.approx(58.62)
    assert rates["h2d_bandwidth"] == pytest.approx(58.88)
    (finding,) = judged(table)
    assert (finding.verdict, finding.cause, finding.gpu) == ("WARN", "failed_test", 0)
    assert "Persistence mode for GPU 0 is disabled" in finding.evidence


@pytest.mark.parametrize("version", [3, 4])
def test_failed_hardware_test_condemns_the_gpu(tmp_path: Path, version: int) -> None:
    def result(gpu: int) -> dict[str, object]:
        named = {"gpu_id": str(gpu)} if version == 3 else {"entity_group": "GPU", "entity_id": gpu}
        return {**named, "status": "Fail" if gpu == 5 else "Pass", "info": "Allocated 90%"}

    # Old versions leave a null where a test did not run.
    tests = [None, {"name": "Memory", "results": [result(g) for g in range(8)]}]
    path = tmp_path / "n9.json"
    path.write_text(json.dumps({
        "DCGM GPU Diagnostic" if version == 3 else "DCGM Diagnostic": {
            "test_categories": [{"category": "Hardware", "tests": tests}]}
    }))  # fmt: skip
    (finding,) = judged(read_fleet([path]))
    assert (finding.node, finding.gpu, finding.verdict) == ("n9", 5, "FAIL")
    assert finding.cause == "failed_test"


TABLE = """\
Successfully ran diagnostic for group.
+---------------------------+------------------------------------------------+
| Diagnostic                | Result                                         |
+===========================+================================================+
| Denylist                  | Pass                                           |
+---------------------------+------------------------------------------------+
"""


def test_table_of_dcgmi_is_refused_with_what_to_give(tmp_path: Path) -> None:
    path = tmp_path / "n1.txt"
    path.write_text(TABLE)
    with pytest.raises(InputError, match="dcgmi diag -j"):
        read_fleet([path])


def test_a_folder_of_captures_is_a_fleet_of_its_files(tmp_path: Path) -> None:
    for node in ("n1", "n2", "n3", "n4"):
        (tmp_path / f"{node}.out").write_text("======== Run with bf16 ==========\n" + "".join(
            FRYER.format(gpu=g, rate=700_000 if (node, g) == ("n3", 2) else 880_000 + 100 * g,
                         heat=69, hot="false")
            for g in range(8)
        ))  # fmt: skip
    (finding,) = judged(read_fleet([tmp_path]))
    assert (finding.node, finding.gpu) == ("n3", 2)


FRYER = """\
GPU #{gpu}: {rate} Gflops/s (min: 1.00, max: 882907.84, dev: 548.89)
         Temperature: {heat}.93°C (min: 68.00, max: 70.00)
         Throttling HW: false, Thermal SW: {hot}, Thermal HW: false
"""


def test_a_throttled_gpu_of_gpu_fryer_is_slow_for_heat(tmp_path: Path) -> None:
    path = tmp_path / "n4.out"
    path.write_text("======== Run with bf16 ==========\n" + "".join(
        FRYER.format(gpu=g, rate=700_000 if g == 6 else 880_000 + 100 * g,
                     heat=92 if g == 6 else 69, hot="true" if g == 6 else "false")
        for g in range(8)
    ))  # fmt: skip
    (finding,) = judged(read_fleet([path]))
    assert (finding.gpu, finding.cause, finding.metric) == (6, "thermal", "gemm_bf16")
    assert finding.loss_fraction == pytest.approx(1 - 700 / 880.3, abs=0.005)
