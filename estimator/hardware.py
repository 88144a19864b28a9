"""Give an operator a time: by a data sheet's two peaks, or by the laws of a measured profile.

The data sheet is the classic roofline with everything at its peak: no real kernel is faster, so
its answer is a bound. A profile's laws know start-up costs, achieved rates and their error.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from groundspeed.estimator.operators import Operator
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import law_time
from groundspeed.profiles.operations import OPERATIONS, Array
from groundspeed.profiles.schema import Profile

Bound = Literal["compute", "memory", "start-up"]


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
        """Name of the profile or data sheet."""
        ...

    @property
    def origin(self) -> str:
        """``datasheet``, ``measured``, ``imported`` or ``transferred``."""
        ...

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        ...

    def spread_fraction(self, bound: Bound) -> float:
        """How much the whole machine varied while it was measured, by what limits."""
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
        """The data sheet's id."""
        return self.spec.id

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        return self.spec.memory_bytes.value if self.spec.memory_bytes else None

    def spread_fraction(self, bound: Bound) -> float:
        """A sheet does not vary."""
        return 0.0

    def time(self, operator: Operator) -> OperatorTime:
        """max(FLOPs / peak, bytes / bandwidth).

        Raises
        ------
        InputError
            If the sheet lacks a peak that is needed.
        """
        traffic_s = operator.bytes / self.spec.memory_bandwidth()
        compute_s = np.zeros_like(traffic_s)
        if OPERATIONS[operator.operation].flops(operator.columns, operator.regime).any():
            compute_s = operator.flops / self.spec.peak_flops(operator.regime["dtype"])
        time = np.maximum(traffic_s, compute_s)
        bound: Bound = "compute" if compute_s.sum() > traffic_s.sum() else "memory"
        return OperatorTime(time, time, time, bound, extrapolated=False)


@dataclass(frozen=True)
class ProfileHardware:
    """The laws of a profile."""

    profile: Profile

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

    def spread_fraction(self, bound: Bound) -> float:
        """Spread of the reference case during the calibration."""
        return self.profile.spread_fraction("memory" if bound == "memory" else "compute")

    def _whole_dtypes(self) -> str:
        """Data types with products, attention and small operations."""
        have: dict[str, set[str]] = {}
        for law in self.profile.laws:
            if "dtype" not in law.regime:
                continue
            have.setdefault(law.regime["dtype"], set()).add(law.operation)
        needed = {"matmul", "attention_prefill", "attention_decode", "glue"}
        return ", ".join(sorted(d for d, o in have.items() if needed <= o)) or "none"

    def time(self, operator: Operator) -> OperatorTime:
        """Ask the operator's law.

        Raises
        ------
        InputError
            If the profile has no law for this operation and data type.
        """
        law = self.profile.law(operator.operation, **operator.regime)
        if law is None:
            wanted = f"{operator.operation} {' '.join(operator.regime.values())}"
            raise InputError(
                f"profile {self.profile.id} has no law for {wanted}",
                remedy=f"choose a data type it has all laws for ({self._whole_dtypes()}), "
                "or calibrate again",
            )
        told = law_time(law, operator.columns)
        count = operator.count
        values = law.values()
        parts: dict[Bound, float] = {
            "start-up": count * values["startup_s"] * told.time_s.size,
            "memory": float(operator.bytes.sum()) / values["bandwidth_bytes_per_s"],
        }
        if "compute_flops_per_s" in values:
            parts["compute"] = float(operator.flops.sum()) / values["compute_flops_per_s"]
        return OperatorTime(
            count * told.time_s,
            count * told.low_s,
            count * told.high_s,
            max(parts, key=lambda p: parts[p]),
            bool(told.extrapolated.any()),
        )
