"""Run a calibration: probe, plan, measure in random order, repeat winners, fit, write the profile.

Everything measured goes through the journal, so a run that is killed at any instant continues
where it was. One reference case is repeated throughout: its spread says how steady the machine
was, and widens every interval in the summary.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from groundspeed.calibrate.clock import timer_for
from groundspeed.calibrate.device import (
    METHOD_VERSION,
    RunningDevice,
    read_environment,
    tool_version,
)
from groundspeed.calibrate.fit import MIN_POINTS, fit_points
from groundspeed.calibrate.journal import Entry, Journal
from groundspeed.calibrate.measure import Bench, measure
from groundspeed.calibrate.plan import (
    Limits,
    Mode,
    PlannedCase,
    make_plan,
    planned,
    yardsticks,
)
from groundspeed.calibrate.reference import cold_bytes
from groundspeed.calibrate.telemetry import open_telemetry
from groundspeed.kernels.attention import PrefillAttention
from groundspeed.kernels.kernel import DTYPES
from groundspeed.kernels.matmul import TorchMatmul
from groundspeed.kernels.operands import OperandPool
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import Law
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.schema import Curve, Environment, Profile, Stability
from groundspeed.profiles.summary import WINNER, best_point, derive_rates

NOISY_SPREAD = 0.05
"""A reference case that varies by more than this makes a profile noisy, and it says so."""

DISTURBED = frozenset({"noisy-neighbour", "drift", "bimodal", "outliers"})
"""Tags of a measurement worth repeating."""

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
    cold = cold_bytes(running)
    share = 48.0 if running.device.kind == "cpu" else 24.0  # blocks of several types live at once
    on_cpu = running.device.kind == "cpu"
    mode = request.mode
    largest = mode.largest_operand_bytes if on_cpu else mode.largest_gpu_operand_bytes
    largest = max(1.5 * cold, largest)
    pool_bytes = int(min(largest, running.device.memory_bytes / share))
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
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
        pool = OperandPool(running.torch_device, pool_bytes=pool_bytes, cold_bytes=int(cold))
        bench = Bench(pool, timer_for(running.torch_device), telemetry, request.mode.rule)
        run = _Run(journal, bench, progress)
        plan = run.plan(request)
        run.measure_all(plan)
        run.repeat_disturbed(plan)
        run.repeat_winners(plan, running.device.last_level_cache_bytes)
        environment = read_environment(running, telemetry=telemetry, command=request.command)
        return _profile(request, run, plan, environment, telemetry.busy_elsewhere())


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

    def entry(self, case: PlannedCase, tags: tuple[str, ...] = ()) -> Entry | None:
        """The measurement of a case: from the journal, or made now."""
        known = self.journal.entries.get(case.key)
        if known is not None:
            return known
        self.progress(len(self.journal.entries), self.total, case.key)
        try:
            measured = measure(case.kernel, case.case, self.bench, tags=tags)
        except InputError:
            raise
        except Exception as error:  # whatever one kernel cannot do must not end the others
            self._require_device(case, error)
            self.skipped.append(f"{case.key}: {type(error).__name__}: {error}".split("\n")[0])
            return None
        entry = Entry(key=case.key, point=measured.point, samples_s=measured.samples_s)
        self.journal.append(entry)
        return entry

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
        """Probe how fast each data type roughly is, then plan."""
        rates = {}
        sticks = yardsticks(request.running.device.kind)
        for dtype in request.mode.matmul_points:
            kernel = TorchMatmul(dtype)
            if dtype in DTYPES:
                entry = self.entry(planned(kernel, sticks.probe, prefix="probe: "))
                if entry is not None and entry.point.valid:
                    rates[dtype] = entry.point.flops / entry.point.time_s
        if not rates:
            raise InputError("this device computes no matrix product correctly, nothing to measure")
        attention = self.entry(
            planned(PrefillAttention("bfloat16"), sticks.attention_probe, "probe: ")
        )
        limits = Limits(
            request.mode.longest_call_s,
            rates,
            attention.point.flops / attention.point.time_s if attention else max(rates.values()),
            float(self.bench.pool.pool_bytes),
        )
        return make_plan(request.running.device, request.mode, limits, seed=request.seed)

    def measure_all(self, plan: list[PlannedCase]) -> None:
        """Measure every case, the references among them at even distances."""
        every = max(1, len(plan) // REFERENCE_REPEATS)
        self.total = len(plan) + 2 * (len(plan) // every) + 8
        kernel = TorchMatmul(next(iter(_reference_dtypes(plan))))
        for i, case in enumerate(plan):
            if i % every == 0:
                for limit, shape in self.references_of.items():
                    prefix = f"{limit} reference {i // every}: "
                    self.entry(planned(kernel, shape, prefix=prefix))
            self.entry(case)

    def repeat_disturbed(self, plan: list[PlannedCase]) -> None:
        """Measure again, at the end, what was disturbed: neighbours come and go."""
        for case in plan:
            entry = self.journal.entries.get(case.key)
            if entry is not None and DISTURBED & set(entry.point.tags):
                self.entry(planned(case.kernel, case.case, prefix="again: "))

    def best_entry(self, case: PlannedCase) -> Entry | None:
        """The measurement of a case, or its repetition where that was less disturbed."""
        first = self.journal.entries.get(case.key)
        again = self.journal.entries.get(f"again: {case.key}")
        if first is None or again is None:
            return first
        quieter = len(DISTURBED & set(again.point.tags)) < len(DISTURBED & set(first.point.tags))
        return again if quieter else first

    def repeat_winners(self, plan: list[PlannedCase], cache_bytes: float | None) -> None:
        """Measure the best case of each rate again: the best of many is too good by selection."""
        for cases in _by_curve(plan).values():
            operation = cases[0].kernel.operation
            if operation not in ("matmul", "stream"):
                continue
            points = [
                entry.point
                for case in cases
                if (entry := self.best_entry(case)) and entry.point.valid
            ]
            if points:
                best = best_point(operation, points, cache_bytes)
                again = planned(cases[0].kernel, best.case, prefix="winner: ")
                self.entry(again, tags=(WINNER,))

    def references(self, limit: str) -> list[Entry]:
        """The repetitions of a reference case, in the order they were made."""
        return [e for e in self.journal if e.key.startswith(f"{limit} reference ")]


def _reference_dtypes(plan: list[PlannedCase]) -> list[str]:
    found = [p.kernel.regime["dtype"] for p in plan if p.kernel.operation == "matmul"]
    return sorted(set(found), key=found.count, reverse=True)


def _by_curve(plan: list[PlannedCase]) -> dict[tuple[str, ...], list[PlannedCase]]:
    groups: dict[tuple[str, ...], list[PlannedCase]] = {}
    for case in plan:
        kernel = case.kernel
        key = (kernel.operation, *kernel.regime.values(), kernel.backend)
        groups.setdefault(key, []).append(case)
    return dict(sorted(groups.items()))


def _profile(
    request: Request,
    run: _Run,
    plan: list[PlannedCase],
    environment: Environment,
    busy_elsewhere: float | None,
) -> Profile:
    """Put curves, laws and summary together."""
    device = request.running.device
    source = f"{device.name}, {environment.date_utc}"
    warnings: list[str] = [f"not measured: {s}" for s in run.skipped]
    if environment.other_processes:
        warnings.append(f"{environment.other_processes} other processes used the device meanwhile")
    curves: list[Curve] = []
    laws: list[Law] = []
    for cases in _by_curve(plan).values():
        kernel = cases[0].kernel
        winners = [planned(c.kernel, c.case, prefix="winner: ") for c in cases]
        entries = [
            *(run.best_entry(c) for c in cases),
            *(run.journal.entries.get(w.key) for w in winners),
        ]
        points = tuple(e.point for e in entries if e is not None)
        if not points:
            continue
        curve = Curve(
            operation=kernel.operation,
            regime=dict(kernel.regime),
            backend=kernel.backend,
            cache="warm" if kernel.operation in ("glue", "launch") else "cold",
            origin="measured",
            source=source,
            points=points,
        )
        curves.append(curve)
        wrong = sum(not p.valid for p in points)
        name = " ".join((kernel.operation, *kernel.regime.values(), kernel.backend))
        if wrong:
            warnings.append(f"{name}: {wrong} of {len(points)} results were wrong and are not used")
        law = _law(curve, source, request.seed)
        if law is not None:
            laws.append(law)
    stability = _stability(run, busy_elsewhere)
    for steadiness in stability:
        if steadiness.verdict == "noisy":
            warnings.append(
                f"noisy machine: the {steadiness.limit} reference varied by "
                f"{steadiness.spread_fraction:.0%} during the run (other programs, a shared host, "
                "or a clock that moves)"
            )
    stamp = environment.date_utc.replace("-", "").replace(":", "").lower()
    return Profile(
        id=f"{_slug(request.running)}-{stamp}",
        device=device,
        datasheet=request.running.datasheet,
        environment=environment,
        mode=request.mode.name,
        seed=request.seed,
        curves=tuple(curves),
        laws=tuple(laws),
        rates=derive_rates(
            tuple(curves), request.running.datasheet, stability, device.last_level_cache_bytes
        ),
        stability=stability,
        warnings=tuple(warnings),
    )


def _law(curve: Curve, source: str, seed: int) -> Law | None:
    """Fit the law of a curve; one that has too few valid points, or is ours, gets none."""
    points = [p for p in curve.points if p.valid and WINNER not in p.tags]
    if curve.operation not in OPERATIONS or curve.backend != "torch" or len(points) < MIN_POINTS:
        return None
    columns = {
        c: np.array([p.case[c] for p in points]) for c in OPERATIONS[curve.operation].columns
    }
    times = np.array([p.time_s for p in points])
    return fit_points(
        curve.operation, curve.regime, columns, times, origin="measured", source=source, seed=seed
    )


def _stability(run: _Run, busy_elsewhere: float | None) -> tuple[Stability, ...]:
    found = []
    for limit in run.references_of:
        entries = run.references(limit)
        if len(entries) < 3:
            continue
        times = np.array([e.point.time_s for e in entries])
        q05, q50, q95 = np.quantile(times, (0.05, 0.5, 0.95))
        third = max(1, times.size // 3)
        spread = float((q95 - q05) / 2.0 / q50)
        found.append(
            Stability(
                limit=limit,
                reference=entries[0].key.split(": ", 1)[1],
                time_s=float(q50),
                repeats=times.size,
                spread_fraction=spread,
                drift_fraction=float(np.median(times[-third:]) / np.median(times[:third]) - 1.0),
                busy_elsewhere_fraction=busy_elsewhere,
                verdict="noisy" if spread > NOISY_SPREAD else "steady",
            )
        )
    return tuple(found)


def _slug(running: RunningDevice) -> str:
    if running.datasheet is not None:
        return running.datasheet.id
    words = "".join(c if c.isalnum() else " " for c in running.device.name.lower()).split()
    units = f"{running.device.compute_units}c" if running.device.kind == "cpu" else ""
    return "-".join(w for w in (running.device.kind, *words, units) if w)[:80]
