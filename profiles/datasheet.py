"""Datasheets: the numbers that vendors publish for a device, each with its source.

There is one TOML file per device in ``datasheets/``. A number without a source is not loaded.
Numbers that a datasheet does not give are absent, and a method that needs one raises an error
instead of guessing. All peaks are dense (no sparsity). ``peak_clock_hz`` is the clock at which the
datasheet computes its peak, ``max_clock_hz`` is the highest clock of the device. Example: the 989
TFLOPS of an H100 are 132 SMs at 1830 MHz, but it boosts to 1980 MHz and can then reach 1070. The
limit that no measurement may exceed is the latter.

>>> find_device("NVIDIA H200").spec.id
'h200-sxm'
>>> find_device("a100").note
"'a100' taken as a100-sxm-80gb (the SXM part)"
"""

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.record import Positive, Record, describe


class Source(Record):
    """The publication from which a number was taken."""

    title: str
    url: str | None = None
    confidence: Literal["high", "medium", "low"]


class Quantity(Record):
    """A number and the key of its source in ``DeviceSpec.sources``."""

    value: Positive
    source: str
    note: str | None = None


PEAK_OF = {
    "fp8_row": "fp8",
    "fp8_exact": "fp8",
    "fp8_row_exact": "fp8",
    "fp8_block": "fp8",
    "int4_wo": "bfloat16",
    "w4a16_mxfp4": "bfloat16",
    "w4a8_mxfp4_mxfp8": "fp8",
    "nvfp4": "fp4",
}
"""Formats that run on the matrix units of another data type, and therefore have its peak.

They differ from that data type only in how values are scaled or stored.
"""


PCIE = re.compile(r"PCIe Gen\s?(\d) x(\d+)")

