"""Name the settings of a GPU or a node that must be equal in a class, and what each explains.

A class is what hardware is (SKU, memory, form factor) and how it is cut (MIG, CPX). What it is set
to (power cap, clocks, driver, lanes of a link) can be wrong, so it must never define the class: the
one GPU capped at 500 W among others at 1400 W would have no peers left to be compared with.

    setting_of("pcie_link_width").name
"""

import re
from dataclasses import dataclass

from groundspeed.fleet.kinds import Kind

COMPUTE: frozenset[Kind] = frozenset(("tensor", "vector", "memory", "model"))
LINKS: frozenset[Kind] = frozenset(("nvlink", "network"))


@dataclass(frozen=True)
class Setting:
    """One setting: how it is recognized, what it slows, and what a deviation means."""

    name: str
    pattern: str
    """Regular expression that matches the names that people give it, in lower case."""
    explains: frozenset[Kind]
    """Kinds of metrics that a worse value slows."""
    unit: str = ""
    fault: bool = False
    """Whether a lower value is a fault of the hardware, and not a choice of somebody."""

    def text(self, value: str) -> str:
        """Return a value with its unit."""
        return value if value[-1:].isalpha() else f"{value} {self.unit}".strip()


SETTINGS: tuple[Setting, ...] = (
    Setting("power_cap", r"(enforced_|max_)?(power|tdp)_?(cap|limit)(_w(atts?)?)?", COMPUTE, "W"),
    Setting("memory_clock_limit", r"(application|app|applications|locked|max|limit)_?(mem|memory)"
            r"_?clocks?(_limit)?(_mhz)?|(mem|memory)_?clock_?(limit|max|cap)(_mhz)?|"
            r"clocks_(max|applications)_mem(ory)?(_mhz)?", COMPUTE, "MHz"),
    Setting("clock_limit", r"(application|app|applications|locked|max)_?(sm_|gfx_|graphics_)?"
            r"clocks?(_limit)?(_mhz)?|(sm_|gfx_|graphics_)?clock_?(limit|max|cap|lock)(_mhz)?|"
            r"clocks_(max|applications)_(sm|gr|graphics)(_mhz)?", COMPUTE, "MHz"),
    Setting("pcie_width", r"pcie?_?(link_?)?(width|lanes?)(_current|_cur)?|pcie_link_width_current|"
            r"link_width", frozenset(("host_link", "network")), "lanes", fault=True),
    Setting("pcie_gen", r"pcie?_?(link_?)?(gen(eration)?)(_current|_cur)?|pcie_link_gen_current|"
            r"pcie?_?(link_?)?speed(_gt_?s)?", frozenset(("host_link", "network"))),
    Setting("nvlinks", r"(num_?)?(nv|xgmi_?)links?(_?(active|count|up|number|lanes|links))*|"
            r"active_(nv|xgmi_?)links?|(nv|xgmi)_?lanes?(_active)?", frozenset(("nvlink",)),
            "links", fault=True),
    Setting("ecc", r"ecc(_mode|_enabled|_mode_current)?", frozenset(("memory",))),
    Setting("driver", r"driver(_version)?|nvidia_driver|amdgpu_version", COMPUTE),
    Setting("vbios", r"v?bios(_version)?|firmware(_version)?|fw(_version)?", COMPUTE),
    Setting("runtime", r"(cuda|rocm|nccl|rccl|torch)(_version)?", COMPUTE | LINKS),
    Setting("persistence", r"persistence(_mode)?", frozenset(("launch",))),
    Setting("governor", r"(cpu_)?governor|c_?states?|numa_balancing|iommu", frozenset(("launch",))),
)  # fmt: skip
"""Settings that are compared within a class; the first pattern that matches a name is used."""


def setting_of(name: str) -> Setting | None:
    """Return the setting that a column or a metric is; None if it is none.

    >>> setting_of("power_limit_w").name, setting_of("nvlink_active_gbps")
    ('power_cap', None)
    """
    plain = name.strip().lower().replace(" ", "_").replace(".", "_").replace("-", "_")
    return next((s for s in SETTINGS if re.fullmatch(s.pattern, plain)), None)
