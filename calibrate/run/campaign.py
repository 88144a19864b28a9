"""Run a calibration: probe, plan, measure in random order, repeat winners, fit, build the profile.

Every measurement is written to the journal, so a run that is killed at any moment resumes where it
stopped. Reference cases are repeated throughout the run. Their spread shows how steady the machine
was, and widens every interval in the summary.

    profile = calibrate(request, progress)
"""

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from groundspeed.calibrate.design.measurement_plan import Mode, PlannedCase, expected_s
from groundspeed.calibrate.run.build_profile import ProfileInputs, build_profile
from groundspeed.calibrate.run.device import RunningDevice, read_environment
from groundspeed.calibrate.run.journal import Entry, Journal
from groundspeed.calibrate.run.reference_cases import cold_bytes
from groundspeed.calibrate.run.runner import Progress, Request, Run
from groundspeed.calibrate.timing.measure_case import Harness
from groundspeed.calibrate.timing.telemetry import Telemetry, open_telemetry
from groundspeed.calibrate.timing.timers import timer_for
from groundspeed.calibrate.version import METHOD_VERSION, tool_version
from groundspeed.kernels.operands import OperandPool
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Profile

__all__ = ["Preview", "Progress", "Request", "calibrate", "journal_path", "preview"]


def fingerprint(request: Request) -> dict[str, object]:
    """Identify a run: a journal is resumed only by a process with the same fingerprint."""
    device = request.running.device
    return {
        "device": device.model_dump(mode="json"),
        "identity": request.running.identity,
        "mode": request.mode.name,
        "dtypes": list(request.dtypes),
        "seed": request.seed,
        "tool": tool_version(),
        "method": METHOD_VERSION,
        "torch": torch.__version__,
    }


def journal_path(folder: Path, running: RunningDevice, mode: Mode) -> Path:
    """Return the path of the journal of an unfinished run.

    It depends on the individual device and the mode: nodes that share a home folder, and processes
    that see different GPUs as number 0, must not continue each other's runs or wait for them.
    """
    about = running.device.model_dump_json() + running.identity
    identity = hashlib.sha256(about.encode()).hexdigest()[:8]
    which = running.torch_device.index or 0
    return folder / "unfinished" / f"{running.device.kind}{which}-{mode.name}-{identity}.jsonl"


@dataclass(frozen=True)
class Preview:
    """The cases that a calibration would measure, and its expected duration."""

    cases: tuple[str, ...]
    expected_s: float

    def summary(self) -> str:
        """Return the number of cases of each operation and the approximate duration in one line."""
        count = Counter(case.removeprefix("again: ").split()[0] for case in self.cases)
        parts = ", ".join(f"{n} {operation}" for operation, n in count.most_common())
        return f"{len(self.cases)} cases, about {self.expected_s:.0f} s: {parts}"


def preview(request: Request) -> Preview:
    """Probe the device, and return the cases that would be measured and their expected duration.

    Raises
    ------
    InputError
        If the device cannot be measured.
    """
    with (
        torch.inference_mode(),
        Journal(request.journal, fingerprint(request), fresh=request.fresh) as journal,
        open_telemetry(
            request.running.device.kind, request.running.torch_device.index or 0
        ) as telemetry,
    ):
        run = Run(journal, make_harness(request, telemetry), lambda *_: None)
        return _previewed(run, run.plan(request), request)


def _previewed(run: Run, plan: list[PlannedCase], request: Request) -> Preview:
    return Preview(
        tuple(case.key for case in plan), expected_s(plan, request.mode, run.limits(request))
    )


Announce = Callable[[Preview], None]
"""Callback that gets the preview once, before the first case of the plan."""


def calibrate(request: Request, progress: Progress, announce: Announce = lambda _: None) -> Profile:
    """Measure a device and fit its laws.

    Parameters
    ----------
    request : Request
        Device, mode, journal and options.
    progress : callable
        Called before each case with the cases done, the total, and the name of the case.
    announce : callable, optional
        Called once with the preview, before the first case of the plan. Default: no call.

    Returns
    -------
    Profile
        The profile. It is not written to a file.

    Raises
    ------
    InputError
        If other processes use the GPU, the device is lost, no GEMM is correct, or the journal
        cannot be written.
    """
    running = request.running
    with (
        torch.inference_mode(),
        Journal(request.journal, fingerprint(request), fresh=request.fresh) as journal,
        open_telemetry(running.device.kind, running.torch_device.index or 0) as telemetry,
    ):
        others = telemetry.state.other_processes
        if others and not request.allow_busy:
            raise InputError(
                f"{others} other processes compute on this GPU and would distort the measurement",
                remedy="stop them, or give --allow-busy (the profile will carry a warning)",
            )
        run = Run(journal, make_harness(request, telemetry), progress)
        plan = run.plan(request)
        announce(_previewed(run, plan, request))
        run.measure_all(plan)
        run.repeat_disturbed(plan)
        cache_bytes = running.device.last_level_cache_bytes
        peaks = run.search_peaks(plan, request.mode)
        run.repeat_winners(cache_bytes)
        run.measure_at_peaks(peaks, request.mode)
        if importlib.util.find_spec("triton") is not None and running.device.kind != "cpu":
            run.tune(request.mode)
        names = run.kernel_names() if request.mode.kernel_names else {}
        environment = read_environment(running, telemetry=telemetry, command=request.command)
        return build_profile(
            ProfileInputs(
                running=running,
                environment=environment,
                mode=request.mode.name,
                seed=request.seed,
                measured=[
                    (case, with_kernel_name(run.better(case, entry), names.get(case.key)))
                    for case, entry in run.done
                ],
                references={limit: run.references(limit) for limit in run.references_of},
                skipped=run.skipped,
                busy_elsewhere_fraction=telemetry.busy_elsewhere(),
                errors=telemetry.errors(),
            )
        )


def make_harness(request: Request, telemetry: Telemetry) -> Harness:
    """Create the harness: an operand pool of the right size, timer, telemetry and stop rule."""
    running, mode = request.running, request.mode
    cold = cold_bytes(running)
    on_cpu = running.device.kind == "cpu"
    share = 48.0 if on_cpu else 24.0  # the pool holds blocks of several data types at once
    largest = mode.largest_operand_bytes if on_cpu else mode.largest_gpu_operand_bytes
    pool_bytes = int(min(max(1.5 * cold, largest), running.memory_bytes / share))
    torch.backends.cuda.matmul.allow_tf32 = False  # a float32 case must not use TF32
    pool = OperandPool(running.torch_device, pool_bytes=pool_bytes, cold_bytes=int(cold))
    timer = timer_for(running.torch_device, telemetry.read_if_due)
    return Harness(pool, timer, telemetry, mode.rule)


def with_kernel_name(entry: Entry, kernel: str | None) -> Entry:
    """Return a copy of an entry with the name of the kernel that ran."""
    return entry.model_copy(update={"point": entry.point.model_copy(update={"kernel": kernel})})
