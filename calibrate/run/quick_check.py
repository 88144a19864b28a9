"""Measure a few fixed cases in seconds, to find a device that is slower than others of its class.

A calibration measures the speed of every operation. A check compares a device with its class, so
every device runs the same cases. Each case is measured in several windows spread over the check.
Clock, power and temperature are recorded with the results, because they often explain them. All
measurements go through a journal, so none is lost if the node fails.

    for row in check_device(open_device("cuda:0"), Path("gpu0.jsonl")): ...
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

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
"""Number of times that each case is measured: the median of three tolerates one disturbance."""

UNSTEADY = 0.10
"""Spread of the windows of one case, (slowest - fastest) / fastest, above which its row gets a
note."""


@dataclass(frozen=True)
class CheckCase:
    """One case of a check, and the metric that it gives."""

    metric: str
    unit: str
    """Unit of the metric: FLOP/s, bytes/s or s."""
    kernel: Kernel
    case: Mapping[str, float]


class CheckRow(Record):
    """One metric of one device; its value is None if the test failed."""

    metric: str
    value: float | None
    unit: str
    note: str = ""
    """Reason for a missing value, or a remark about an unusual one."""


class DeviceCheck(Record):
    """All metrics of one device, with the properties that devices must share to be compared."""

    device: int
    sku: str
    memory_bytes: float
    power_cap_w: float | None
    partition: str | None
    driver: str | None
    benchmark_version: str
    rows: tuple[CheckRow, ...]
    settings: dict[str, str] = Field(default_factory=dict)
    """What the device is set to, by name: lanes, clocks, firmware, ..."""


def check_cases(kind: str) -> tuple[CheckCase, ...]:
    """Return the cases of a check for a ``cpu`` or a ``gpu``.

    They are long enough to show the sustained clock of the fastest device, and their size is fixed:
    a slow device must not get less work.
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
        Device to check.
    journal : Path
        Path of the journal. A check that was stopped resumes from it.
    seed : int, default 0
        Random seed of the order of the cases in each window.
    allow_busy : bool, default False
        Whether to measure although other processes compute on the device.

    Returns
    -------
    DeviceCheck
        The metrics of the device. A failed test has no value but a reason; the others still run.

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
                f"{others} other processes compute on this device and would distort the check",
                remedy="stop them, or give --allow-busy",
            )
        run = Run(kept, make_harness(request, telemetry), lambda *_: None)
        entries = _windows(run, tests, seed)
        return _summed_up(running, telemetry, tests, entries, run.skipped)


def _windows(run: Run, tests: tuple[CheckCase, ...], seed: int) -> dict[str, list[Entry]]:
    """Measure every case once per window, in a different random order in each window."""
    order = np.random.default_rng(seed)
    entries: dict[str, list[Entry]] = {test.metric: [] for test in tests}
    for window in range(WINDOWS):
        for index in order.permutation(len(tests)):
            test = tests[int(index)]
            if window and not entries[test.metric]:
                continue  # it failed in the first window and would fail again
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
    if running.device.kind != "cpu":
        errors = telemetry.errors()
        note = "; ".join(errors)
        rows.append(CheckRow(metric=ERRORS, value=float(len(errors)), unit="", note=note))
        rows += [CheckRow(metric=name, value=value, unit="")
                 for name, value in sorted(telemetry.counters().items())]  # fmt: skip
    from groundspeed.calibrate.run.device import read_environment

    around = read_environment(running, telemetry=telemetry, command="check")
    return DeviceCheck(
        device=running.torch_device.index or 0,
        sku=running.device.name,
        memory_bytes=running.memory_bytes,
        power_cap_w=around.power_cap_w,
        partition=around.partition_mode,
        driver=around.driver,
        benchmark_version=f"check-{METHOD_VERSION} torch-{torch.__version__}",
        rows=tuple(rows),
        settings=telemetry.settings(),
    )


ERRORS = "ecc_xid_errors"
"""Metric of hardware errors: memory errors, remapped rows and XIDs during the check."""

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
