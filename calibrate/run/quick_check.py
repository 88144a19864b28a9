"""A few fixed cases in seconds: enough to see that a device is slower than its kind.

A calibration asks how fast every operation is; a check asks whether this device is like the others,
so every device gets the same cases. Each is measured in several windows spread over the check, and
what clock, power and temperature were is kept beside them: they say why. Everything goes through a
journal, so a node that dies has lost nothing that was measured.

    for row in check_device(open_device("cuda:0"), Path("gpu0.jsonl")): ...
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from groundspeed.calibrate.design.measurement_plan import QUICK, PlannedCase, matmul_kernel, planned
from groundspeed.calibrate.run.campaign import Request, fingerprint, make_harness
from groundspeed.calibrate.run.device import RunningDevice
from groundspeed.calibrate.run.journal import Entry, Journal
from groundspeed.calibrate.run.runner import Run
from groundspeed.calibrate.timing.stopping import StopRule
from groundspeed.calibrate.timing.telemetry import Telemetry, open_telemetry
from groundspeed.calibrate.version import METHOD_VERSION
from groundspeed.kernels.kernel import Kernel
from groundspeed.kernels.launch.launch import Launch
from groundspeed.kernels.links.host_link import HostLink
from groundspeed.kernels.memory.stream import TorchStream
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

WINDOWS = 3
"""Times each case is measured: a median of three stands one disturbance."""

UNSTEADY = 0.10
"""Spread of the windows of one case, over their median, from which it tells nothing."""


@dataclass(frozen=True)
class CheckCase:
    """One number of a check."""

    metric: str
    unit: str
    """FLOP/s, bytes/s or s."""
    kernel: Kernel
    case: Mapping[str, float]


class CheckRow(Record):
    """One number of one device; None for a test that failed."""

    metric: str
    value: float | None
    unit: str
    note: str = ""
    """Why there is no value, or what was unusual."""


class DeviceCheck(Record):
    """All numbers of one device, and what it must share with those it is compared with."""

    device: int
    sku: str
    memory_bytes: float
    power_cap_w: float | None
    partition: str | None
    driver: str | None
    benchmark_version: str
    rows: tuple[CheckRow, ...]


def check_cases(kind: str) -> tuple[CheckCase, ...]:
    """The cases of a check.

    Long enough on the fastest device to see its sustained clock, and all of one size: a device that
    is slow must not be given less to do.
    """
    if kind == "cpu":
        square = {"m": 512.0, "n": 1024.0, "k": 1024.0}
        return (
            CheckCase("matmul_float32", "FLOP/s", matmul_kernel("float32"), square),
            CheckCase("memory_triad", "bytes/s", TorchStream("triad"), {"bytes": 2.0**26}),
            CheckCase("memory_read", "bytes/s", TorchStream("read"), {"bytes": 2.0**26}),
            CheckCase("launch", "s", Launch("eager"), {}),
        )
    square = {"m": 8192.0, "n": 8192.0, "k": 8192.0}
    half = {name: size / 2 for name, size in square.items()}
    link = {"bytes": 2.0**26}
    return (
        CheckCase("matmul_bfloat16", "FLOP/s", matmul_kernel("bfloat16"), square),
        CheckCase("matmul_fp8", "FLOP/s", matmul_kernel("fp8"), square),
        CheckCase("matmul_float32_vector", "FLOP/s", matmul_kernel("float32"), half),
        CheckCase("hbm_triad", "bytes/s", TorchStream("triad"), {"bytes": 2.0**30}),
        CheckCase("hbm_read", "bytes/s", TorchStream("read"), {"bytes": 2.0**30}),
        CheckCase("pcie_h2d", "bytes/s", HostLink("h2d"), link),
        CheckCase("pcie_d2h", "bytes/s", HostLink("d2h"), link),
        CheckCase("launch", "s", Launch("eager"), {}),
    )


CPU_RULE = StopRule(min_samples=5, min_time_s=0.1, half_width_fraction=0.01, time_cap_s=0.3)
GPU_RULE = StopRule(min_samples=10, min_time_s=0.25, half_width_fraction=0.005, time_cap_s=0.5)


def check_device(
    running: RunningDevice, journal: Path, *, seed: int = 0, allow_busy: bool = False
) -> DeviceCheck:
    """Measure the fixed cases of a check.

    Parameters
    ----------
    running : RunningDevice
    journal : Path
        Where measurements are kept as they are made; a check that was stopped continues there.
    seed : int
        Of the order of the windows.
    allow_busy : bool
        Measure although others compute on the device.

    Returns
    -------
    DeviceCheck
        A test that fails has no value and says why; it does not end the others.

    Raises
    ------
    InputError
        If the device is busy or lost, or the journal cannot be written.
    """
    kind = "cpu" if running.device.kind == "cpu" else "gpu"
    rule = CPU_RULE if kind == "cpu" else GPU_RULE
    mode = replace(QUICK, name="check", rule=rule, largest_operand_bytes=2.0**27)
    request = Request(running, mode, journal, "check", seed, allow_busy=allow_busy)
    tests = check_cases(kind)
    with (
        torch.inference_mode(),
        Journal(journal, fingerprint(request)) as kept,
        open_telemetry(running.device.kind, running.torch_device.index or 0) as telemetry,
    ):
        others = telemetry.state.other_processes
        if others and not allow_busy:
            raise InputError(
                f"{others} other processes compute on this device: its rates would be theirs too",
                remedy="stop them, or insist with --allow-busy",
            )
        run = Run(kept, make_harness(request, telemetry), lambda *_: None)
        entries = _windows(run, tests, seed)
        return _summed_up(running, telemetry, tests, entries, run.skipped)


def _windows(run: Run, tests: tuple[CheckCase, ...], seed: int) -> dict[str, list[Entry]]:
    """Every test in every window, each window in another order."""
    order = np.random.default_rng(seed)
    entries: dict[str, list[Entry]] = {test.metric: [] for test in tests}
    for window in range(WINDOWS):
        for index in order.permutation(len(tests)):
            test = tests[int(index)]
            if window and not entries[test.metric]:
                continue  # it failed before, and would again
            entry = run.entry(_planned(test, window), keep=False)
            if entry is not None:
                entries[test.metric].append(entry)
    return entries


def _planned(test: CheckCase, window: int) -> PlannedCase:
    return planned(test.kernel, test.case, prefix=f"check {window} {test.metric}: ")


def _summed_up(
    running: RunningDevice,
    telemetry: Telemetry,
    tests: tuple[CheckCase, ...],
    entries: Mapping[str, list[Entry]],
    skipped: list[str],
) -> DeviceCheck:
    rows = [_row(test, entries[test.metric], skipped) for test in tests]
    work = [e for t in tests if t.metric.startswith("matmul") for e in entries[t.metric]]
    for metric, unit, name in TELEMETRY:
        values = [v for e in work if (v := getattr(e.point, name)) is not None]
        if values:
            rows.append(CheckRow(metric=metric, value=float(np.median(values)), unit=unit))
    from groundspeed.calibrate.run.device import read_environment

    around = read_environment(running, telemetry=telemetry, command="check")
    return DeviceCheck(
        device=running.torch_device.index or 0,
        sku=running.device.name,
        memory_bytes=running.device.memory_bytes,
        power_cap_w=around.power_cap_w,
        partition=around.partition_mode,
        driver=around.driver,
        benchmark_version=f"check-{METHOD_VERSION} torch-{torch.__version__}",
        rows=tuple(rows),
    )


TELEMETRY = (
    ("clock_mhz", "MHz", "clock_mhz"),
    ("power_w", "W", "power_w"),
    ("temperature_c", "C", "temperature_c"),
)
"""Sensor readings during matrix products: metric, unit, field of a point."""


def _row(test: CheckCase, entries: list[Entry], skipped: list[str]) -> CheckRow:
    if not entries:
        key = _planned(test, 0).key
        reason = next(
            (s.removeprefix(f"{key}: ") for s in skipped if s.startswith(key)), "no result"
        )
        return CheckRow(metric=test.metric, value=None, unit=test.unit, note=reason)
    if not all(e.point.valid for e in entries):
        return CheckRow(metric=test.metric, value=None, unit=test.unit, note="wrong results")
    times = np.array([e.point.time_s for e in entries])
    spread = float(times.max() / times.min() - 1.0)
    note = f"windows differ by {spread:.0%}" if spread > UNSTEADY else ""
    time_s = float(np.median(times))
    point = entries[0].point
    work = {"FLOP/s": point.flops, "bytes/s": point.bytes, "s": None}[test.unit]
    value = time_s if work is None else work / time_s
    return CheckRow(metric=test.metric, value=value, unit=test.unit, note=note)
