"""Compare the current speed of a machine with its speed during calibration.

The two reference GEMMs of the calibration are measured again, which takes a few milliseconds. The
result separates a wrong law from a changed machine (another load on a shared host, a lower clock).

    changes = ReferenceProbe(running, profile).changes()   # e.g. {"compute": 0.02, "memory": 0.11}
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
"""[bytes] Size of the operand pool that holds the largest reference case on a GPU."""

COLD_FACTOR = 3.0
"""Multiple of the last-level cache that must be touched before an operand counts as cold."""
ASSUMED_CACHE_BYTES = 64 * 2**20
"""[bytes] Cache size assumed if the machine does not report one. It is larger than most caches, so
operands are cold anyway."""


def cold_bytes(running: RunningDevice) -> float:
    """[bytes] Amount of memory touched between two uses of an operand so that it is cold."""
    return COLD_FACTOR * (running.device.last_level_cache_bytes or ASSUMED_CACHE_BYTES)


class ReferenceProbe:
    """Measures the reference cases of a profile again on the same device."""

    def __init__(self, running: RunningDevice, profile: Profile) -> None:
        self._running = running
        self._stability = profile.stability
        cold = int(cold_bytes(running))
        largest = 2 * cold if running.device.kind == "cpu" else max(2 * cold, GPU_REFERENCE_BYTES)
        self._pool = OperandPool(running.torch_device, pool_bytes=largest, cold_bytes=cold)

    def changes(self) -> dict[Limit, float]:
        """Relative change of time since calibration, by the limit of the reference case."""
        kind = self._running.device.kind
        with (
            torch.inference_mode(),
            open_telemetry(kind, self._running.torch_device.index or 0) as telemetry,
        ):
            timer = timer_for(self._running.torch_device, telemetry.read_if_due)
            bench = Harness(self._pool, timer, telemetry, RULE)
            return {s.limit: self._time(s, bench) / s.time_s - 1.0 for s in self._stability}

    def _time(self, stability: Stability, bench: Harness) -> float:
        dtype = stability.reference.split()[1]
        case = reference_cases(self._running.device.kind).references[stability.limit]
        return measure(TorchMatmul(dtype), case, bench).point.time_s
