"""Predict the time of an operator from the laws of a set of profiles, within what physics allows.

The laws include launch latency, achieved rates and their errors. What no profile knows is composed
of other operations, or refused with the name of what is missing.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from groundspeed.estimator.graph.operator import Operator
from groundspeed.estimator.hardware.composed import experts_one_by_one
from groundspeed.estimator.hardware.datasheet_hardware import DatasheetHardware
from groundspeed.estimator.hardware.fallback import Found, find_law, whole_dtypes
from groundspeed.estimator.hardware.hardware import BOUNDS, Hardware, OperatorTime
from groundspeed.estimator.hardware.nodes import link_time
from groundspeed.estimator.hardware.roofs import WIDER, roof_s
from groundspeed.profiles.busbw import bus_factor
from groundspeed.profiles.datasheet import DeviceSpec, load_datasheets
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import Law, law_time
from groundspeed.profiles.profile_set import ProfileSet
from groundspeed.profiles.schema import Profile

RANKS_SPREAD = 0.15
"""[1] Widening of a collective's interval for each doubling of the ranks beyond those measured: on
H100 and H200 the laws of 4 and 8 ranks, scaled so, differ by 5 to 20 %."""


@dataclass(frozen=True, eq=False)
class ProfileHardware:
    """Hardware described by the fitted laws of the profiles of a device."""

    known: ProfileSet
    units: tuple[Profile, ...] = ()
    """Individual devices of a group, of which the slowest determines the time; empty: no group."""
    _laws: dict[tuple[str, ...], Found] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, *profiles: Profile) -> "ProfileHardware":
        """Return the hardware of some profiles, the most believed first."""
        return cls(ProfileSet(profiles))

    @property
    def profile(self) -> Profile:
        """The most believed profile of the device itself."""
        return self.known.main

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
    def datasheet(self) -> DeviceSpec | None:
        """Datasheet of the device, if there is one: the shipped one, which may be newer."""
        own = self.known.datasheet
        return load_datasheets().get(own.id, own) if own is not None else None

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        return self.profile.device.memory_bytes

    @property
    def last_level_cache_bytes(self) -> float | None:
        """Of the device."""
        own = self.profile.device.last_level_cache_bytes
        if own is not None or self.datasheet is None:
            return own
        return DatasheetHardware(self.datasheet).last_level_cache_bytes

    @property
    def network_bytes_per_s(self) -> float | None:
        """Rate of a network link that a profile holds, as perftest measures it [bytes/s]."""
        rates = [
            point.bytes / point.time_s
            for profile in self.known.profiles
            for curve in profile.curves
            if curve.operation == "p2p" and curve.config_key.get("over") == "network"
            for point in curve.points
            if point.valid
        ]
        return max(rates, default=None)

    @property
    def architecture(self) -> str:
        """Of the device."""
        datasheet = self.datasheet
        return datasheet.architecture if datasheet else self.profile.device.architecture

    def spread_fraction(self, bound: str) -> float:
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
        datasheet = self.datasheet
        if cap is None and datasheet is not None and datasheet.power_cap_w is not None:
            cap = datasheet.power_cap_w.value
        return (cap, "cap") if cap is not None else None

    def for_devices(self, count: int) -> "ProfileHardware":
        """Return the hardware of a group: its slowest measured device determines the time."""
        units = self.known.units() if count > 1 else ()
        if len(units) <= 1:
            return replace(self, units=(), _laws={}) if self.units else self
        return replace(self, units=units, _laws={})

    def source(self, operator: Operator) -> str:
        """Return the id of the profile that answers, and the origin of its law."""
        found = self._find(operator)
        if found is not None:
            return f"{found.profile.id} ({found.law.origin})"
        if operator.operation == "experts":
            return f"{self.id} (experts as single GEMMs)"
        return f"{self.datasheet.id} (datasheet)" if self.datasheet else self.id

    def modes(self, collective: Operator) -> tuple[tuple[str, ...], ...]:
        """Return the kernels with a law for a collective, one entry for each profile."""
        wanted = collective.config_key.items()
        of_profiles = (
            tuple(
                law.config_key["mode"]
                for law in profile.laws
                if law.operation == "collective"
                and "mode" in law.config_key
                and wanted <= law.config_key.items()
            )
            for profile in self.known.profiles
        )
        return tuple(modes for modes in of_profiles if modes)

    def _find(self, operator: Operator) -> Found | None:
        config_key = {k: v for k, v in operator.config_key.items() if k != "gemm"}
        key = (operator.operation, *(f"{k}={v}" for k, v in sorted(config_key.items())))
        if key not in self._laws:
            found = find_law(self.known, operator.operation, config_key)
            if found is None:
                return None
            self._laws[key] = found
        return self._laws[key]

    def time(self, operator: Operator) -> OperatorTime:
        """Predict the time of an operator with its law, within what physics allows.

        Raises
        ------
        InputError
            If no profile has a law for this operation and data type.
        """
        if "gemm" in operator.config_key and self._includes_quantization(operator):
            none = np.zeros_like(operator.bytes)
            return OperatorTime.of(none, bound="memory")
        found = self._find(operator)
        if found is None:
            return self._without_law(operator)
        result = self._law_time(found.law, operator)
        for unit in self.units:
            other = find_law(ProfileSet((unit,)), operator.operation, dict(operator.config_key))
            if other is not None and other.profile is not found.profile:
                result = result.where_slower(self._law_time(other.law, operator))
        for dtype in WIDER.get(operator.config_key.get("dtype", ""), ()):
            if operator.operation not in ("matmul", "experts"):
                break
            wider = self._find(operator.with_key(dtype=dtype))
            if wider is not None and wider.law.config_key.get("dtype") == dtype:
                wide = replace(operator, config_key={**operator.config_key, "dtype": dtype})
                result = result.where_faster(self._law_time(wider.law, wide))
        return self._within_roofs(result, operator)

    def _includes_quantization(self, operator: Operator) -> bool:
        """Return whether the GEMM after a quantization has it in its own law."""
        key = {k: v for k, v in operator.config_key.items() if k == "library"}
        gemm = replace(
            operator, operation="matmul", config_key={"dtype": operator.config_key["gemm"], **key}
        )
        found = self._find(gemm)
        # Our own GEMMs are timed on operands that are quantized already; tables of others are not.
        if found is None or found.profile.mode not in ("imported", "transferred"):
            return False
        return "quantize_bytes_per_s" in found.law.coefficients

    def _without_law(self, operator: Operator) -> OperatorTime:
        """Compose an operation of others, or use the wire of the datasheet; else refuse."""
        if operator.operation == "experts":
            parts = experts_one_by_one(operator)
            times = [(self.time(o), hit) for o, hit in parts]
            summed = [
                np.sum([getattr(t, name) * hit for t, hit in times], axis=0)
                for name in ("time_s", "low_s", "high_s")
            ]
            bound = max(times, key=lambda t: float((t[0].time_s * t[1]).sum()))[0].bound
            outside = any(t.extrapolated for t, _ in times)
            return OperatorTime.of(
                summed[0], summed[1], summed[2], bound=bound, extrapolated=outside
            )
        fewer = self._of_fewer_ranks(operator)
        if fewer is not None:
            return fewer
        plain = operator.config_key.get("mode", "nccl") == "nccl"
        wire = self.datasheet.device_link_bytes_per_s if self.datasheet is not None else None
        if operator.operation == "collective" and wire is not None and plain:
            return link_time(operator, wire, bound=False)
        wanted = f"{operator.operation} {' '.join(operator.config_key.values())}"
        raise InputError(
            f"profile {self.id} has no law for {wanted}", remedy=self._remedy(operator)
        )

    def _of_fewer_ranks(self, operator: Operator) -> OperatorTime | None:
        """Scale a collective from the largest number of ranks below that has a law.

        The busiest link carries as many bytes as the bus factor says; the start takes a hop more
        for each doubling of the ranks, which the interval covers.
        """
        key = operator.config_key
        if operator.operation != "collective":
            return None
        ranks, op = int(key["world_size"]), key["op"]
        known = sorted(
            {
                int(law.config_key["world_size"])
                for profile in self.known.profiles
                for law in profile.laws
                if law.operation == "collective" and law.config_key["op"] == op
            }
        )
        below = [n for n in known if n < ranks]
        if not below:
            return None
        found = self._find(operator.with_key(world_size=str(below[-1])))
        if found is None:
            return None
        time = self._law_time(found.law, operator)
        scale = bus_factor(op, ranks) / bus_factor(op, below[-1])
        doublings = math.log2(ranks / below[-1])
        wider = (1.0 + RANKS_SPREAD) ** doublings
        return OperatorTime.of(
            scale * time.time_s, scale * time.low_s / wider, scale * time.high_s * wider,
            bound=time.bound, extrapolated=True,
        )  # fmt: skip

    def _remedy(self, operator: Operator) -> str:
        laws = [law for p in self.known.profiles for law in p.laws]
        if operator.operation == "collective":
            ranks = {law.config_key.get("world_size", "") for law in laws} - {""}
            known = ", ".join(sorted(ranks, key=int)) or "none"
            return (
                f"it has collectives for {known} devices; measure others with "
                "groundspeed calibrate --ranks N"
            )
        return f"choose a data type with all laws ({whole_dtypes(laws)}), or calibrate again"

    def _within_roofs(self, result: OperatorTime, operator: Operator) -> OperatorTime:
        """Keep a law from promising more than the datasheet: a fit can overshoot a little."""
        if self.datasheet is None:
            return result
        least = roof_s(operator, self.datasheet, self.last_level_cache_bytes or 0.0)
        if least is None:
            return result
        return replace(
            result,
            time_s=np.maximum(result.time_s, least),
            low_s=np.maximum(result.low_s, least),
            high_s=np.maximum(result.high_s, least),
        )

    def _law_time(self, law: Law, operator: Operator) -> OperatorTime:
        prediction = law_time(law, operator.columns)
        count = operator.count
        time, low, high = (
            count * t for t in (prediction.time_s, prediction.low_s, prediction.high_s)
        )
        if law.piecewise_linear is not None:
            code = BOUNDS.index("link" if law.operation == "collective" else "memory")
            return OperatorTime(
                time, low, high, np.full(time.shape, code, dtype=np.int8), prediction.extrapolated
            )
        values = law.values()
        limits = np.zeros((len(BOUNDS), time.size))
        limits[BOUNDS.index("start-up")] = count * values["startup_s"]
        limits[BOUNDS.index("memory")] = operator.bytes / values["bandwidth_bytes_per_s"]
        if "compute_flops_per_s" in values:
            limits[BOUNDS.index("compute")] = operator.flops / values["compute_flops_per_s"]
        return OperatorTime(
            time, low, high, limits.argmax(axis=0).astype(np.int8), prediction.extrapolated
        )


__all__ = ["DatasheetHardware", "Hardware", "OperatorTime", "ProfileHardware"]
