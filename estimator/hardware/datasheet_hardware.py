"""The classic roofline at the peaks of a datasheet: no kernel is faster, so times are bounds."""

from dataclasses import dataclass, replace

import numpy as np

from groundspeed.estimator.graph.operator import Operator
from groundspeed.estimator.hardware.hardware import BOUNDS, OperatorTime
from groundspeed.profiles.busbw import bus_factor
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.errors import InputError


@dataclass(frozen=True, eq=False)
class DatasheetHardware:
    """Roofline at the vendor's peaks: an upper bound on speed, not an estimate."""

    spec: DeviceSpec
    origin: str = "datasheet"

    @property
    def id(self) -> str:
        """Name of the datasheet."""
        return self.spec.id

    @property
    def datasheet(self) -> DeviceSpec | None:
        """The datasheet."""
        return self.spec

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        return self.spec.memory_bytes.value if self.spec.memory_bytes else None

    @property
    def last_level_cache_bytes(self) -> float | None:
        """Of the device."""
        size = self.spec.last_level_cache_bytes or self.spec.l2_bytes
        return size.value if size else None

    @property
    def network_bytes_per_s(self) -> float | None:
        """Return None: a datasheet's network is asked where nodes are built."""
        return None

    @property
    def architecture(self) -> str:
        """Of the device."""
        return self.spec.architecture

    def spread_fraction(self, bound: str) -> float:
        """Return 0: datasheet values do not vary."""
        return 0.0

    @property
    def power(self) -> tuple[float, str] | None:
        """Power limit of the datasheet [W], with the origin ``cap``; None if not given."""
        return (self.spec.power_cap_w.value, "cap") if self.spec.power_cap_w else None

    def for_devices(self, count: int) -> "DatasheetHardware":
        """Return itself: all devices of a datasheet are equal."""
        return self

    def source(self, operator: Operator) -> str:
        """Return the name of the datasheet."""
        return f"{self.spec.id} (datasheet)"

    def modes(self, collective: Operator) -> tuple[tuple[str, ...], ...]:
        """Return ``nccl``: a datasheet does not know kernels, nor the network between nodes."""
        return () if "hosts" in collective.config_key else (("nccl",),)

    def time(self, operator: Operator) -> OperatorTime:
        """Return max(FLOPs / peak, bytes / bandwidth).

        Raises
        ------
        InputError
            If the datasheet lacks a required peak.
        """
        if operator.operation == "collective":
            return wire_time(self.spec, operator)
        if "gemm" in operator.config_key:  # an engine can fuse the quantization: no bound
            none = np.zeros_like(operator.bytes)
            return OperatorTime.of(none, bound="memory")
        traffic_s = operator.bytes / self.spec.memory_bandwidth()
        compute_s = np.zeros_like(traffic_s)
        if operator.flops.any():
            compute_s = operator.flops / self.spec.peak_flops(operator.config_key["dtype"])
        time = np.maximum(traffic_s, compute_s)
        limits = np.where(compute_s > traffic_s, BOUNDS.index("compute"), BOUNDS.index("memory"))
        return replace(OperatorTime.of(time, bound="memory"), bounds=limits.astype(np.int8))


def wire_time(spec: DeviceSpec, operator: Operator) -> OperatorTime:
    """Return the time of a collective at the bandwidth of the datasheet's links.

    Raises
    ------
    InputError
        If the datasheet gives no bandwidth between devices.
    """
    wire = spec.device_link_bytes_per_s
    if wire is None:
        raise InputError(
            f"the datasheet of {spec.id} has no bandwidth between GPUs",
            remedy="give it, such as --gpu-link 32GB/s",
        )
    factor = bus_factor(operator.config_key["op"], int(operator.config_key["world_size"]))
    time = operator.bytes * factor / wire
    return OperatorTime.of(time, bound="link")
