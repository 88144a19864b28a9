"""Give an operator a time: by a datasheet's two peaks, or by the laws of a measured profile.

The datasheet is the classic roofline with everything at its peak: no real kernel is faster, so
its answer is a bound. A profile's laws know start-up costs, achieved rates and their error.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from groundspeed.estimator.graph.operators import Operator
from groundspeed.estimator.hardware.fallback import find_law
from groundspeed.profiles.busbw import bus_factor
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import Law, law_time
from groundspeed.profiles.operations import OPERATIONS, Array
from groundspeed.profiles.schema import Profile

Bound = Literal["compute", "memory", "start-up", "link"]


@dataclass(frozen=True)
class OperatorTime:
    """Time of all runs of an operator in one pass."""

    time_s: Array
    low_s: Array
    high_s: Array
    bound: Bound
    extrapolated: bool
    """Some input lies outside the range that was measured."""


class Hardware(Protocol):
    """Whatever can say how long an operator takes."""

    @property
    def id(self) -> str:
        """Name of the profile or datasheet."""
        ...

    @property
    def origin(self) -> str:
        """``datasheet``, ``measured``, ``imported`` or ``transferred``."""
        ...

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        ...

    @property
    def architecture(self) -> str:
        """Of the device: ``hopper``, ``cdna3``; empty if not known."""
        ...

    def spread_fraction(self, bound: Bound) -> float:
        """How much the whole machine varied while it was measured, by what limits."""
        ...

    @property
    def power(self) -> tuple[float, str] | None:
        """Power of the device under load [W], and whether it was ``measured`` or is its ``cap``."""
        ...

    def has(self, operation: str, **config_key: str) -> bool:
        """Whether it can answer."""
        ...

    def time(self, operator: Operator) -> OperatorTime:
        """Time of an operator."""
        ...


@dataclass(frozen=True)
class DatasheetHardware:
    """Everything at the vendor's peak: a bound on speed, not an estimate of it."""

    spec: DeviceSpec
    origin: str = "datasheet"

    @property
    def id(self) -> str:
        """The datasheet's id."""
        return self.spec.id

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        return self.spec.memory_bytes.value if self.spec.memory_bytes else None

    @property
    def architecture(self) -> str:
        """Of the device."""
        return self.spec.architecture

    def spread_fraction(self, bound: Bound) -> float:
        """A sheet does not vary."""
        return 0.0

    @property
    def power(self) -> tuple[float, str] | None:
        """The cap of the sheet."""
        return (self.spec.power_cap_w.value, "cap") if self.spec.power_cap_w else None

    def has(self, operation: str, **config_key: str) -> bool:
        """Whether it can answer: a sheet has no measured collectives of several kinds."""
        return operation != "collective" or config_key.get("mode") == "nccl"

    def time(self, operator: Operator) -> OperatorTime:
        """max(FLOPs / peak, bytes / bandwidth).

        Raises
        ------
        InputError
            If the sheet lacks a peak that is needed.
        """
        if operator.operation == "collective":
            return self._collective(operator)
        traffic_s = operator.bytes / self.spec.memory_bandwidth()
        compute_s = np.zeros_like(traffic_s)
        if OPERATIONS[operator.operation].flops(operator.columns, operator.config_key).any():
            compute_s = operator.flops / self.spec.peak_flops(operator.config_key["dtype"])
        time = np.maximum(traffic_s, compute_s)
        bound: Bound = "compute" if compute_s.sum() > traffic_s.sum() else "memory"
        return OperatorTime(time, time, time, bound, extrapolated=False)

    def _collective(self, operator: Operator) -> OperatorTime:
        wire = self.spec.scaleup_bandwidth_bytes_per_s or self.spec.p2p_bandwidth_bytes_per_s
        if wire is None:
            raise InputError(f"the datasheet of {self.spec.id} gives no bandwidth between GPUs")
        factor = bus_factor(operator.config_key["op"], int(operator.config_key["world_size"]))
        time = operator.bytes * factor / wire.value
        return OperatorTime(time, time, time, "link", extrapolated=False)


