"""The physics check of profiles: find numbers that are physically impossible.

A well-formed file can still be wrong: a scaled copy of another GPU's numbers, GB mistaken for GiB,
microseconds for milliseconds, or a rate with sparsity. The check runs on load and on save. *Errors*
are impossible numbers; *warnings* are unusual numbers that do occur (at a tile edge, a larger
matrix can be slightly faster).

The threshold for "more work in less time" is based on 35,000 published H200 matmul timings. Among
the pairs in which one shape is at least twice the other in every way, at most one in 10,000 takes
over a third less time. On a shared machine another job can cause this for a few pairs, so these
give warnings. If one pair in twenty does so, the profile is not of one device in one state, which
is an error.

    violations = check_profile(profile)
"""

import math
from typing import Literal

import numpy as np

from groundspeed.profiles.busbw import REDUCED_IN_NETWORK, busbw
from groundspeed.profiles.datasheet import load_datasheets
from groundspeed.profiles.laws import law_time
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.record import Record
from groundspeed.profiles.schema import Curve, Point, Profile
from groundspeed.profiles.summary import BEYOND_CACHE, derive_rates

FALL_ERROR = 1.0 / 3.0  # fraction of time by which more work may be faster in few pairs only
FALL_WARNING = 0.10  # fraction of time by which more work may be faster without a warning
FALL_ERROR_SHARE = 0.05  # largest accepted share of pairs above FALL_ERROR
FALL_ERROR_PAIRS = 30  # with fewer pairs, one disturbed point is a large share
MONOTONE_POINTS = 2000  # comparing all pairs of more points would take seconds
ROOF_TOLERANCE = 0.02  # about the error of event timers and clock readings
LAW_OFF = 8.0  # bits for bytes: a law off by more than this factor was not fitted to these points
LAW_POOR = 1.5  # noise can cause this in laws of few points; their held-out error shows it too


class Violation(Record):
    """One physically impossible or unusual number in a profile."""

    severity: Literal["error", "warning"]
    where: str
    """Part of the profile: curve and case, law, rate or datasheet."""
    what: str
    """Description of the problem."""


def check_profile(profile: Profile) -> list[Violation]:
    """Run the physics check on a profile.

    Returns
    -------
    list of Violation
        Errors first, then warnings; empty if there is no problem.
    """
    violations: list[Violation] = []
    for curve in profile.curves:
        where = f"{curve.operation} {' '.join(curve.config_key.values())} ({curve.backend})"
        violations += _check_points(curve, where)
        violations += _check_roof(profile, curve, where)
        violations += _check_monotone(profile, curve, where)
    violations += _check_datasheet(profile)
    violations += _check_laws(profile)
    violations += _check_summary(profile)
    return sorted(violations, key=lambda v: v.severity)


def _check_points(curve: Curve, where: str) -> list[Violation]:
    violations = []
    operation = OPERATIONS.get(curve.operation)
    for point in curve.points:
        at = f"{where} at {_case(point)}"
        if not point.q10_s <= point.time_s <= point.q90_s:
            violations.append(_error(at, "the median is not between the 10 % and 90 % quantiles"))
        if not point.low_s <= point.time_s <= point.high_s:
            violations.append(_error(at, "the median is not inside its own interval"))
        if operation is None:
            continue
        missing = [c for c in operation.columns if c not in point.case]
        if missing:
            violations.append(_error(at, f"the case lacks {', '.join(missing)}"))
            continue
        if not operation.countable:
            continue
        columns = {c: np.array([point.case[c]]) for c in operation.columns}
        for name, count, stated in (
            ("FLOPs", operation.flops(columns, curve.config_key)[0], point.flops),
            ("bytes", operation.bytes(columns, curve.config_key)[0], point.bytes),
        ):
            if not math.isclose(float(count), stated, rel_tol=1e-6, abs_tol=1e-9):
                violations.append(
                    _error(at, f"states {stated:.6g} {name}, the operation has {float(count):.6g}")
                )
    return violations


