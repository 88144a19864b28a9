"""Predict the time of an operator from datasheet peaks or from the laws of a profile.

A datasheet gives the classic roofline at peak rates: no real kernel is faster, so the result is a
lower bound on time. The laws of a profile include launch latency, achieved rates and their errors.
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
    """Total time of all executions of an operator in one forward pass, with 90 % interval."""

    time_s: Array
    low_s: Array
    high_s: Array
    bound: Bound
    extrapolated: bool
    """True if an input lies outside the fit range of the law."""


class Hardware(Protocol):
    """Interface of everything that predicts operator times: datasheets and profiles."""

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
        """GPU architecture, e.g. ``hopper`` or ``cdna3``; empty if not known."""
        ...

    def spread_fraction(self, bound: Bound) -> float:
        """Relative variation of the machine during calibration, for operators with this bound."""
        ...

    @property
    def power(self) -> tuple[float, str] | None:
        """Power under load [W] and its origin: ``measured`` or ``cap`` (the power limit)."""
        ...

    def has(self, operation: str, **config_key: str) -> bool:
        """Return True if the time of this operation can be predicted."""
        ...

    def time(self, operator: Operator) -> OperatorTime:
        """Predict the time of an operator."""
        ...


@dataclass(frozen=True)
class DatasheetHardware:
    """Roofline at the vendor's peaks: an upper bound on speed, not an estimate."""

    spec: DeviceSpec
    origin: str = "datasheet"

    @property
    def id(self) -> str:
        """Name of the datasheet."""
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
        """Return 0: datasheet values do not vary."""
        return 0.0

    @property
    def power(self) -> tuple[float, str] | None:
        """Power limit of the datasheet [W], with the origin ``cap``; None if not given."""
        return (self.spec.power_cap_w.value, "cap") if self.spec.power_cap_w else None

    def has(self, operation: str, **config_key: str) -> bool:
        """Return True, except for collectives in modes other than ``nccl``."""
        return operation != "collective" or config_key.get("mode") == "nccl"

    def time(self, operator: Operator) -> OperatorTime:
        """Return max(FLOPs / peak, bytes / bandwidth).

        Raises
        ------
        InputError
            If the datasheet lacks a required peak.
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
            raise InputError(f"the datasheet of {self.spec.id} has no bandwidth between GPUs")
        factor = bus_factor(operator.config_key["op"], int(operator.config_key["world_size"]))
        time = operator.bytes * factor / wire.value
        return OperatorTime(time, time, time, "link", extrapolated=False)


@dataclass(frozen=True)
class ProfileHardware:
    """Hardware described by the fitted laws of a profile."""

    profile: Profile
    _laws: dict[tuple[str, ...], Law] = field(default_factory=dict, compare=False, repr=False)

    @property
    def id(self) -> str:
        """Name of the profile."""
        return self.profile.id

    @property
    def origin(self) -> str:
        """Origins of its laws, joined by "+": ``imported``, ``measured``, ``transferred``."""
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
        """Relative variation of the reference case during the calibration."""
        return self.profile.spread_fraction("memory" if bound == "memory" else "compute")

    @property
    def power(self) -> tuple[float, str] | None:
        """Median power of measured GEMMs and attention [W]; if not measured, the power limit."""
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
        """Return True if the profile has a law or a substitute law for an operation."""
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
            return f"it has collectives for {known} devices; measure others with calibrate"
        return f"choose a data type with all laws ({self._whole_dtypes()}), or calibrate again"

    def _whole_dtypes(self) -> str:
        """List the data types that have GEMM, attention and elementwise laws."""
        have: dict[str, set[str]] = {}
        for law in self.profile.laws:
            if "dtype" not in law.config_key:
                continue
            have.setdefault(law.config_key["dtype"], set()).add(law.operation)
        needed = {"matmul", "attention_prefill", "attention_decode", "elementwise"}
        return ", ".join(sorted(d for d, o in have.items() if needed <= o)) or "none"

    def time(self, operator: Operator) -> OperatorTime:
        """Predict the time of an operator with its law.

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
