"""The steps of a calibration, each through the journal: what is there is not measured again.

A run knows what has been measured and how to measure what has not; :mod:`campaign` says in which
order. Any one case may fail without ending the others; only a lost device ends the run.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from groundspeed.calibrate.design.measurement_plan import (
    Limits,
    Mode,
    PlannedCase,
    make_plan,
    matmul_kernel,
    planned,
    reference_cases,
)
from groundspeed.calibrate.design.peak_search import neighbours, sustained
from groundspeed.calibrate.design.tile_search import (
    TUNING,
    fastest,
    tile_name,
    trials,
    tuned_shapes,
)
from groundspeed.calibrate.run.device import RunningDevice
from groundspeed.calibrate.run.journal import Entry, Journal
from groundspeed.calibrate.timing.kernel_names import kernel_name
from groundspeed.calibrate.timing.measure_case import Harness, measure
from groundspeed.kernels.attention.attention import PrefillAttention
from groundspeed.kernels.matmul.data_patterns import DATA, DataMatmul
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.summary import PEAK, SUSTAINED, WINNER, best_point

DISTURBED = frozenset({"noisy-neighbour", "drift", "bimodal"})
"""Tags of a measurement worth repeating; a median stands a few outliers."""

MOST_REPEATED = 0.15
"""Share of a plan that is repeated at most: a machine that is never quiet stays noisy."""

REFERENCE_REPEATS = 24

LIBRARY_CHOOSES = ("matmul", "attention")
"""Operations for which a library picks one of many kernels by the shape."""

Progress = Callable[[int, int, str], None]
"""Called before each case with how many are done, how many there are, and its name."""


ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar with a title; pickled where another process is to open it."""


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
    dtypes: tuple[str, ...] = ()
    """Data types that must be measured, and no others; those of the mode if empty."""


class Run:
    """The state of a run: what is journalled, and how to measure what is not."""

    def __init__(self, journal: Journal, bench: Harness, progress: Progress) -> None:
        self.journal = journal
        self.bench = bench
        self.progress = progress
        self.total = 0
        self.references_of = reference_cases(
            "cpu" if bench.pool.device.type == "cpu" else "gpu"
        ).references
        self.skipped: list[str] = []
        self.done: list[tuple[PlannedCase, Entry]] = []

    def entry(
        self,
        case: PlannedCase,
        tags: tuple[str, ...] = (),
        *,
        keep: bool = True,
        bench: Harness | None = None,
    ) -> Entry | None:
        """The measurement of a case: from the journal, or made now.

        With ``keep`` it becomes a point of the profile; probes, references and repetitions do not.
        """
        entry = self.journal.entries.get(case.key)
        if entry is None:
            self.progress(len(self.journal.entries), self.total, case.key)
            try:
                measured = measure(case.kernel, case.case, bench or self.bench, tags=tags)
            except InputError:
                raise
            except Exception as error:  # whatever one kernel cannot do must not end the others
                self._require_device(case, error)
                reason = f"{case.key}: {type(error).__name__}: {error}"
                self.skipped.append(reason.split("\n")[0])
                return None
            entry = Entry(key=case.key, point=measured.point, samples_s=measured.samples_s)
            self.journal.append(entry)
        if keep:
            self.done.append((case, entry))
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
        """Choose the cases, by how fast this device is."""
        limits = self.limits(request)
        return make_plan(request.running.device, request.mode, limits, seed=request.seed)

    def tune(self, mode: Mode) -> None:
        """Find the best tile of our own product for each shape, then measure with it."""
        quick = replace(self.bench, rule=TUNING)
        for shape in tuned_shapes(mode):
            best = fastest(trials(shape), lambda case: self._trial(case, quick))
            if best is not None:
                self.entry(planned(best.kernel, shape, prefix="tuned: "), tags=(tile_name(best),))

    def _trial(self, case: PlannedCase, bench: Harness) -> float | None:
        entry = self.entry(case, keep=False, bench=bench)
        return entry.point.time_s if entry is not None and entry.point.valid else None

    def kernel_names(self) -> dict[str, str]:
        """Which kernel the library chose for each product and attention."""
        names = {}
        pool = self.bench.pool
        cases = [c for c, _ in self.done if c.kernel.operation.startswith(LIBRARY_CHOOSES)]
        for i, case in enumerate(cases):
            self.progress(i, len(cases), f"naming {case.key}")
            try:
                name = kernel_name(case.kernel.prepare(case.case, pool), pool.device)
            except Exception as error:  # a profiler that is absent must not cost a measurement
                self.skipped.append(f"names of kernels: {type(error).__name__}: {error}")
                break
            if name is not None:
                names[case.key] = name
        return names

    def limits(self, request: Request) -> Limits:
        """Probe how fast each data type roughly is.

        Raises
        ------
        InputError
            If no product is correct here.
        """
        rates = {}
        sticks = reference_cases(request.running.device.kind)
        for dtype in request.dtypes or request.mode.dtypes(request.running.device.kind):
            probe = planned(matmul_kernel(dtype), sticks.probe, prefix="probe: ")
            entry = self.entry(probe, keep=False)
            if entry is not None and entry.point.valid:
                rates[dtype] = entry.point.flops / entry.point.time_s
            elif request.dtypes:
                reason = self.skipped[-1] if entry is None else "its results are wrong"
                raise InputError(
                    f"{request.running.device.name} cannot measure {dtype} ({reason})",
                    where="--dtypes",
                    remedy="leave it out",
                )
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
        kernel = matmul_kernel(_reference_dtypes(plan)[0])
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
        for (operation, *config_key, backend), cases in _by_curve(self.done).items():
            if (operation, backend) != ("matmul", "torch"):
                continue
            best, rate = max(((c, _flops_rate(e)) for c, e in cases), key=lambda x: x[1])
            for shape in neighbours(best.case, steps=mode.peak_steps):
                case = planned(best.kernel, shape, prefix="peak: ")
                entry = self.entry(case, tags=(PEAK,))
                if entry is not None and _flops_rate(entry) > rate:
                    best, rate = case, _flops_rate(entry)
            peaks[config_key[0]] = best
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
    dtypes = [p.kernel.config_key["dtype"] for p in plan if p.kernel.operation == "matmul"]
    return sorted(set(dtypes), key=dtypes.count, reverse=True)


def _flops_rate(entry: Entry) -> float:
    return entry.point.flops / entry.point.time_s if entry.point.valid else 0.0


def _by_curve(
    done: list[tuple[PlannedCase, Entry]],
) -> dict[tuple[str, ...], list[tuple[PlannedCase, Entry]]]:
    groups: dict[tuple[str, ...], list[tuple[PlannedCase, Entry]]] = {}
    for case, entry in done:
        kernel = case.kernel
        key = (kernel.operation, *kernel.config_key.values(), kernel.backend)
        groups.setdefault(key, []).append((case, entry))
    return dict(sorted(groups.items()))
