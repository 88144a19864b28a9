"""Sensors of a CPU: load of other programs and of the hypervisor, and the core clock.

source = cpu_source()
source.read().busy_elsewhere_fraction   # share of the CPU that others used since the last call
"""

import os
import time
from pathlib import Path

from groundspeed.calibrate.timing.reading import Reading, Source


def cpu_source() -> Source:
    """Open the sensors of the CPU, which a thread reads because they cover the time in between."""
    return Source(
        CpuSensor(), "processor load from /proc/stat, clock from /sys", in_background=True
    )


class CpuSensor:
    """CPU sensor: load of other programs and of the hypervisor, and core clock if available."""

    def __init__(self) -> None:
        self._last = self._ticks()

    def __call__(self) -> Reading:
        """Read the counters; the load is the mean since the previous call."""
        busy, steal, total, own = self._ticks()
        before_busy, before_steal, before_total, before_own = self._last
        self._last = (busy, steal, total, own)
        elapsed = total - before_total
        elsewhere = None
        if elapsed > 0:
            others = (busy - before_busy) - (own - before_own) + (steal - before_steal)
            elsewhere = min(1.0, max(0.0, others / elapsed))
        return Reading(time.monotonic(), _clock_mhz(), busy_elsewhere_fraction=elsewhere)

    @staticmethod
    def _ticks() -> tuple[float, float, float, float]:
        """Busy, stolen and total clock ticks of the machine, and the ticks of this process."""
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        except OSError:
            return 0.0, 0.0, 0.0, 0.0
        user, nice, system, idle, wait, irq, softirq, steal, *_ = map(float, line.split()[1:])
        own = os.times()
        hertz = os.sysconf("SC_CLK_TCK")
        busy = user + nice + system + irq + softirq
        own_ticks = (own.user + own.system + own.children_user + own.children_system) * hertz
        return busy, steal, busy + steal + idle + wait, own_ticks


def _clock_mhz() -> float | None:
    try:
        path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
        return float(path.read_text(encoding="ascii")) / 1e3
    except (OSError, ValueError):
        return None
