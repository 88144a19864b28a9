"""Put a calibration's measurements together: curves, laws, summary, warnings."""

from dataclasses import dataclass

import numpy as np
import torch

from groundspeed.calibrate.design.measurement_plan import Limit, PlannedCase
from groundspeed.calibrate.fit.dispatch import law_of_curve
from groundspeed.calibrate.links.collective_timing import LinkResult
from groundspeed.calibrate.run.device import RunningDevice, read_environment
from groundspeed.calibrate.run.journal import Entry
from groundspeed.calibrate.run.quality import caveats
from groundspeed.calibrate.timing.telemetry import Telemetry
from groundspeed.profiles.laws import Law
from groundspeed.profiles.schema import Curve, Environment, Interconnect, Point, Profile, Stability
from groundspeed.profiles.summary import derive_rates

NOISY_SPREAD = 0.05
"""A reference case that varies by more than this makes a profile noisy, and it says so."""

WARM = ("glue", "launch", "latency", "working_set")
"""Operations whose operands a model has just touched, or that chase a working set."""


@dataclass(frozen=True)
class Material:
    """Everything a profile is made of."""

    running: RunningDevice
    environment: Environment
    mode: str
    seed: int
    measured: list[tuple[PlannedCase, Entry]]
    references: dict[Limit, list[Entry]]
    """Repetitions of each reference, in the order they were made."""
    skipped: list[str]
    busy_elsewhere_fraction: float | None


def build_profile(material: Material) -> Profile:
    """Make curves of points, laws of curves, and a summary of both."""
    running, environment = material.running, material.environment
    device = running.device
    source = f"{device.name}, {environment.date_utc}"
    warnings = [f"not measured: {s}" for s in material.skipped]
    curves: list[Curve] = []
    laws: list[Law] = []
    for curve in _curves(material.measured, source):
        curves.append(curve)
        wrong = sum(not p.valid for p in curve.points)
        if wrong:
            name = " ".join((curve.operation, *curve.regime.values(), curve.backend))
            total = len(curve.points)
            warnings.append(f"{name}: {wrong} of {total} results were wrong and are not used")
        law = None
        if curve.backend == "torch" or curve.operation == "moe":  # ours are for a look
            law = law_of_curve(
                curve,
                source,
                sheet=running.datasheet,
                on_cpu=device.kind == "cpu",
                seed=material.seed,
            )
        if law is not None:
            laws.append(law)
    stability = _stability(material)
    cache_bytes = device.last_level_cache_bytes
    rates = derive_rates(tuple(curves), running.datasheet, stability, cache_bytes)
    warnings += caveats(curves, environment, stability, rates)
    stamp = environment.date_utc.replace("-", "").replace(":", "").lower()
    return Profile(
        id=f"{_slug(running)}-{_which(running)}{stamp}",
        device=device,
        datasheet=running.datasheet,
        environment=environment,
        mode=material.mode,
        seed=material.seed,
        curves=tuple(curves),
        laws=tuple(laws),
        rates=rates,
        stability=stability,
        warnings=tuple(warnings),
    )


def _curves(measured: list[tuple[PlannedCase, Entry]], source: str) -> list[Curve]:
    """Group points by operation, regime and who implements it."""
    groups: dict[tuple[str, ...], tuple[PlannedCase, list[Point]]] = {}
    for case, entry in measured:
        kernel = case.kernel
        key = (kernel.operation, *kernel.regime.values(), kernel.backend)
        groups.setdefault(key, (case, []))[1].append(entry.point)
    return [
        Curve(
            operation=case.kernel.operation,
            regime=dict(case.kernel.regime),
            backend=case.kernel.backend,
            cache="warm" if case.kernel.operation in WARM else "cold",
            origin="measured",
            source=source,
            points=tuple(points),
        )
        for _, (case, points) in sorted(groups.items(), key=lambda g: g[0])
    ]


def _stability(material: Material) -> tuple[Stability, ...]:
    stability = []
    for limit, entries in material.references.items():
        if len(entries) < 3:
            continue
        times = np.array([e.point.time_s for e in entries])
        q05, q50, q95 = np.quantile(times, (0.05, 0.5, 0.95))
        third = max(1, times.size // 3)
        spread = float((q95 - q05) / 2.0 / q50)
        stability.append(
            Stability(
                limit=limit,
                reference=entries[0].key.split(": ", 1)[1],
                time_s=float(q50),
                repeats=times.size,
                spread_fraction=spread,
                drift_fraction=float(np.median(times[-third:]) / np.median(times[:third]) - 1.0),
                busy_elsewhere_fraction=material.busy_elsewhere_fraction,
                verdict="noisy" if spread > NOISY_SPREAD else "steady",
            )
        )
    return tuple(stability)


def _which(running: RunningDevice) -> str:
    """The GPU's number where there are several: their profiles are made in the same second."""
    index = running.torch_device.index
    several = running.device.kind != "cpu" and torch.cuda.device_count() > 1
    return f"gpu{index}-" if several else ""


def _slug(running: RunningDevice) -> str:
    if running.datasheet is not None:
        return running.datasheet.id
    words = "".join(c if c.isalnum() else " " for c in running.device.name.lower()).split()
    units = f"{running.device.compute_units}c" if running.device.kind == "cpu" else ""
    return "-".join(w for w in (running.device.kind, *words, units) if w)[:80]


def link_profile(
    running: RunningDevice,
    telemetry: Telemetry,
    result: LinkResult,
    pairs: list[tuple[str, Point]],
    interconnect: Interconnect,
    *,
    command: str,
    seed: int,
) -> Profile:
    """Make a profile of what was measured between devices."""
    environment = read_environment(running, telemetry=telemetry, command=command)
    source = f"{interconnect.ranks} ranks, {environment.date_utc}"
    groups: dict[tuple[str, ...], tuple[dict[str, str], list[Point]]] = {}
    for case in result.cases:
        point = result.points.get(case.key)
        if point is None:
            continue
        regime = {"op": case.op, "world_size": str(case.world_size), "mode": case.mode}
        if case.hosts > 1:
            regime["hosts"] = str(case.hosts)
        groups.setdefault(tuple(regime.values()), (regime, []))[1].append(point)
    for direction, point in pairs:
        regime = {"direction": direction}
        groups.setdefault(("p2p", direction), (regime, []))[1].append(point)
    curves = tuple(
        Curve(
            operation="p2p" if key[0] == "p2p" else "collective",
            regime=regime,
            backend=interconnect.backend,
            cache="warm",
            origin="measured",
            source=source,
            points=tuple(points),
        )
        for key, (regime, points) in sorted(groups.items())
    )
    laws = [
        law
        for curve in curves
        if (law := law_of_curve(curve, source, sheet=running.datasheet, on_cpu=False)) is not None
    ]
    stamp = environment.date_utc.replace("-", "").replace(":", "").lower()
    return Profile(
        id=f"links-{_slug(running)}-x{interconnect.ranks}-{stamp}",
        device=running.device,
        datasheet=running.datasheet,
        environment=environment,
        mode="links",
        seed=seed,
        curves=curves,
        laws=tuple(laws),
        rates=derive_rates(curves, running.datasheet, (), running.device.last_level_cache_bytes),
        interconnect=interconnect,
        warnings=tuple(result.remarks),
    )