PCIE_LANE_BYTES_PER_S = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""[bytes/s] One lane in one direction, by generation (PCI-SIG: 8, 16, 32 and 64 GT/s, encoded)."""


class DeviceSpec(Record):
    """Datasheet of one device: SI units, dense peaks, link bandwidths in one direction."""

    id: str
    name: str
    vendor: Literal["nvidia", "amd", "intel", "other"]
    architecture: str
    aliases: tuple[str, ...] = ()
    """Other names that users and drivers give exactly this device."""
    short_names: tuple[str, ...] = ()
    """Names without a variant that select this device, e.g. ``h100`` for the SXM variant."""
    notes: tuple[str, ...] = ()
    sources: dict[str, Source]
    compute_units: Quantity | None = None
    peak_clock_hz: Quantity | None = None
    max_clock_hz: Quantity | None = None
    peak_flops_per_s: dict[str, Quantity] = Field(default_factory=dict)
    memory_bytes: Quantity | None = None
    memory_bandwidth_bytes_per_s: Quantity | None = None
    usable_memory_bytes: Quantity | None = None
    """[bytes] Memory that the driver reports: vendors count memory chips, which are binary."""
    l2_bytes: Quantity | None = None
    last_level_cache_bytes: Quantity | None = None
    scaleup_bandwidth_bytes_per_s: Quantity | None = None
    """[bytes/s] Bandwidth in one direction, all scale-up links of the device together."""
    p2p_bandwidth_bytes_per_s: Quantity | None = None
    """[bytes/s] Bandwidth in one direction between two devices."""
    scaleup_devices: Quantity | None = None
    """[1] Number of devices that share the scale-up links: 8 in most nodes, 72 in an NVL72."""
    inter_node_bandwidth_bytes_per_s: Quantity | None = None
    """[bytes/s] Line rate of one device between nodes, in one direction, in the vendor's reference
    system; a cluster may have less."""
    host_link: str | None = None
    power_cap_w: Quantity | None = None

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> "DeviceSpec":
        for name, quantity in self.quantities().items():
            if quantity.source not in self.sources:
                raise ValueError(f"'{name}' cites source '{quantity.source}', which is not listed")
        return self

    def quantities(self) -> dict[str, Quantity]:
        """Return all numbers by name; peaks have names like ``peak_flops_per_s.bfloat16``."""
        quantities: dict[str, Quantity] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Quantity):
                quantities[name] = value
        quantities |= {f"peak_flops_per_s.{d}": q for d, q in self.peak_flops_per_s.items()}
        return quantities

    @property
    def device_link_bytes_per_s(self) -> float | None:
        """[bytes/s] Line rate between devices in one direction: scale-up, peer, else host link."""
        for quantity in (self.scaleup_bandwidth_bytes_per_s, self.p2p_bandwidth_bytes_per_s):
            if quantity is not None:
                return quantity.value
        found = PCIE.search(self.host_link or "")
        return PCIE_LANE_BYTES_PER_S[int(found[1])] * int(found[2]) if found else None

    def peak(self, dtype: str) -> Quantity | None:
        """Return the dense peak of a data type or scaled format; None if the datasheet has none."""
        return self.peak_flops_per_s.get(PEAK_OF.get(dtype, dtype))

    def peak_flops(self, dtype: str) -> float:
        """Return the dense peak of a data type [FLOP/s].

        Raises
        ------
        InputError
            If the datasheet gives no peak for the data type.
        """
        peak = self.peak(dtype)
        if peak is None:
            known = ", ".join(sorted(self.peak_flops_per_s)) or "none at all"
            raise InputError(
                f"the datasheet of {self.id} gives no {dtype} peak",
                remedy=f"peaks given: {known}; a measured profile works without a peak",
            )
        return peak.value

    def memory_bandwidth(self) -> float:
        """Return the peak memory bandwidth [bytes/s].

        Raises
        ------
        InputError
            If the datasheet does not give it.
        """
        if self.memory_bandwidth_bytes_per_s is None:
            raise InputError(f"the datasheet of {self.id} gives no memory bandwidth")
        return self.memory_bandwidth_bytes_per_s.value

    def roof_flops(self, dtype: str) -> float | None:
        """Return the peak at the highest clock [FLOP/s]; None if the datasheet lacks a number."""
        peak = self.peak(dtype)
        if peak is None or self.max_clock_hz is None or self.peak_clock_hz is None:
            return None
        return peak.value * max(1.0, self.max_clock_hz.value / self.peak_clock_hz.value)


@dataclass(frozen=True)
class DatasheetMatch:
    """A datasheet and, if the name was ambiguous, a note on how it was interpreted."""

    spec: DeviceSpec
    note: str | None = None


@functools.cache
def load_datasheets() -> dict[str, DeviceSpec]:
    """Return all datasheets that ship with groundspeed, by id.

    Raises
    ------
    InputError
        If a datasheet is malformed, or two datasheets have the same name.
    """
    specs: dict[str, DeviceSpec] = {}
    folder = resources.files("groundspeed.profiles") / "datasheets"
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if not entry.name.endswith(".toml"):
            continue
        try:
            spec = DeviceSpec.model_validate(tomllib.loads(entry.read_text(encoding="utf-8")))
        except (ValidationError, tomllib.TOMLDecodeError) as error:
            problem = describe(error) if isinstance(error, ValidationError) else str(error)
            raise InputError(problem, where=f"datasheet {entry.name}") from error
        specs[spec.id] = spec
    _names(specs)
    return specs


def _plain(name: str) -> str:
    """Reduce a device name to its identifying part: lower case, no vendor words or punctuation."""
    words = re.split(r"[^a-z0-9+]+", name.lower())
    dropped = {"nvidia", "amd", "instinct", "geforce", "tesla", "corporation", "oam", "gpu", ""}
    return "".join(w for w in words if w not in dropped)


def _names(specs: dict[str, DeviceSpec]) -> dict[str, DeviceSpec]:
    """Return the datasheet of every normalized name.

    Raises
    ------
    InputError
        If two datasheets have the same name.
    """
    table: dict[str, DeviceSpec] = {}
    for spec in specs.values():
        for key in {_plain(n) for n in (spec.id, spec.name, *spec.aliases, *spec.short_names)}:
            if key in table and table[key].id != spec.id:
                raise InputError(
                    f"datasheets {table[key].id} and {spec.id} have the same name '{key}'"
                )
            table[key] = spec
    return table


def find_device(name: str) -> DatasheetMatch:
    """Find the datasheet of a device by any name that users or drivers give it.

    Parameters
    ----------
    name : str
        An id (``h200-sxm``), a driver's name (``NVIDIA A100-SXM4-80GB``) or a bare name (``h100``).

    Returns
    -------
    DatasheetMatch

    Raises
    ------
    InputError
        If no device has that name; the message suggests similar names.
    """
    specs = load_datasheets()
    names = _names(specs)
    spec = names.get(_plain(name))
    bare, _, remark = name.partition(" (")
    if spec is None and remark and (spec := names.get(_plain(bare))) is not None:
        return DatasheetMatch(
            spec, f"'{name}' taken as {spec.id}; '{remark.rstrip(')')}' is not modelled"
        )
    if spec is None:
        raise InputError(f"unknown GPU '{name}'", remedy=did_you_mean(name, specs))
    if name.strip().lower() in (n.lower() for n in spec.short_names):
        part = spec.name.split()[-1]
        return DatasheetMatch(spec, f"'{name}' taken as {spec.id} (the {part} part)")
    return DatasheetMatch(spec)
