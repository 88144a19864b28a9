"""Laws for a device that cannot be measured: fractions kept, peaks swapped, corrected by anchors.

Two chips of one architecture reach much the same share of their datasheets: constants fitted on
an H100 and scaled to an H200 predict its products to 4.5 % median, against 3.7 for its own. So
rates scale with the sheets' rates, times of starting stay, and the surface of residuals is kept.

What few points there are of the target then correct it. A point speaks of what limits it: a large
product of the matrix units, a stream of the memory, an empty message of the start-up. So each law
has a shift for each of the three, made of one that the device's laws have in common and one of
its own; all of them are found together, under a normal prior, from all points. Such laws say
``transferred``, and their intervals are wider by what transfer misses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from groundspeed.calibrate.fit.dataframe import FittedLaw, with_derived
from groundspeed.profiles.datasheet import DeviceSpec, find_device
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import Coefficient, Law
from groundspeed.profiles.laws.law import law_time
from groundspeed.profiles.operations import OPERATIONS, Array
from groundspeed.profiles.schema import Profile

SAME_ARCHITECTURE = 0.04
"""Standard deviation, in log time, of what transfer misses beside the law's own error: H100 to
H200 leaves 12.3 % at the 90 % quantile, its own points leave 10.9 (aiconfigurator's tables)."""

OTHER_ARCHITECTURE = 0.20
"""The same between architectures. Nothing published says; the best shapes of an H100, an A100 and
an MI300X reach 80, 87 and 51 % of their sheets, which is this far apart."""

WHOLE, IN_COMMON = 0.5, 0.3
"""Shares of that variance: all of a device is slower (a clock), or one of its limits in every law;
the rest is each law's own."""

ANCHOR_NOISE = 0.08
"""Standard deviation of one anchor around the shifted law."""

HALF_OF_90 = 1.645

LIMITS = ("compute", "memory", "startup")
"""What a law's terms are limited by; each has a shift."""

LIMIT_OF = {
    "compute_flops_per_s": "compute",
    "bandwidth_bytes_per_s": "memory",
    "quantize_bytes_per_s": "memory",
    "activation_bytes_per_s": "memory",
    "l2_bandwidth_bytes_per_s": "memory",
    "startup_s": "startup",
    "per_k_s": "startup",
    "split_s": "startup",
    "tile_s": "startup",
}


def transfer_law(
    source_profile: Profile,
    target_datasheet: DeviceSpec | str,
    anchors: pd.DataFrame | None = None,
) -> tuple[Law, ...]:
    """Laws of a target device from a source's.

    Parameters
    ----------
    source_profile : Profile
        With laws, and the datasheet they are shares of.
    target_datasheet : DeviceSpec or str
    anchors : DataFrame, optional
        Rows measured on the target: ``operation``, its columns and ``time_us``; a regime's columns
        (``dtype``, ...) where they tell laws apart.

    Returns
    -------
    tuple of Law
        With origin ``transferred``; laws for which a sheet lacks the rate are left out.

    Raises
    ------
    InputError
        If the source has no datasheet, or nothing can be transferred.
    """
    target = (
        find_device(target_datasheet).spec
        if isinstance(target_datasheet, str)
        else target_datasheet
    )
    source = source_profile.datasheet
    if source is None:
        raise InputError(
            f"profile {source_profile.id} has no datasheet, so its rates are shares of nothing"
        )
    moved = [m for law in source_profile.laws if (m := _swapped(law, source, target)) is not None]
    if not moved:
        raise InputError(f"nothing of {source.id} can be transferred to {target.id}")
    prior = SAME_ARCHITECTURE if source.architecture == target.architecture else OTHER_ARCHITECTURE
    shifts = _find_shifts(moved, anchors, prior)
    return tuple(
        _widened(_shifted(law, shift.of_limit), shift.spread, f"{law.source}, from {source.id}")
        for law, shift in zip(moved, shifts, strict=True)
    )


def wire(datasheet: DeviceSpec, ranks: int) -> float | None:
    """Bandwidth that one device has towards a group [bytes/s].

    In a mesh without a switch, two devices share one link however many each has.
    """
    whole, link = datasheet.scaleup_bandwidth_bytes_per_s, datasheet.p2p_bandwidth_bytes_per_s
    if whole is None:
        return link.value if link else None
    return min(whole.value, link.value * (ranks - 1)) if link else whole.value


def _ratio(of: object, over: object) -> float | None:
    a, b = getattr(of, "value", None), getattr(over, "value", None)
    return a / b if a and b else None


def _swapped(law: Law, source: DeviceSpec, target: DeviceSpec) -> Law | None:
    """The law with the target's rates in place of the source's."""
    dtype = law.config_key.get("dtype", "")
    compute = _ratio(target.peak(dtype), source.peak(dtype))
    memory = _ratio(target.memory_bandwidth_bytes_per_s, source.memory_bandwidth_bytes_per_s)
    l2 = _ratio(target.l2_bytes, source.l2_bytes)
    if law.piecewise_linear is not None:
        if law.operation == "collective":
            ranks = int(law.config_key["world_size"])
            of, over = wire(target, ranks), wire(source, ranks)
            rate = of / over if of and over else None
        else:
            rate = memory
        return None if rate is None else _chain(law, 1.0, 1.0 / rate)
    factors = {
        "compute_flops_per_s": compute,
        "bandwidth_bytes_per_s": memory,
        "quantize_bytes_per_s": memory,
        "activation_bytes_per_s": memory,
        "l2_bandwidth_bytes_per_s": memory,
        "l2_bytes": l2 or 1.0,
        "compute_units": _ratio(target.compute_units, source.compute_units) or 1.0,
    }
    coefficients = {}
    for name, c in law.coefficients.items():
        factor = factors.get(name, 1.0)
        if factor is None:
            return None
        coefficients[name] = _times(c, factor)
    return law.model_copy(update={"coefficients": coefficients})


def _chain(law: Law, startup: float, rest: float) -> Law:
    """A chain whose first time grows by one factor, and what comes on top by another."""
    if law.piecewise_linear is None:
        return law
    first = law.piecewise_linear.time_s[0]
    times = tuple(startup * first + rest * (t - first) for t in law.piecewise_linear.time_s)
    return law.model_copy(
        update={"piecewise_linear": law.piecewise_linear.model_copy(update={"time_s": times})}
    )


@dataclass(frozen=True)
class _Shift:
    """Factors on a law's times, as logarithms."""

    of_limit: dict[str, float]
    spread: float
    """Standard deviation that is left."""


def _find_shifts(laws: Sequence[Law], anchors: pd.DataFrame | None, prior: float) -> list[_Shift]:
    """The most likely shifts of all laws: normal prior, normal noise, one linear step.

    Unknown are a shift of everything, one of each limit, both shared by all laws (links apart from
    the device), and one of each law and limit; an anchor's log residual is their sum, weighted by
    what share of its time each limit has.
    """
    count = len(LIMITS)
    heads = [0 if law.operation != "collective" else 1 + count for law in laws]
    own_from = 2 * (1 + count)
    unknown = own_from + count * len(laws)
    variance = np.full(unknown, (1.0 - WHOLE - IN_COMMON) * prior**2)
    for head in (0, 1 + count):
        variance[head] = WHOLE * prior**2
        variance[head + 1 : head + 1 + count] = IN_COMMON * prior**2
    rows: list[Array] = []
    residuals: list[float] = []
    for index, law in enumerate(laws):
        seen = _of_law(law, anchors) if anchors is not None else None
        if seen is None or seen.empty:
            continue
        columns = {c: seen[c].to_numpy(dtype=float) for c in OPERATIONS[law.operation].columns}
        measured = seen["time_us"].to_numpy(dtype=float) * 1e-6
        plain = law_time(law, columns).time_s
        shares = [_share(law, limit, columns, plain) for limit in LIMITS]
        head, own = heads[index], own_from + count * index
        for i, residual in enumerate(np.log(measured / plain)):
            row = np.zeros(unknown)
            row[head] = sum(share[i] for share in shares)
            for k in range(count):
                row[head + 1 + k] = row[own + k] = shares[k][i]
            rows.append(row)
            residuals.append(float(residual))
    mean, covariance = np.zeros(unknown), np.diag(variance)
    if rows:
        design = np.stack(rows)
        # Anchors farther off than devices have been seen to be: this one is unlike them.
        seen_prior = max(0.0, float(np.mean(np.square(residuals))) - ANCHOR_NOISE**2)
        covariance *= max(1.0, seen_prior / prior**2)
        gain = covariance @ design.T
        seen_covariance = design @ gain + ANCHOR_NOISE**2 * np.eye(len(rows))
        weights = np.linalg.solve(seen_covariance, gain.T).T
        mean = weights @ np.array(residuals)
        covariance = covariance - weights @ gain.T
    shifts = []
    for index in range(len(laws)):
        total, left = {}, []
        for i, limit in enumerate(LIMITS):
            parts = [heads[index], heads[index] + 1 + i, own_from + count * index + i]
            total[limit] = float(mean[parts].sum())
            left.append(float(covariance[np.ix_(parts, parts)].sum()))
        shifts.append(_Shift(total, float(np.sqrt(np.mean(left)))))
    return shifts


STEP = 0.01


def _share(law: Law, limit: str, columns: dict[str, Array], plain: Array) -> Array:
    """Derivative of log time / d shift of a limit, at each row."""
    result: Array = np.log(law_time(_shifted(law, {limit: STEP}), columns).time_s / plain) / STEP
    return result


def _of_law(law: Law, anchors: pd.DataFrame) -> pd.DataFrame:
    """The anchors of a law's operation and regime."""
    chosen = anchors[anchors["operation"] == law.operation]
    if chosen.empty:
        return chosen
    frame = with_derived(law.operation, chosen)
    for name, value in law.config_key.items():
        if name in frame.columns:
            frame = frame[frame[name].astype(str) == value]
    return frame


def _shifted(law: Law, shifts: dict[str, float]) -> Law:
    """A law whose terms take longer by the factor of their limit."""
    if law.piecewise_linear is not None:
        startup, rest = shifts.get("startup", 0.0), shifts.get("memory", 0.0)
        return _chain(law, float(np.exp(startup)), float(np.exp(rest)))
    coefficients = {}
    for name, c in law.coefficients.items():
        factor = float(np.exp(shifts.get(LIMIT_OF.get(name, ""), 0.0)))
        coefficients[name] = _times(c, 1.0 / factor if name.endswith("_per_s") else factor)
    return law.model_copy(update={"coefficients": coefficients})


def _widened(law: Law, spread: float, source: str) -> Law:
    """The law with intervals that hold what is not known."""
    wider = HALF_OF_90 * spread
    held_out = law.held_out.model_copy(
        update={
            "log_q05": -float(np.hypot(law.held_out.log_q05, wider)),
            "log_q95": float(np.hypot(law.held_out.log_q95, wider)),
            "method": f"{law.held_out.method}, on the source device",
        }
    )
    update: dict[str, object] = {"origin": "transferred", "source": source, "held_out": held_out}
    if law.piecewise_linear is not None:
        spreads = tuple(float(np.hypot(s, wider)) for s in law.piecewise_linear.log_spread)
        update["piecewise_linear"] = law.piecewise_linear.model_copy(update={"log_spread": spreads})
    if law.residual_gp is not None:
        extra = spread / law.residual_gp.interval_scale
        update["residual_gp"] = law.residual_gp.model_copy(update={"extra_noise": extra})
    return law.model_copy(update=update)


def _times(c: Coefficient, factor: float) -> Coefficient:
    return Coefficient(value=c.value * factor, low=c.low * factor, high=c.high * factor)


def transferred_face(operation: str, laws: tuple[Law, ...]) -> FittedLaw:
    """The DataFrame face of transferred laws of one operation."""
    return FittedLaw(operation, tuple(law for law in laws if law.operation == operation))