def _check_roof(profile: Profile, curve: Curve, where: str) -> list[Violation]:
    datasheet = profile.datasheet
    if datasheet is None:
        return []
    violations = []
    dtype = curve.config_key.get("dtype", "")
    roof_flops = datasheet.roof_flops(dtype) if curve.operation != "stream" else None
    peak = datasheet.peak(dtype)
    bandwidth = datasheet.memory_bandwidth_bytes_per_s
    cache = profile.device.last_level_cache_bytes or 0.0
    operation = OPERATIONS.get(curve.operation)
    if curve.operation in ("collective", "p2p"):
        return _check_wire(profile, curve, where)
    for point in curve.points:
        if not point.valid:
            continue
        at = f"{where} at {_case(point)}"
        rate = point.flops / point.time_s
        if roof_flops is not None and rate > roof_flops * (1.0 + ROOF_TOLERANCE):
            violations.append(
                _error(
                    at,
                    f"{rate / 1e12:.1f} TFLOPS is above {roof_flops / 1e12:.1f}, "
                    f"the {dtype} roof of {datasheet.id} at its highest clock",
                )
            )
        elif roof_flops is None and peak is not None and rate > peak.value:
            violations.append(
                _warning(
                    at,
                    f"{rate / 1e12:.1f} TFLOPS is above the datasheet's {peak.value / 1e12:.1f}; "
                    f"the highest clock of {datasheet.id} is unknown, so boost may explain it",
                )
            )
        if operation is not None and not operation.countable:
            continue  # with skewed routing, fewer experts are read than counted
        moved = point.bytes / point.time_s
        # A working set is read many times: what has to fit in the cache is its size.
        footprint = point.case["bytes"] if curve.operation == "working_set" else point.bytes
        beyond_cache = footprint > BEYOND_CACHE * cache
        # Imported timings may be of warm caches: what the cache holds need not cross the bus.
        kept = cache / point.bytes if curve.origin == "imported" and beyond_cache else 0.0
        most = bandwidth.value * (1.0 + ROOF_TOLERANCE) / (1.0 - kept) if bandwidth else 0.0
        if bandwidth and beyond_cache and moved > most:
            violations.append(
                _error(
                    at,
                    f"{moved / 1e9:.0f} GB/s is above the memory bandwidth of "
                    f"{bandwidth.value / 1e9:.0f} GB/s, although the data are over four times the "
                    f"last-level cache",
                )
            )
    return violations


def _check_wire(profile: Profile, curve: Curve, where: str) -> list[Violation]:
    """Check busbw: above the link bandwidth means in-network reduction by a switch, or an error."""
    wire = profile.datasheet.scaleup_bandwidth_bytes_per_s if profile.datasheet else None
    if wire is None or curve.operation != "collective":
        return []
    op, ranks = curve.config_key["op"], int(curve.config_key["world_size"])
    violations = []
    for point in curve.points:
        rate = busbw(op, ranks, point.bytes, point.time_s)
        if not point.valid or rate <= wire.value * (1.0 + ROOF_TOLERANCE):
            continue
        at = f"{where} at {_case(point)}"
        text = f"busbw of {rate / 1e9:.0f} GB/s is above the link's {wire.value / 1e9:.0f} GB/s"
        links = profile.interconnect
        if op not in REDUCED_IN_NETWORK or rate > MOST_REDUCED * wire.value:
            violations.append(
                _error(at, f"{text}, more than in-network reduction: check what bytes counts")
            )
        elif links is None or links.in_network_reduction is not True:
            violations.append(
                _warning(at, f"{text}, but the profile declares no in-network reduction")
            )
    return violations


LINKS = ("collective", "p2p", "host_link")

MOST_REDUCED = 2.0
"""Largest busbw over link bandwidth: in-network reduction halves the data of an all-reduce."""


