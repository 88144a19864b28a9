"""What everything that predicts operator times has in common: datasheets and sets of profiles."""

from dataclasses import dataclass
from typing import Literal, Protocol

from groundspeed.estimator.graph.operator import Operator
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.operations import Array

Bound = Literal["compute", "memory", "start-up", "link"]


@dataclass(frozen=True)
class OperatorTime:
    """Total time of all executions of an operator in one step, with 90 % interval."""

    time_s: Array
    low_s: Array
    high_s: Array
    bound: Bound
    extrapolated: bool
    """True if an input lies outside the fit range of the law."""


class Hardware(Protocol):
    """Interface of everything that predicts operator times: datasheets and sets of profiles."""

    @property
    def id(self) -> str:
        """Name of the profile or datasheet."""
        ...

    @property
    def origin(self) -> str:
        """``datasheet``, ``measured``, ``imported`` or ``transferred``."""
        ...

    @property
    def datasheet(self) -> DeviceSpec | None:
        """Datasheet of the device, if there is one."""
        ...

    @property
    def memory_bytes(self) -> float | None:
        """Memory of the device."""
        ...

    @property
    def last_level_cache_bytes(self) -> float | None:
        """Size of the last-level cache; None if not known."""
        ...

    @property
    def architecture(self) -> str:
        """GPU architecture, e.g. ``hopper`` or ``cdna3``; empty if not known."""
        ...

    def spread_fraction(self, bound: str) -> float:
        """Relative variation of the machine during calibration, for operators with this bound."""
        ...

    @property
    def power(self) -> tuple[float, str] | None:
        """Power under load [W] and its origin: ``measured`` or ``cap`` (the power limit)."""
        ...

    def for_devices(self, count: int) -> "Hardware":
        """Return the hardware of a group of ``count`` devices: as fast as its slowest."""
        ...

    def source(self, operator: Operator) -> str:
        """Return what answers for an operator: the profile's id and the origin of its law."""
        ...

    def modes(self, collective: Operator) -> tuple[tuple[str, ...], ...]:
        """Return the kernels that are known for a collective, of the most believed file first."""
        ...

    def time(self, operator: Operator) -> OperatorTime:
        """Predict the time of an operator."""
        ...
