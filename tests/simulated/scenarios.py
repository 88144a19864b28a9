"""Small measurements on a simulated machine; each prints a JSON object.

Usage: python scenarios.py NAME
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from groundspeed.calibrate.design.measurement_plan import QUICK
from groundspeed.calibrate.run.campaign import journal_path
from groundspeed.calibrate.run.device import open_device
from groundspeed.calibrate.timing.measure_case import Harness, measure
from groundspeed.calibrate.timing.stopping import StopRule
from groundspeed.calibrate.timing.telemetry import open_telemetry
from groundspeed.calibrate.timing.timers import GpuTimer
from groundspeed.kernels.kernel import Kernel
from groundspeed.kernels.launch.launch import Launch
from groundspeed.kernels.matmul.low_precision import Fp8Matmul
from groundspeed.kernels.matmul.matmul import TorchMatmul
from groundspeed.kernels.operands import OperandPool
from groundspeed.profiles.schema import Point

DEVICE = torch.device("cuda", 0)
GEMM = {"m": 4096.0, "n": 8192.0, "k": 4096.0}
"""0.39 ms on the simulated chip."""
SMALL_GEMM = {"m": 256.0, "n": 2048.0, "k": 2048.0}
"""A few microseconds, so it is timed inside a graph."""


def harness(rule: StopRule = QUICK.rule) -> Harness:
    """Return what a calibration measures with, for a cache of 50 MiB."""
    running = open_device("cuda:0")
    telemetry = open_telemetry(running.device.kind, 0)
    pool = OperandPool(DEVICE, pool_bytes=2**30, cold_bytes=150 * 2**20)
    return Harness(pool, GpuTimer(DEVICE, telemetry.read_if_due), telemetry, rule)


def about(point: Point) -> dict[str, Any]:
    """Return the values of a point that tests assert."""
    wanted = ("time_s", "tags", "power_w", "clock_mhz", "temperature_c", "valid", "bytes", "flops")
    return {name: getattr(point, name) for name in wanted}


def of(kernel: Kernel, case: dict[str, float], bench: Harness | None = None) -> dict[str, Any]:
    """Measure one case."""
    return about(measure(kernel, case, bench or harness()).point)


def timing() -> dict[str, Any]:
    """Measure a long and a short GEMM, with device memory traffic of the last samples."""
    from simulated_gpu.install import THE_MACHINE

    bench = harness()
    long, short = (of(TorchMatmul("bfloat16"), case, bench) for case in (GEMM, SMALL_GEMM))
    at = len(THE_MACHINE[0].devices[0].log)
    tiny = of(TorchMatmul("bfloat16"), {"m": 1.0, "n": 64.0, "k": 64.0}, bench)
    log = [entry for entry in THE_MACHINE[0].devices[0].log[:at] if entry[0] == "linear"]
    miss, hit = (sum(entry[i] for entry in log[-300:]) for i in (3, 4))
    return {"long": long, "short": short, "tiny": tiny, "cached_share": hit / (hit + miss)}


def fp8() -> dict[str, Any]:
    """Measure the same fp8 GEMM with fast and with exact accumulation."""
    return {name: of(Fp8Matmul("fp8", name), GEMM) for name in ("fast", "exact")}


def launches() -> dict[str, Any]:
    """Measure all variants of the launch overhead."""
    names = ("eager", "queued", "graph", "round-trip", "synchronize")
    return {name: of(Launch(name), {})["time_s"] for name in names}


def spin() -> dict[str, Any]:
    """Calibrate the spin kernel on a device that has been idle."""
    time.sleep(5.0)
    return {"cycles_per_s": GpuTimer(DEVICE).spin_cycles_per_s}


def failed_capture() -> dict[str, Any]:
    """Time a call that cannot be captured, and then one that can."""
    timer = GpuTimer(DEVICE)
    x = torch.zeros(1, device=DEVICE)

    def waits() -> None:
        x.add_(1.0)
        torch.cuda.synchronize()

    first = timer.prepare([waits])
    stream_after = torch.cuda.current_stream().key  # type: ignore[attr-defined]
    second = timer.prepare([lambda: x.add_(1.0)])
    return {"first": first.notes, "second": second.notes, "stream": stream_after,
            "time_s": sorted(second.sample(5))[2]}  # fmt: skip


def power() -> dict[str, Any]:
    """Measure a case of little power for 20 ms, right after seconds of a case of much power."""
    bench = harness(StopRule(min_time_s=3.0, time_cap_s=3.0, max_samples=10**6))
    hot = of(TorchMatmul("bfloat16"), GEMM, bench)
    short = Harness(bench.pool, bench.timer, bench.telemetry, StopRule(min_samples=5))
    cool = of(TorchMatmul("float32"), {"m": 512.0, "n": 4096.0, "k": 4096.0}, short)
    return {"hot": hot, "cool": cool}


def sensors() -> dict[str, Any]:
    """Read what the driver's library says about the device, before and after a second of work."""
    bench = harness(StopRule(min_time_s=1.0, time_cap_s=1.0, max_samples=10**6))
    point = of(TorchMatmul("bfloat16"), GEMM, bench)
    state = bench.telemetry.state
    return {"point": point, "description": bench.telemetry.description,
            "errors": bench.telemetry.errors(), "state": vars(state),
            "settings": bench.telemetry.settings(),
            "counters": bench.telemetry.counters()}  # fmt: skip


def device() -> dict[str, Any]:
    """Open the first device, and tell what it is taken for and where its journal would be."""
    running = open_device("cuda:0")
    return {"name": running.device.name, "note": running.datasheet_note,
            "datasheet": running.datasheet.id if running.datasheet else None,
            "journal": journal_path(Path("profiles"), running, QUICK).name}  # fmt: skip


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    f.__name__: f
    for f in (timing, fp8, launches, spin, failed_capture, power, sensors, device)
}  # fmt: skip

if __name__ == "__main__":
    with torch.inference_mode():
        print(json.dumps(SCENARIOS[sys.argv[1]]()))
