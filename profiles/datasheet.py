"""Datasheets: what the vendor promises, number by number, each with its source.

One TOML file a device in ``datasheets/``. A number without a source does not load; what a sheet
lacks is absent, and a method that needs it refuses instead of guessing. All peaks are dense (no
sparsity). ``peak_clock_hz`` is the clock at which the sheet computes its peak, ``max_clock_hz``
the highest the part runs: an H100's 989 TFLOPS are 132 SMs at 1830 MHz, yet it boosts to 1980 and
honestly reaches 1070. The roof that a measurement must not break is the second one.

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
    """The publication in which a number was read."""

    title: str
    url: str | None = None
    confidence: Literal["high", "medium", "low"]


class Quantity(Record):
    """A number and the key of the source it was read from."""

    value: Positive
    source: str
    note: str | None = None


PEAK_OF = {
    "fp8_row": "fp8",
    "fp8_block": "fp8",
    "int4_wo": "bfloat16",
    "w4a16_mxfp4": "bfloat16",
    "w4a8_mxfp4_mxfp8": "fp8",
    "nvfp4": "fp4",
}
"""Formats that differ in how they are scaled or stored, not in the units they run on."""


class DeviceSpec(Record):
    """One device as its vendor describes it; SI units, dense peaks, one direction of a link."""

    id: str
    name: str
    vendor: Literal["nvidia", "amd", "intel", "other"]
    architecture: str
    aliases: tuple[str, ...] = ()
    """Names that people and drivers use for exactly this part."""
    short_names: tuple[str, ...] = ()
    """Short names that mean this part where no variant is given ('h100')."""
    notes: tuple[str, ...] = ()
    sources: dict[str, Source]
    compute_units: Quantity | None = None
    peak_clock_hz: Quantity | None = None
    max_clock_hz: Quantity | None = None
    peak_flops_per_s: dict[str, Quantity] = Field(default_factory=dict)
    memory_bytes: Quantity | None = None
    memory_bandwidth_bytes_per_s: Quantity | None = None
    l2_bytes: Quantity | None = None
    last_level_cache_bytes: Quantity | None = None
    scaleup_bandwidth_bytes_per_s: Quantity | None = None
    """One direction, all links of a device together."""
    p2p_bandwidth_bytes_per_s: Quantity | None = None
    """One direction, one pair of devices."""
    host_link: str | None = None
    power_cap_w: Quantity | None = None

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> "DeviceSpec":
        for name, quantity in self.quantities().items():
            if quantity.source not in self.sources:
                raise ValueError(f"'{name}' cites source '{quantity.source}', which is not listed")
        return self

    def quantities(self) -> dict[str, Quantity]:
        """All numbers by name; peaks as ``peak_flops_per_s.bfloat16``."""
        quantities: dict[str, Quantity] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Quantity):
                quantities[name] = value
        quantities |= {f"peak_flops_per_s.{d}": q for d, q in self.peak_flops_per_s.items()}
        return quantities

    def peak(self, dtype: str) -> Quantity | None:
        """Dense peak of a data type, None where the sheet lacks it; scales cost no peak."""
        return self.peak_flops_per_s.get(PEAK_OF.get(dtype, dtype))

    def peak_flops(self, dtype: str) -> float:
        """Dense peak of a data type [FLOP/s].

        Raises
        ------
        InputError
            If the sheet gives no peak for it.
        """
        peak = self.peak(dtype)
        if peak is None:
            known = ", ".join(sorted(self.peak_flops_per_s)) or "none at all"
            raise InputError(
                f"the datasheet of {self.id} gives no {dtype} peak",
                remedy=f"it gives: {known}; a measured profile does not need it",
            )
        return peak.value

    def memory_bandwidth(self) -> float:
        """Peak memory bandwidth [bytes/s].

        Raises
        ------
        InputError
            If the sheet does not give it.
        """
        if self.memory_bandwidth_bytes_per_s is None:
            raise InputError(f"the datasheet of {self.id} gives no memory bandwidth")
        return self.memory_bandwidth_bytes_per_s.value

    def roof_flops(self, dtype: str) -> float | None:
        """Peak at the highest clock the part runs [FLOP/s], None where the sheet lacks a part."""
        peak = self.peak(dtype)
        if peak is None or self.max_clock_hz is None or self.peak_clock_hz is None:
            return None
        return peak.value * max(1.0, self.max_clock_hz.value / self.peak_clock_hz.value)


@dataclass(frozen=True)
class DatasheetMatch:
    """A datasheet and, where the name was not exact, how it was understood."""

    spec: DeviceSpec
    note: str | None = None


@functools.cache
def load_datasheets() -> dict[str, DeviceSpec]:
    """Read every datasheet that ships, by id.

    Raises
    ------
    InputError
        If a sheet is malformed or two sheets claim one name.
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
    """Fold a device name to what identifies it: no case, vendor words or punctuation."""
    words = re.split(r"[^a-z0-9+]+", name.lower())
    dropped = {"nvidia", "amd", "instinct", "geforce", "tesla", "corporation", "oam", "gpu", ""}
    return "".join(w for w in words if w not in dropped)


def _names(specs: dict[str, DeviceSpec]) -> dict[str, DeviceSpec]:
    """Every folded name and the part it stands for.

    Raises
    ------
    InputError
        If two sheets claim one name.
    """
    table: dict[str, DeviceSpec] = {}
    for spec in specs.values():
        for key in {_plain(n) for n in (spec.id, spec.name, *spec.aliases, *spec.short_names)}:
            if key in table and table[key].id != spec.id:
                raise InputError(f"'{key}' names both {table[key].id} and {spec.id}")
            table[key] = spec
    return table


def find_device(name: str) -> DatasheetMatch:
    """Find the datasheet that a name stands for, as people and drivers write it.

    Parameters
    ----------
    name : str
        An id (``h200-sxm``), a driver's name (``NVIDIA A100-SXM4-80GB``) or a bare name (``h100``).

    Raises
    ------
    InputError
        If nothing of that name is known; the message says what is close.
    """
    specs = load_datasheets()
    spec = _names(specs).get(_plain(name))
    if spec is None:
        raise InputError(f"unknown GPU '{name}'", remedy=did_you_mean(name, specs))
    if name.strip().lower() in (n.lower() for n in spec.short_names):
        part = spec.name.split()[-1]
        return DatasheetMatch(spec, f"'{name}' taken as {spec.id} (the {part} part)")
    return DatasheetMatch(spec)
