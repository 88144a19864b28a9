"""Import measurements made by other tools, so that they need not be measured again.

Each module reads the output of one tool into curves. The shared code, which turns curves into a
profile, is in ``imported``. Every imported profile must pass the physics check before it is
written.

    request = ImportRequest(path, path.read_text(), "nccl-tests", device="h100-sxm")
    profile = import_profile(request, IMPORTERS["nccl-tests"], command)
"""

from groundspeed.calibrate.importers.aiconfigurator import read_aiconfigurator
from groundspeed.calibrate.importers.babelstream import read_babelstream
from groundspeed.calibrate.importers.bandwidth_matrix import (
    read_rocm_bandwidth_test,
    read_transferbench,
)
from groundspeed.calibrate.importers.csv_table import read_csv
from groundspeed.calibrate.importers.imported import Importer, ImportRequest, import_profile
from groundspeed.calibrate.importers.nccl_tests import read_nccl_tests
from groundspeed.calibrate.importers.nvbandwidth import read_nvbandwidth
from groundspeed.calibrate.importers.point_tools import (
    read_hipblaslt,
    read_p2p_test,
    read_perftest,
)
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
    "p2pbandwidthlatencytest": read_p2p_test,
    "perftest": read_perftest,
    "hipblaslt-bench": read_hipblaslt,
}
"""The reader of each supported tool, by the name of the tool."""

__all__ = ["IMPORTERS", "ImportRequest", "Importer", "import_profile"]
