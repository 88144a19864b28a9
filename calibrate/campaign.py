"""Run a calibration: probe, plan, measure in random order, repeat winners, fit, write the profile.

Everything measured goes through the journal, so a run that is killed at any instant continues
where it was. One reference case is repeated throughout: its spread says how steady the machine
was, and widens every interval in the summary.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from groundspeed.calibrate.assemble import Material, build_profile
from groundspeed.calibrate.clock import timer_for
from groundspeed.calibrate.device import (
    METHOD_VERSION,
    RunningDevice,
    read_environment,
    tool_version,
)
from groundspeed.calibrate.journal import Entry, Journal
from groundspeed.calibrate.measure import Bench, measure
from groundspeed.calibrate.peak import neighbours, sustained
from groundspeed.calibrate.plan import (
    Limits,
    Mode,
    PlannedCase,
    expected_s,
    make_plan,
    matmul_kernel,
    planned,
    yardsticks,
)
from groundspeed.calibrate.reference import cold_bytes
from groundspeed.calibrate.telemetry import Telemetry, open_telemetry
from groundspeed.kernels.attention import PrefillAttention
from groundspeed.kernels.matmul import TorchMatmul
from groundspeed.kernels.matmul_data import DATA, DataMatmul
from groundspeed.kernels.operands import OperandPool
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.summary import PEAK, SUSTAINED, WINNER, best_point

DISTURBED = frozenset({"noisy-neighbour", "drift", "bimodal"})
"""Tags of a measurement worth repeating; a median stands a few outliers."""

MOST_REPEATED = 0.15
"""Share of a plan that is repeated at most: a machine that is never quiet stays noisy."""

REFERENCE_REPEATS = 24

Progress = Callable[[int, int, str], None]
"""Called before each case with how many are done, how many there are, and its name."""


@dataclass(frozen=True)
class Request:
    """What to calibrate and where to keep it."""

    running: RunningDevice
    mode: Mode
    journal: Path
    command: str
    seed: int = 0
    fresh: bool = False
    """Forget a run that was stopped."""
    allow_busy: bool = False
    """Measure although other processes use the device."""


def fingerprint(request: Request) -> dict[str, object]:
    """What two processes must share to be one run."""
    device = request.running.device
    return {
        "device": device.model_dump(mode="json"),
        "mode": request.mode.name,
        "seed": request.seed,
        "tool": tool_version(),
        "method": METHOD_VERSION,
        "torch": torch.__version__,
    }


def journal_path(folder: Path, running: RunningDevice, mode: Mode) -> Path:
    """Where the unfinished run of a device and mode is kept."""
    identity = hashlib.sha256(running.device.model_dump_json().encode()).hexdigest()[:8]
    return folder / "unfinished" / f"{running.device.kind}-{mode.name}-{identity}.jsonl"


@dataclass(frozen=True)
class Preview:
    """What a calibration would do."""

    cases: tuple[str, ...]
    expected_s: float


def preview(request: Request) -> Preview:
    """Probe how fast the device is, and say what would be measured and how long it takes.

    Raises
    ------
    InputError
        If the device cannot be measured.
    """
    with (
        torch.inference_mode(),
        Journal(request.journal, fingerprint(request), fresh=request.fresh) as journal,
        open_telemetry(request.running.device.kind) as telemetry,
    ):
        run = _Run(journal, _bench(request, telemetry), lambda *_: None)
        plan = run.plan(request)
        return Preview(
            tuple(case.key for case in plan), expected_s(plan, request.mode, run.limits(request))
        )


def calibrate(request: Request, progress: Progress) -> Profile:
    """Measure a device and fit its laws.

    Parameters
    ----------
    request : Request
    progress : callable

    Returns
    -------
    Profile

    Raises
    ------
    InputError
        If the journal cannot be written or too little could be measured.
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
                f"{others} other processes compute on this GPU: its rates would be theirs too",
                remedy="stop them, or insist with --allow-busy (the profile will say so)",
            )
        run = _Run(journal, _bench(request, telemetry), progress)
        plan = run.plan(request)
        run.measure_all(plan)
        run.repeat_disturbed(plan)
        cache_bytes = running.device.last_level_cache_bytes
        peaks = run.search_peaks(plan, request.mode)
        run.repeat_winners(cache_bytes)
        run.measure_at_peaks(peaks, request.mode)
        environment = read_environment(running, telemetry=telemetry, command=request.command)
        return build_profile(
            Material(
                running=running,
                environment=environment,
                mode=request.mode.name,
                seed=request.seed,
                measured=[(case, run.better(case, entry)) for case, entry in run.done],
                references={limit: run.references(limit) for limit in run.references_of},
                skipped=run.skipped,
                busy_elsewhere_fraction=telemetry.busy_elsewhere(),
            )
        )


