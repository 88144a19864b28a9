"""Run the steps of a calibration through the journal, so that no case is measured twice.

A :class:`Run` knows which cases have been measured and how to measure the others. :mod:`campaign`
calls its steps in order. A case that fails does not end the run; only a lost device does.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
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
from groundspeed.calibrate.design.peak_search import sustained, walk_to_peak
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
from groundspeed.kernels.kernel import Kernel
from groundspeed.kernels.matmul.data_patterns import DATA, DataMatmul
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.summary import PEAK, SUSTAINED, WINNER, best_point

DISTURBED = frozenset({"noisy-neighbour", "drift", "bimodal"})
"""Tags of a measurement that is repeated. Outliers are not among them, because the median tolerates
a few."""

MOST_REPEATED = 0.15
"""Largest share of a plan that is repeated. It limits the time spent on a machine that is never
idle, whose profile stays noisy."""

REFERENCE_REPEATS = 24
"""Approximate number of repetitions of each reference case in a run."""

LIBRARY_CHOOSES = ("matmul", "attention")
"""Beginnings of the operations for which a library chooses between many kernels by shape."""

Progress = Callable[[int, int, str], None]
"""Callback before each case, with the number of cases done, their total, and the name of the
case."""


ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""Function that opens a progress bar with a title. It is pickled if another process opens the
bar."""


@dataclass(frozen=True)
class Request:
    """Device, mode and options of a calibration, and the path of its journal."""

    running: RunningDevice
    mode: Mode
    journal: Path
    command: str
    seed: int = 0
    fresh: bool = False
    """Whether to discard the journal of a stopped run."""
    allow_busy: bool = False
    """Whether to measure although other processes use the device."""
    dtypes: tuple[str, ...] = ()
    """Data types to measure, all of which must work. Empty: the data types of the mode."""