@dataclass(frozen=True)
class ProfileHardware:
    """The laws of a profile."""

    profile: Profile
    _laws: dict[tuple[str, ...], Law] = field(default_factory=dict, compare=False, repr=False)

    @property
    def id(self) -> str:
        """The profile's id."""
        return self.profile.id

    @property
    def origin(self) -> str:
        """Where its laws come from."""
        origins = sorted({law.origin for law in self.profile.laws})
        return "+".join(origins)

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        return self.profile.device.memory_bytes

    @property
    def architecture(self) -> str:
        """Of the device."""
        datasheet = self.profile.datasheet
        return datasheet.architecture if datasheet else self.profile.device.architecture

    def spread_fraction(self, bound: Bound) -> float:
        """Spread of the reference case during the calibration."""
        return self.profile.spread_fraction("memory" if bound == "memory" else "compute")

    @property
    def power(self) -> tuple[float, str] | None:
        """Median over measured products and attention; else the cap."""
        watts = [
            p.power_w
            for c in self.profile.curves
            if c.operation in ("matmul", "attention_prefill", "attention_decode")
            for p in c.points
            if p.power_w is not None
        ]
        if watts:
            return float(np.median(watts)), "measured"
        cap = self.profile.environment.power_cap_w
        datasheet = self.profile.datasheet
        if cap is None and datasheet is not None and datasheet.power_cap_w is not None:
            cap = datasheet.power_cap_w.value
        return (cap, "cap") if cap is not None else None

    def has(self, operation: str, **config_key: str) -> bool:
        """Whether a law serves an operation."""
        return find_law(self.profile, operation, config_key) is not None

    def _law(self, operation: str, config_key: dict[str, str]) -> Law:
        key = (operation, *(f"{k}={v}" for k, v in sorted(config_key.items())))
        if key not in self._laws:
            law = find_law(self.profile, operation, config_key)
            if law is None:
                wanted = f"{operation} {' '.join(config_key.values())}"
                raise InputError(
                    f"profile {self.profile.id} has no law for {wanted}",
                    remedy=self._remedy(config_key),
                )
            self._laws[key] = law
        return self._laws[key]

    def _remedy(self, config_key: dict[str, str]) -> str:
        if "world_size" in config_key:
            ranks = {law.config_key.get("world_size", "") for law in self.profile.laws} - {""}
            known = ", ".join(sorted(ranks, key=int)) or "none"
            return f"it has collectives of {known} devices; measure others with calibrate"
        return (
            f"choose a data type it has all laws for ({self._whole_dtypes()}), or calibrate again"
        )

    def _whole_dtypes(self) -> str:
        """Data types with products, attention and small operations."""
        have: dict[str, set[str]] = {}
        for law in self.profile.laws:
            if "dtype" not in law.config_key:
                continue
            have.setdefault(law.config_key["dtype"], set()).add(law.operation)
        needed = {"matmul", "attention_prefill", "attention_decode", "elementwise"}
        return ", ".join(sorted(d for d, o in have.items() if needed <= o)) or "none"

    def time(self, operator: Operator) -> OperatorTime:
        """Ask the operator's law.

        Raises
        ------
        InputError
            If the profile has no law for this operation and data type.
        """
        law = self._law(operator.operation, dict(operator.config_key))
        prediction = law_time(law, operator.columns)
        count = operator.count
        if law.piecewise_linear is not None:
            times = [count * t for t in (prediction.time_s, prediction.low_s, prediction.high_s)]
            bound: Bound = "link" if law.operation == "collective" else "memory"
            return OperatorTime(
                times[0], times[1], times[2], bound, bool(prediction.extrapolated.any())
            )
        values = law.values()
        parts: dict[Bound, float] = {
            "start-up": count * values["startup_s"] * prediction.time_s.size,
            "memory": float(operator.bytes.sum()) / values["bandwidth_bytes_per_s"],
        }
        if "compute_flops_per_s" in values:
            parts["compute"] = float(operator.flops.sum()) / values["compute_flops_per_s"]
        return OperatorTime(
            count * prediction.time_s,
            count * prediction.low_s,
            count * prediction.high_s,
            max(parts, key=lambda p: parts[p]),
            bool(prediction.extrapolated.any()),
        )