def _bench(request: Request, telemetry: Telemetry) -> Bench:
    """What cases are measured with: a pool of the right size, the device's timer."""
    running, mode = request.running, request.mode
    cold = cold_bytes(running)
    on_cpu = running.device.kind == "cpu"
    share = 48.0 if on_cpu else 24.0  # blocks of several types live at once
    largest = mode.largest_operand_bytes if on_cpu else mode.largest_gpu_operand_bytes
    pool_bytes = int(min(max(1.5 * cold, largest), running.device.memory_bytes / share))
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    pool = OperandPool(running.torch_device, pool_bytes=pool_bytes, cold_bytes=int(cold))
    return Bench(pool, timer_for(running.torch_device), telemetry, mode.rule)


class _Run:
    """The state of a run: what is journalled, and how to measure what is not."""

    def __init__(self, journal: Journal, bench: Bench, progress: Progress) -> None:
        self.journal = journal
        self.bench = bench
        self.progress = progress
        self.total = 0
        self.references_of = yardsticks(
            "cpu" if bench.pool.device.type == "cpu" else "gpu"
        ).references
        self.skipped: list[str] = []
        self.done: list[tuple[PlannedCase, Entry]] = []

    def entry(
        self, case: PlannedCase, tags: tuple[str, ...] = (), *, keep: bool = True
    ) -> Entry | None:
        """The measurement of a case: from the journal, or made now.

        With ``keep`` it becomes a point of the profile; probes, references and repetitions do not.
        """
        found = self.journal.entries.get(case.key)
        if found is None:
            self.progress(len(self.journal.entries), self.total, case.key)
            try:
                measured = measure(case.kernel, case.case, self.bench, tags=tags)
            except InputError:
                raise
            except Exception as error:  # whatever one kernel cannot do must not end the others
                self._require_device(case, error)
                told = f"{case.key}: {type(error).__name__}: {error}"
                self.skipped.append(told.split("\n")[0])
                return None
            found = Entry(key=case.key, point=measured.point, samples_s=measured.samples_s)
            self.journal.append(found)
        if keep:
            self.done.append((case, found))
        return found

    def _require_device(self, case: PlannedCase, error: Exception) -> None:
        """Tell a case that failed from a device that is lost.

        Raises
        ------
        InputError
            If the device does not answer any more.
        """
        if self.bench.pool.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self.bench.pool.device)
            torch.zeros(1, device=self.bench.pool.device).item()
        except RuntimeError as lost:
            raise InputError(
                f"the GPU was lost in {case.key} ({type(error).__name__}: {lost})",
                remedy="look at the driver's log, then run the same command again: it continues",
            ) from error

    def plan(self, request: Request) -> list[PlannedCase]:
        """Choose the cases, by how fast this device is."""
        limits = self.limits(request)
        return make_plan(request.running.device, request.mode, limits, seed=request.seed)

    def limits(self, request: Request) -> Limits:
        """Probe how fast each data type roughly is.

        Raises
        ------
        InputError
            If no product is correct here.
        """
        rates = {}
        sticks = yardsticks(request.running.device.kind)
        for dtype in request.mode.dtypes(request.running.device.kind):
            probe = planned(matmul_kernel(dtype), sticks.probe, prefix="probe: ")
            entry = self.entry(probe, keep=False)
            if entry is not None and entry.point.valid:
                rates[dtype] = entry.point.flops / entry.point.time_s
        if not rates:
            raise InputError("this device computes no matrix product correctly, nothing to measure")
        probe = planned(PrefillAttention("bfloat16"), sticks.attention_probe, prefix="probe: ")
        attention = self.entry(probe, keep=False)
        return Limits(
            request.mode.longest_call_s,
            rates,
            attention.point.flops / attention.point.time_s if attention else max(rates.values()),
            float(self.bench.pool.pool_bytes),
        )

    def measure_all(self, plan: list[PlannedCase]) -> None:
        """Measure every case, the references among them at even distances."""
        every = max(1, len(plan) // REFERENCE_REPEATS)
        self.total = len(plan) + 2 * (len(plan) // every) + 8
        kernel = TorchMatmul(next(iter(_reference_dtypes(plan))))
        for i, case in enumerate(plan):
            if i % every == 0:
                for limit, shape in self.references_of.items():
                    prefix = f"{limit} reference {i // every}: "
                    self.entry(planned(kernel, shape, prefix=prefix), keep=False)
            self.entry(case)

    def repeat_disturbed(self, plan: list[PlannedCase]) -> None:
        """Measure again, at the end, what was disturbed: neighbours come and go."""
        disturbed = [
            case
            for case in plan
            if (entry := self.journal.entries.get(case.key)) and DISTURBED & set(entry.point.tags)
        ]
        for case in disturbed[: round(MOST_REPEATED * len(plan))]:
            again = planned(case.kernel, case.case, prefix=f"again: {case.label}")
            self.entry(again, keep=False)

    def better(self, case: PlannedCase, first: Entry) -> Entry:
        """The measurement of a case, or its repetition where that was less disturbed."""
        again = self.journal.entries.get(f"again: {case.key}")
        if again is None:
            return first
        quieter = len(DISTURBED & set(again.point.tags)) < len(DISTURBED & set(first.point.tags))
        return again if quieter else first

    def search_peaks(self, plan: list[PlannedCase], mode: Mode) -> dict[str, PlannedCase]:
        """From the best shape of each data type, step to larger and smaller ones while it pays."""
        peaks: dict[str, PlannedCase] = {}
        for (operation, *regime, backend), cases in _by_curve(self.done).items():
            if (operation, backend) != ("matmul", "torch"):
                continue
            best, rate = max(((c, _flops_rate(e)) for c, e in cases), key=lambda x: x[1])
            for shape in neighbours(best.case, steps=mode.peak_steps):
                case = planned(best.kernel, shape, prefix="peak: ")
                entry = self.entry(case, tags=(PEAK,))
                if entry is not None and _flops_rate(entry) > rate:
                    best, rate = case, _flops_rate(entry)
            peaks[regime[0]] = best
        return peaks

    def repeat_winners(self, cache_bytes: float | None) -> None:
        """Measure the best case of each rate again: the best of many is too good by selection."""
        for (operation, *_), cases in _by_curve(self.done).items():
            if operation not in ("matmul", "stream"):
                continue
            valid = [(c, self.better(c, e).point) for c, e in cases]
            valid = [(c, p) for c, p in valid if p.valid]
            if valid:
                best = best_point(operation, [p for _, p in valid], cache_bytes)
                case = next(c for c, p in valid if p is best)
                again = planned(case.kernel, case.case, prefix=f"winner: {case.label}")
                self.entry(again, tags=(WINNER,))

    def measure_at_peaks(self, peaks: dict[str, PlannedCase], mode: Mode) -> None:
        """The best shape for seconds on end, and on operands that draw less power."""
        for dtype, seconds in mode.sustained.items():
            if dtype not in peaks:
                continue
            kernel = matmul_kernel(dtype, operation="matmul_sustained")
            case = planned(kernel, peaks[dtype].case)
            known = self.journal.entries.get(case.key)
            if known is None:
                self.progress(len(self.journal.entries), self.total, f"{case.key}, {seconds:g} s")
                measured = sustained(kernel, case.case, self.bench, seconds, tags=(SUSTAINED,))
                known = Entry(key=case.key, point=measured.point, samples_s=measured.samples_s)
                self.journal.append(known)
            self.done.append((case, known))
        if mode.data and "bfloat16" in peaks:
            for data in DATA:
                self.entry(planned(DataMatmul("bfloat16", data), peaks["bfloat16"].case))

    def references(self, limit: str) -> list[Entry]:
        """The repetitions of a reference case, in the order they were made."""
        return [e for e in self.journal if e.key.startswith(f"{limit} reference ")]


def _reference_dtypes(plan: list[PlannedCase]) -> list[str]:
    found = [p.kernel.regime["dtype"] for p in plan if p.kernel.operation == "matmul"]
    return sorted(set(found), key=found.count, reverse=True)


def _flops_rate(entry: Entry) -> float:
    return entry.point.flops / entry.point.time_s if entry.point.valid else 0.0


def _by_curve(
    done: list[tuple[PlannedCase, Entry]],
) -> dict[tuple[str, ...], list[tuple[PlannedCase, Entry]]]:
    groups: dict[tuple[str, ...], list[tuple[PlannedCase, Entry]]] = {}
    for case, entry in done:
        kernel = case.kernel
        key = (kernel.operation, *kernel.regime.values(), kernel.backend)
        groups.setdefault(key, []).append((case, entry))
    return dict(sorted(groups.items()))