class Run:
    """State of a run: the measured cases, and everything needed to measure the others."""

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
        """Return the measurement of a case: from the journal, or measured now.

        Parameters
        ----------
        case : PlannedCase
            Case to measure.
        tags : tuple of str, optional
            Additional tags of the point.
        keep : bool, default True
            Whether the measurement becomes a point of the profile. False for probes, references and
            repetitions.
        bench : Harness, optional
            Harness to measure with. Default: that of the run.

        Returns
        -------
        Entry or None
            None if the case cannot be measured; the reason is added to ``skipped``.
        """
        entry = self.journal.entries.get(case.key)
        if entry is None:
            if (fault := self.journal.reason_to_skip(case.key)) is not None:
                self.skipped.append(f"{case.key}: {fault}")
                return None
            self.progress(len(self.journal.entries), self.total, case.key)
            self.journal.begin(case.key)
            try:
                measured = measure(case.kernel, case.case, bench or self.bench, tags=tags)
            except InputError:
                raise
            except Exception as error:  # one kernel that fails must not end the run
                self._require_device(case, error)
                self.journal.end(case.key)
                reason = f"{case.key}: {type(error).__name__}: {error}"
                self.skipped.append(reason.split("\n")[0])
                return None
            entry = Entry(key=case.key, point=measured.point, samples_s=measured.samples_s)
            self.journal.append(entry)
        if keep:
            self.done.append((case, entry))
        return entry

    def _require_device(self, case: PlannedCase, error: Exception) -> None:
        """Check after a failed case that the device still works.

        Raises
        ------
        InputError
            If the device no longer responds.
        """
        if self.bench.pool.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self.bench.pool.device)
            torch.zeros(1, device=self.bench.pool.device).item()
        except RuntimeError as lost:
            first_line = str(lost).split("\n")[0]
            self.journal.blame(case.key, first_line)
            raise InputError(
                f"the GPU was lost during {case.key} ({type(error).__name__}: {first_line})",
                remedy="check the driver's log, then run the same command again: it resumes "
                "without this case",
            ) from error

    def plan(self, request: Request) -> list[PlannedCase]:
        """Select the cases of the plan from the probed speed of the device."""
        limits = self.limits(request)
        return make_plan(request.running.device, request.mode, limits, seed=request.seed)

    def tune(self, mode: Mode) -> None:
        """Find the best tile of the Triton GEMM for each shape, then measure the shape with it."""
        quick = replace(self.bench, rule=TUNING)
        for shape in tuned_shapes(mode):
            best = fastest(trials(shape), lambda case: self._trial(case, quick))
            if best is not None:
                self.entry(planned(best.kernel, shape, prefix="tuned: "), tags=(tile_name(best),))

    def _trial(self, case: PlannedCase, bench: Harness) -> float | None:
        entry = self.entry(case, keep=False, bench=bench)
        return entry.point.time_s if entry is not None and entry.point.valid else None

    def kernel_names(self) -> dict[str, str]:
        """Return the name of the kernel that the library chose for each GEMM and attention case."""
        names = {}
        pool = self.bench.pool
        cases = [c for c, _ in self.done if c.kernel.operation.startswith(LIBRARY_CHOOSES)]
        for i, case in enumerate(cases):
            self.progress(i, len(cases), f"kernel name of {case.key}")
            try:
                name = kernel_name(case.kernel.prepare(case.case, pool), pool.device)
            except Exception as error:  # a missing profiler must not lose the measurements
                self.skipped.append(f"kernel names: {type(error).__name__}: {error}")
                break
            if name is not None:
                names[case.key] = name
        return names

    def limits(self, request: Request) -> Limits:
        """Measure the approximate rate of each data type and of attention.

        Raises
        ------
        InputError
            If a requested data type cannot be measured, or no GEMM gives a correct result.
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
                    f"cannot measure {dtype} on {request.running.device.name} ({reason})",
                    where="--dtypes",
                    remedy=f"remove {dtype} from the list",
                )
        if not rates:
            raise InputError("no GEMM gave a correct result on this device: it cannot be measured")
        probe = planned(PrefillAttention("bfloat16"), sticks.attention_probe, prefix="probe: ")
        attention = self.entry(probe, keep=False)
        return Limits(
            request.mode.longest_call_s,
            rates,
            attention.point.flops / attention.point.time_s if attention else max(rates.values()),
            float(self.bench.pool.pool_bytes),
        )

    def measure_all(self, plan: list[PlannedCase]) -> None:
        """Measure every case of the plan, and the reference cases at regular intervals."""
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
        """Measure disturbed cases again at the end of the run, when other load may have ended."""
        disturbed = [
            case
            for case in plan
            if (entry := self.journal.entries.get(case.key)) and DISTURBED & set(entry.point.tags)
        ]
        for case in disturbed[: round(MOST_REPEATED * len(plan))]:
            again = planned(case.kernel, case.case, prefix=f"again: {case.label}")
            self.entry(again, keep=False)

    def better(self, case: PlannedCase, first: Entry) -> Entry:
        """Return the measurement of a case, or its repetition if that was less disturbed."""
        again = self.journal.entries.get(f"again: {case.key}")
        if again is None:
            return first
        quieter = len(DISTURBED & set(again.point.tags)) < len(DISTURBED & set(first.point.tags))
        return again if quieter else first

    def search_peaks(self, plan: list[PlannedCase], mode: Mode) -> dict[str, PlannedCase]:
        """Walk from each data type's best shape to a faster one, until no neighbour is faster.

        Returns
        -------
        dict of str to PlannedCase
            Best case by data type.
        """
        peaks: dict[str, PlannedCase] = {}
        for (operation, *config_key, backend), cases in _by_curve(self.done).items():
            if (operation, backend) != ("matmul", "torch"):
                continue
            best, rate = max(((c, _flops_rate(e)) for c, e in cases), key=lambda x: x[1])
            kernel = best.kernel
            rate_at = partial(self._rate_at, kernel, longest_flops=mode.longest_call_s * rate)
            shape, _ = walk_to_peak(best.case, rate, rate_at, steps=mode.peak_steps)
            if shape != best.case:
                best = planned(kernel, shape, prefix="peak: ")
            peaks[config_key[0]] = best
        return peaks

    def _rate_at(
        self, kernel: Kernel, shape: Mapping[str, float], *, longest_flops: float
    ) -> float:
        """[FLOP/s] Measure a shape during the search; 0 if it takes too long or cannot run."""
        cost = kernel.cost(shape)
        if cost.read_bytes > self.bench.pool.pool_bytes or cost.flops > longest_flops:
            return 0.0
        entry = self.entry(planned(kernel, shape, prefix="peak: "), tags=(PEAK,))
        return _flops_rate(entry) if entry is not None else 0.0

    def repeat_winners(self, cache_bytes: float | None) -> None:
        """Measure the best case of each rate again, because selecting the fastest biases it."""
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
        """Measure the best shapes for seconds, and with operand values that draw less power."""
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
        """Return the repetitions of a reference case, in the order in which they were measured."""
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
