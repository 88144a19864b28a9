"""The speed of the machine right now, against the moment it was calibrated.

The two reference products of a calibration, measured again: a few milliseconds that tell a law
that is wrong from a machine that has changed (a neighbour on a shared host, a lower clock).
"""

import torch

from groundspeed.calibrate.design.measurement_plan import Limit, reference_cases
from groundspeed.calibrate.run.device import RunningDevice
from groundspeed.calibrate.timing.measure_case import Harness, measure
from groundspeed.calibrate.timing.stopping import StopRule
from groundspeed.calibrate.timing.telemetry import open_telemetry
from groundspeed.calibrate.timing.timers import timer_for
from groundspeed.kernels.matmul.matmul import TorchMatmul
from groundspeed.kernels.operands import OperandPool
from groundspeed.profiles.schema import Profile, Stability

RULE = StopRule(min_samples=20, min_time_s=0.05, half_width_fraction=0.02, time_cap_s=0.3)
GPU_REFERENCE_BYTES = 2**31
"""Room for the largest reference."""

COLD_FACTOR = 3.0
ASSUMED_CACHE_BYTES = 64 * 2**20
"""[bytes] Cache size assumed where the machine does not report one: larger than most, so operands
are cold all the same."""


def cold_bytes(running: RunningDevice) -> float:
    """How much must be touched between two uses of an operand for it to be cold [bytes]."""
    return COLD_FACTOR * (running.device.last_level_cache_bytes or ASSUMED_CACHE_BYTES)


class ReferenceProbe:
    """Measures the references of a profile again on the device it is of."""

    def __init__(self, running: RunningDevice, profile: Profile) -> None:
        self._running = running
        self._stability = profile.stability
        cold = int(cold_bytes(running))
        largest = 2 * cold if running.device.kind == "cpu" else max(2 * cold, GPU_REFERENCE_BYTES)
        self._pool = OperandPool(running.torch_device, pool_bytes=largest, cold_bytes=cold)
        self._timer = timer_for(running.torch_device)

    def changes(self) -> dict[Limit, float]:
        """Time now over time at the calibration, minus one, by what limits the reference."""
        kind = self._running.device.kind
        with (
            torch.inference_mode(),
            open_telemetry(kind, self._running.torch_device.index or 0) as telemetry,
        ):
            bench = Harness(self._pool, self._timer, telemetry, RULE)
            return {s.limit: self._time(s, bench) / s.time_s - 1.0 for s in self._stability}

    def _time(self, stability: Stability, bench: Harness) -> float:
        dtype = stability.reference.split()[1]
        case = reference_cases(self._running.device.kind).references[stability.limit]
        return measure(TorchMatmul(dtype), case, bench).point.time_s
