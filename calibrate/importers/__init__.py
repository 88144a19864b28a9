"""Readers of what other tools have measured, so that nobody measures twice.

Each file reads one tool's real output into curves; what is common is in ``imported``. Everything
imported passes the physics check before it is written.
"""

from groundspeed.calibrate.importers.aiconfigurator import read_aiconfigurator
from groundspeed.calibrate.importers.babelstream import read_babelstream
from groundspeed.calibrate.importers.bandwidth_matrix import (
    read_nvbandwidth,
    read_rocm_bandwidth_test,
    read_transferbench,
)
from groundspeed.calibrate.importers.csv_table import read_csv
from groundspeed.calibrate.importers.imported import Importer, ImportRequest, import_profile
from groundspeed.calibrate.importers.nccl_tests import read_nccl_tests
from groundspeed.calibrate.importers.shapes import read_mamf, read_superbench

IMPORTERS: dict[str, Importer] = {
    "aiconfigurator": read_aiconfigurator,
    "babelstream": read_babelstream,
    "csv": read_csv,
    "mamf": read_mamf,
    "superbench": read_superbench,
    "nccl-tests": read_nccl_tests,
    "rccl-tests": read_nccl_tests,
    "nvbandwidth": read_nvbandwidth,
    "rocm-bandwidth-test": read_rocm_bandwidth_test,
    "transferbench": read_transferbench,
}
"""Every format, by the name of its tool."""

__all__ = ["IMPORTERS", "ImportRequest", "Importer", "import_profile"]
