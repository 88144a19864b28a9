"""Build a profile from the measurements of a calibration: curves, laws, rates and warnings.

Points are grouped into curves by operation, config key and backend. A law is fitted to each curve,
and the rates of the summary are derived from the curves.

    profile = build_profile(inputs)
"""

from dataclasses import dataclass

import numpy as np
import torch

from groundspeed.calibrate.design.measurement_plan import Limit, PlannedCase
from groundspeed.calibrate.fit.dispatch import fit_curve_law
from groundspeed.calibrate.links.link_cases import LinkResult
from groundspeed.calibrate.run.device import RunningDevice, read_environment
from groundspeed.calibrate.run.journal import Entry
from groundspeed.calibrate.run.quality import quality_warnings
from groundspeed.calibrate.timing.telemetry import Telemetry
from groundspeed.profiles.laws import Law
from groundspeed.profiles.schema import Curve, Environment, Interconnect, Point, Profile, Stability
from groundspeed.profiles.summary import derive_rates

NOISY_SPREAD = 0.05
"""Spread of a reference case above which the profile carries a warning about a noisy machine."""

OWN_KERNELS = ("experts", "mla_decode", "mla_prefill")
"""Operations whose laws are fitted to this project's own kernels."""

WARM = ("elementwise", "launch", "latency", "working_set")
"""Operations measured with a warm cache: a model has just touched their operands, or the case
itself defines a working set."""


@dataclass(frozen=True)
class ProfileInputs:
    """Everything from which a profile is built."""

    running: RunningDevice
    environment: Environment
    mode: str
    seed: int
    measured: list[tuple[PlannedCase, Entry]]
    references: dict[Limit, list[Entry]]
    """Repetitions of each reference case, in the order in which they were measured."""
    skipped: list[str]
    """Cases that could not be measured, each with the reason."""
    busy_elsewhere_fraction: float | None
    """Mean share of the CPU used by other programs; None if unknown."""
    errors: tuple[str, ...] = ()
    """Hardware errors that the driver counted during the run."""


def build_profile(inputs: ProfileInputs) -> Profile:
    """Group points into curves, fit a law to each curve, and summarize both."""
    running, environment = inputs.running, inputs.environment
    device = running.device
    source = f"{device.name}, {environment.date_utc}"
    warnings = [f"hardware error during the run: {e}" for e in inputs.errors]
    warnings += [f"not measured: {s}" for s in dict.fromkeys(inputs.skipped)]
    curves: list[Curve] = []
    laws: list[Law] = []
    for curve in _curves(inputs.measured, source):
        curves.append(curve)
        wrong = sum(not p.valid for p in curve.points)
        if wrong:
            name = " ".join((curve.operation, *curve.config_key.values(), curve.backend))
            total = len(curve.points)
            warnings.append(f"{name}: {wrong} of {total} results were wrong and are not used")
        law = None
        # This project's own kernels are shown only, unless torch has none for the operation.
        if curve.backend == "torch" or curve.operation in OWN_KERNELS:
            law = fit_curve_law(
                curve,
                source,
                datasheet=running.datasheet,
                on_cpu=device.kind == "cpu",
                seed=inputs.seed,
            )
        if law is not None:
            laws.append(law)
    stability = _stability(inputs)
    cache_bytes = device.last_level_cache_bytes
    rates = derive_rates(tuple(curves), running.datasheet, stability, cache_bytes)
    warnings += quality_warnings(curves, environment, stability, rates)
    stamp = environment.date_utc.replace("-", "").replace(":", "").lower()
    return Profile(
        id=f"{_slug(running)}-{_gpu_suffix(running)}{stamp}",
        device=device,
        datasheet=running.datasheet,
        environment=environment,
        mode=inputs.mode,
        seed=inputs.seed,
        curves=tuple(curves),
        laws=tuple(laws),
        rates=rates,
        stability=stability,
        warnings=tuple(warnings),
    )


def _curves(measured: list[tuple[PlannedCase, Entry]], source: str) -> list[Curve]:
    """Group points into curves by operation, config key and backend."""
    groups: dict[tuple[str, ...], tuple[PlannedCase, list[Point]]] = {}
    for case, entry in measured:
        kernel = case.kernel
        key = (kernel.operation, *kernel.config_key.values(), kernel.backend)
        groups.setdefault(key, (case, []))[1].append(entry.point)
    return [
        Curve(
            operation=case.kernel.operation,
            config_key=dict(case.kernel.config_key),
            backend=case.kernel.backend,
            cache="warm" if case.kernel.operation in WARM else "cold",
            origin="measured",
            source=source,
            points=tuple(points),
        )
        for _, (case, points) in sorted(groups.items(), key=lambda g: g[0])
    ]


def _stability(inputs: ProfileInputs) -> tuple[Stability, ...]:
    stability = []
    for limit, entries in inputs.references.items():
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
                busy_elsewhere_fraction=inputs.busy_elsewhere_fraction,
                verdict="noisy" if spread > NOISY_SPREAD else "steady",
            )
        )
    return tuple(stability)


def _gpu_suffix(running: RunningDevice) -> str:
    """Suffix with the GPU index: profiles of several GPUs are made in the same second."""
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
    """Build a profile from measurements between devices (collectives and point-to-point transfers).

    Parameters
    ----------
    running : RunningDevice
        Device of rank 0.
    telemetry : Telemetry
        Telemetry of that device.
    result : LinkResult
        Measured collectives.
    pairs : list of (str, Point)
        Direction and measurement of each pair of ranks.
    interconnect : Interconnect
        Communication library, ranks, hosts and topology.
    command : str
        Command that started the run.
    seed : int
        Random seed of the run.
    """
    environment = read_environment(running, telemetry=telemetry, command=command)
    source = f"{interconnect.ranks} ranks, {environment.date_utc}"
    groups: dict[tuple[str, ...], tuple[dict[str, str], list[Point]]] = {}
    for case in result.cases:
        point = result.points.get(case.key)
        if point is None:
            continue
        config_key = {"op": case.op, "world_size": str(case.world_size), "mode": case.mode}
        if case.hosts > 1:
            config_key["hosts"] = str(case.hosts)
        groups.setdefault(tuple(config_key.values()), (config_key, []))[1].append(point)
    for direction, point in pairs:
        config_key = {"direction": direction}
        groups.setdefault(("p2p", direction), (config_key, []))[1].append(point)
    curves = tuple(
        Curve(
            operation="p2p" if key[0] == "p2p" else "collective",
            config_key=config_key,
            backend=interconnect.backend,
            cache="warm",
            origin="measured",
            source=source,
            points=tuple(points),
        )
        for key, (config_key, points) in sorted(groups.items())
    )
    laws = [
        law
        for curve in curves
        if (law := fit_curve_law(curve, source, datasheet=running.datasheet, on_cpu=False))
        is not None
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
