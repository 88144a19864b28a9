"""From rows of another tool to a profile that says where each number came from."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundspeed.calibrate.fit.dispatch import law_of_curve
from groundspeed.calibrate.version import METHOD_VERSION, tool_version
from groundspeed.profiles.datasheet import DeviceSpec, find_device
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Curve, Device, Environment, Interconnect, Point, Profile
from groundspeed.profiles.summary import derive_rates

UNKNOWN = "not stated by the source"


@dataclass(frozen=True)
class ImportRequest:
    """What to read, and what the file itself may not say."""

    path: Path
    text: str
    tool: str
    device: str | None = None
    op: str | None = None
    """Collective, for formats that do not name it."""


@dataclass(frozen=True)
class ImportedCurve:
    """A curve as another tool measured it."""

    operation: str
    config_key: Mapping[str, str]
    backend: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Imported:
    """What an importer found."""

    device: str | None
    """As the source names it; None if it does not."""
    curves: Sequence[ImportedCurve]
    interconnect: Interconnect | None = None
    driver: str | None = None
    runtime: str | None = None
    date_utc: str | None = None
    warnings: tuple[str, ...] = ()


Importer = Callable[[ImportRequest], Imported]


def imported_point(
    case: Mapping[str, float],
    time_s: float,
    moved_bytes: float,
    *,
    flops: float = 0.0,
    valid: bool = True,
) -> Point:
    """A point of a source that gives one number: its spread is not known, and none is made up.

    Raises
    ------
    InputError
        If the time is not positive.
    """
    if not 0.0 < time_s < 1e6:
        raise InputError(f"a time of {time_s:g} s is no measurement")
    return Point(
        case=dict(case),
        time_s=time_s,
        q10_s=time_s,
        q90_s=time_s,
        low_s=time_s,
        high_s=time_s,
        samples=1,
        flops=flops,
        bytes=moved_bytes,
        stop="imported",
        valid=valid,
    )


def import_profile(request: ImportRequest, read: Importer, command: str) -> Profile:
    """Read another tool's output into a profile.

    Raises
    ------
    InputError
        If the file is not that tool's, holds no measurement, or its device is not known.
    """
    imported = read(request)
    if not any(curve.points for curve in imported.curves):
        raise InputError(f"no measurement of {request.tool} in it", where=str(request.path))
    name = request.device or imported.device
    if name is None:
        raise InputError(
            f"{request.tool} does not say which GPU this is",
            where=str(request.path),
            remedy="name it with --device h100-sxm",
        )
    datasheet = find_device(name).spec
    source = f"{request.tool}, {request.path.name}"
    curves = tuple(
        Curve(
            operation=curve.operation,
            config_key=dict(curve.config_key),
            backend=curve.backend,
            cache="warm" if curve.operation in ("collective", "p2p", "host_link") else "cold",
            origin="imported",
            source=source,
            points=tuple(curve.points),
        )
        for curve in imported.curves
        if curve.points
    )
    laws = tuple(
        law
        for curve in curves
        if (law := law_of_curve(curve, source, datasheet=datasheet, on_cpu=False)) is not None
    )
    date = imported.date_utc or _modified(request.path)
    return Profile(
        id=f"{request.tool}-{datasheet.id}-{date.replace('-', '').replace(':', '').lower()}",
        device=device_of(datasheet),
        datasheet=datasheet,
        environment=Environment(
            date_utc=date,
            host=UNKNOWN,
            operating_system=UNKNOWN,
            python=UNKNOWN,
            tool_version=tool_version(),
            method_version=METHOD_VERSION,
            command=command,
            libraries={},
            driver=imported.driver,
            runtime=imported.runtime,
            telemetry="none (imported)",
        ),
        mode="imported",
        seed=0,
        curves=curves,
        laws=laws,
        rates=derive_rates(curves, datasheet, (), device_of(datasheet).last_level_cache_bytes),
        interconnect=imported.interconnect,
        warnings=imported.warnings,
    )


def _modified(path: Path) -> str:
    when = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def device_of(datasheet: DeviceSpec) -> Device:
    """The device of a datasheet, for profiles of machines that are not here."""
    cache = datasheet.last_level_cache_bytes or datasheet.l2_bytes
    amd = datasheet.architecture.lower().startswith(("cdna", "gfx"))
    return Device(
        name=datasheet.name,
        kind="rocm" if amd else "cuda",
        vendor="amd" if amd else "nvidia",
        architecture=datasheet.architecture,
        compute_units=int(datasheet.compute_units.value) if datasheet.compute_units else 1,
        memory_bytes=datasheet.memory_bytes.value if datasheet.memory_bytes else 1.0,
        last_level_cache_bytes=cache.value if cache else None,
        max_clock_hz=datasheet.max_clock_hz.value if datasheet.max_clock_hz else None,
    )
