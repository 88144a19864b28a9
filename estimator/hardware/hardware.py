"""What everything that predicts operator times has in common: datasheets and sets of profiles."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from groundspeed.estimator.graph.operator import Operator
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.operations import Array

Bound = Literal["compute", "memory", "start-up", "link"]

BOUNDS: tuple[Bound, ...] = ("compute", "memory", "start-up", "link")


@dataclass(frozen=True)
class OperatorTime:
    """Total time of all executions of an operator in one step, with 90 % interval."""

    time_s: Array
    low_s: Array
    high_s: Array
    bounds: NDArray[np.int8]
    """(N,) Index in ``BOUNDS`` of what limits each."""
    outside: NDArray[np.bool_]
    """(N,) Whether an input lies outside the fit range of the law."""

    @classmethod
    def of(
        cls,
        time_s: Array,
        low_s: Array | None = None,
        high_s: Array | None = None,
        *,
        bound: Bound,
        extrapolated: bool = False,
    ) -> "OperatorTime":
        """Return times with one bound; without ends, they are exact."""
        return cls(
            time_s,
            time_s if low_s is None else low_s,
            time_s if high_s is None else high_s,
            np.full(time_s.shape, BOUNDS.index(bound), dtype=np.int8),
            np.full(time_s.shape, extrapolated),
        )

    @property
    def bound(self) -> Bound:
        """What limits most of the time."""
        shares = np.bincount(self.bounds, weights=self.time_s, minlength=len(BOUNDS))
        return BOUNDS[int(shares.argmax())]

    @property
    def extrapolated(self) -> bool:
        """Whether any input lies outside the fit range of the law."""
        return bool(self.outside.any())

    def where_faster(self, other: "OperatorTime") -> "OperatorTime":
        """Return, at each point, the faster of two ways to do the same."""
        return self._chosen(other, self.time_s <= other.time_s)

    def where_slower(self, other: "OperatorTime") -> "OperatorTime":
        """Return, at each point, the slower of two devices that wait for each other."""
        return self._chosen(other, self.time_s >= other.time_s)

    def _chosen(self, other: "OperatorTime", mine: NDArray[np.bool_]) -> "OperatorTime":
        names = ("time_s", "low_s", "high_s", "bounds", "outside")
        return OperatorTime(
            *(np.where(mine, getattr(self, name), getattr(other, name)) for name in names)
        )


class Hardware(Protocol):
    """Interface of everything that predicts operator times: datasheets and sets of profiles."""

    def __hash__(self) -> int:
        """Return a hash: step tables are kept by hardware."""
        ...

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
    def network_bytes_per_s(self) -> float | None:
        """Measured rate of one device's link to other nodes [bytes/s]; None: not measured."""
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