def _check_monotone(profile: Profile, curve: Curve, where: str) -> list[Violation]:
    """Compare each pair of cases in which one is at least twice the work of the other.

    A case *dominates* another if no ``growing`` column is smaller, all other columns are equal, and
    its work is at least twice as much. It must not take much less time, beyond the measured spread
    of both.
    """
    operation = OPERATIONS.get(curve.operation)
    points = [p for p in curve.points if p.valid][:MONOTONE_POINTS]
    if operation is None or len(points) < 2:
        return []
    columns = np.array([[p.case[c] for c in operation.columns] for p in points])
    growing = np.array([c in operation.growing for c in operation.columns])
    work = np.array([p.flops or p.bytes for p in points])
    fast = np.array([p.q10_s for p in points])
    slow = np.array([p.q90_s for p in points])
    time = np.array([p.time_s for p in points])
    pairs = 0
    falls: list[tuple[float, str]] = []
    for small in range(len(points)):
        no_smaller = (columns[:, growing] >= columns[small, growing]).all(axis=1)
        same_kind = (columns[:, ~growing] == columns[small, ~growing]).all(axis=1)
        dominating = no_smaller & same_kind & (work >= 2.0 * work[small])
        pairs += int(dominating.sum())
        for large in np.flatnonzero(dominating & (slow < fast[small])):
            fall = 1.0 - float(time[large] / time[small])
            if fall > FALL_WARNING:
                text = f"more work takes {fall:.0%} less time: {_case(points[large])} against "
                falls.append((fall, text + _case(points[small])))
    deep = [text for fall, text in sorted(falls, reverse=True) if fall > FALL_ERROR]
    # On a machine marked as noisy, other jobs cause such pairs, and its intervals are wide anyway.
    disturbed = any(s.verdict == "noisy" for s in profile.stability)
    # A log of a disturbed fabric (a slow first call, a cliff) is what people need read.
    disturbed |= curve.origin == "imported" and curve.operation in LINKS
    if not disturbed and pairs >= FALL_ERROR_PAIRS and len(deep) / pairs > FALL_ERROR_SHARE:
        return [_error(where, f"{deep[0]} ({len(deep)} of {pairs} such pairs)")]
    return [_warning(where, text) for _, text in sorted(falls, reverse=True)[:3]]


def _check_datasheet(profile: Profile) -> list[Violation]:
    """Warn if the datasheet in a profile, which sets its limits, differs from the shipped one."""
    inside = profile.datasheet
    shipped = load_datasheets().get(inside.id) if inside else None
    if inside is None or shipped is None:
        return []
    ours = {name: q.value for name, q in shipped.quantities().items()}
    theirs = {name: q.value for name, q in inside.quantities().items()}
    differ = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
    if not differ:
        return []
    return [_warning("datasheet", f"{', '.join(differ)}: not as in the shipped {inside.id}")]


def _check_laws(profile: Profile) -> list[Violation]:
    """Check that each law describes its own curve; a factor of a thousand is a wrong unit."""
    violations = []
    for law in profile.laws:
        where = f"law {law.operation} {' '.join(law.config_key.values())}"
        for name, c in law.coefficients.items():
            if not c.low <= c.value <= c.high:
                violations.append(_error(where, f"{name} is not inside its own interval"))
        curve = profile.curve(law.operation, **law.config_key)
        points = [p for p in curve.points if p.valid] if curve else []
        names = OPERATIONS[law.operation].columns
        points = [p for p in points if all(p.case.get(c, 0.0) > 0.0 for c in names)]
        if points:
            columns = {c: np.array([p.case[c] for p in points]) for c in names}
            measured = np.array([p.time_s for p in points])
            ratio = float(np.exp(np.median(np.log(measured / law_time(law, columns).time_s))))
            factor = max(ratio, 1.0 / ratio)
            if factor > LAW_POOR:
                say = _error if factor > LAW_OFF else _warning
                violations.append(
                    say(where, f"its own points take {ratio:.3g} times as long as it predicts")
                )
    return violations


def _check_summary(profile: Profile) -> list[Violation]:
    derived = {
        r.quantity: r
        for r in derive_rates(
            profile.curves,
            profile.datasheet,
            profile.stability,
            profile.device.last_level_cache_bytes,
        )
    }
    stated = {r.quantity: r for r in profile.rates}
    violations = []
    for name in sorted(derived.keys() ^ stated.keys()):
        violations.append(
            _error(f"rate {name}", "the summary and the curves do not list the same rates")
        )
    for name in sorted(derived.keys() & stated.keys()):
        for field in ("value", "low", "high", "datasheet", "utilization"):
            follows, states = getattr(derived[name], field), getattr(stated[name], field)
            if (follows is None) != (states is None) or (
                follows is not None and not math.isclose(follows, states, rel_tol=1e-6)
            ):
                violations.append(
                    _error(f"rate {name}", f"has {field} {states}, but its curve gives {follows}")
                )
    return violations


def _case(point: Point) -> str:
    return " ".join(f"{k}={v:g}" for k, v in point.case.items()) or "its only case"


def _error(where: str, what: str) -> Violation:
    return Violation(severity="error", where=where, what=what)


def _warning(where: str, what: str) -> Violation:
    return Violation(severity="warning", where=where, what=what)
