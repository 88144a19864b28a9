"""Every call of torch, Triton and the drivers' libraries exists in every supported version.

The versions' functions and parameters were read from their wheels (scripts/read_signatures.py).
"""

import json
from pathlib import Path

import pytest

from groundspeed.calibrate.version_gaps import GAPS, Gap
from used_names import PROPERTIES, used_names

MODULES = {"torch.cuda.nccl", "torch.distributed._symmetric_memory"}
"""Modules are no functions: what is used of them is listed by its own name."""

CPU_BUILD = "(build for the CPU)"
UNLISTED = {"pci_domain_id", "pci_bus_id", "pci_device_id"}
LIBRARIES = {"torch": "torch", "triton": "triton", "pynvml": "nvidia-ml-py", "amdsmi": "amdsmi"}

Column = dict[str, list[str]]


@pytest.fixture(scope="module")
def versions(root: Path) -> dict[str, dict[str, Column]]:
    path = root / "tests" / "data" / "signatures.json"
    found: dict[str, dict[str, Column]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def lacking(column: Column, library: str) -> set[str]:
    """Names and parameters that this project uses and one version of a library lacks."""
    missing = set()
    for name, keywords in used_names().items():
        if LIBRARIES[name.split(".")[0]] != library or name in MODULES:
            continue
        if name not in column:
            missing.add(name)
            continue
        known = set(column[name])
        if name == PROPERTIES and CPU_BUILD in known:
            known |= UNLISTED
        if "**" not in known:
            missing |= {f"{name}.{keyword}" for keyword in keywords - known}
    return missing


def test_matrix_has_the_supported_versions(versions: dict[str, dict[str, Column]]) -> None:
    assert {"2.6.0", "2.8.0", "2.11.0", "2.12.0", "2.13.0"} <= set(versions["torch"])
    assert {"3.2.0", "3.4.0", "3.6.0", "3.9.0"} <= set(versions["triton"])
    assert versions["nvidia-ml-py"] and versions["amdsmi"]


def test_every_used_name_exists_in_every_version_or_is_a_known_gap(
    versions: dict[str, dict[str, Column]],
) -> None:
    known = {gap.name for gap in GAPS}
    unknown = {
        f"{library} {version} lacks {name}"
        for library, columns in versions.items()
        for version, column in columns.items()
        for name in lacking(column, library)
        if name not in known
        and not (name.startswith(PROPERTIES) and name.rsplit(".", 1)[1] in UNLISTED)
    }  # fmt: skip
    assert unknown == set()


@pytest.mark.parametrize("gap", GAPS, ids=lambda gap: gap.name)
def test_known_gap_is_one_in_exactly_the_versions_before_the_stated_one(
    versions: dict[str, dict[str, Column]], gap: Gap
) -> None:
    library, since = gap.since.split()
    for version, column in versions[library].items():
        owner, _, field = gap.name.rpartition(".")
        fields = column.get(owner)
        if fields is not None and CPU_BUILD in fields:
            continue
        has = gap.name in column or (fields is not None and field in fields)
        newer = tuple(map(int, version.split(".")))[:2] >= tuple(map(int, since.split(".")))
        assert has == newer, version


def test_used_names_are_read_from_the_source() -> None:
    used = used_names()
    assert used["torch.cuda.Event"] >= {"enable_timing"}
    assert used["torch._scaled_mm"] >= {"use_fast_accum", "out_dtype"}
    assert used[PROPERTIES] >= {"uuid", "gcnArchName", "L2_cache_size"}
    assert "pynvml.nvmlDeviceGetFieldValues" in used
