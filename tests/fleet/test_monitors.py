"""Tables that monitors print about one node, without a column for the node."""

from pathlib import Path

from groundspeed.fleet.reading.fleet_files import read_fleet
from groundspeed.fleet.screen.screen_table import screen

QUERY = """\
timestamp, index, name, temperature.gpu, clocks.sm [MHz], power.draw [W], power.limit [W], \
pcie.link.width.current, ecc.errors.uncorrected.volatile.total
2026/11/01 10:00:00.000, 0, NVIDIA H100 80GB HBM3, 60, 1980 MHz, 680.00 W, 700.00 W, 16, 0
2026/11/01 10:00:00.000, 1, NVIDIA H100 80GB HBM3, 62, 1980 MHz, 681.00 W, 700.00 W, 16, 0
2026/11/01 10:00:00.000, 2, NVIDIA H100 80GB HBM3, 61, 1980 MHz, 683.00 W, 700.00 W, 8, 0
2026/11/01 10:00:00.000, 3, NVIDIA H100 80GB HBM3, 88, 1200 MHz, 420.00 W, 700.00 W, 16, 2
"""


def test_query_of_nvidia_smi_names_half_a_link_heat_and_lost_data(tmp_path: Path) -> None:
    path = tmp_path / "n17.csv"
    path.write_text(QUERY)
    screening = screen(read_fleet([path]))
    assert {(f.node, f.gpu, f.cause) for f in screening.findings} == {
        ("n17", 2, "pcie_width"), ("n17", 3, "thermal"), ("n17", 3, "hardware_errors"),
    }  # fmt: skip


def test_an_idle_gpu_is_cool_and_slow_and_not_blamed(tmp_path: Path) -> None:
    path = tmp_path / "n17.csv"
    path.write_text(QUERY.replace("88, 1200 MHz, 420.00 W", "35, 345 MHz, 75.00 W")
                    .replace(", 8, 0", ", 16, 0").replace(", 16, 2", ", 16, 0"))  # fmt: skip
    assert screen(read_fleet([path])).findings == ()


def test_burn_in_with_wrong_results_is_a_failure(cases: Path, tmp_path: Path) -> None:
    log = cases / "importers" / "other" / "gpu_burn.log"
    healthy = screen(read_fleet([log]))
    assert (healthy.gpus, healthy.fail, healthy.warn) == (8, 0, 0)
    faulty = tmp_path / "n3.log"
    text = log.read_text()
    last = text.rindex("errors: ")
    faulty.write_text(text[:last] + text[last:].replace("errors: 0", "errors: 7", 1))
    (finding,) = screen(read_fleet([faulty])).findings
    assert (finding.node, finding.gpu, finding.cause) == ("n3", 0, "hardware_errors")
