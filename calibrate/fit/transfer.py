"""Predict laws of a device that cannot be measured, from the laws of a similar device.

Two GPUs of one architecture reach about the same share of their datasheet peaks: constants fitted
on an H100 and scaled to an H200 predict its matmul times with a median error of 4.5 %, against
3.7 % for constants fitted on the H200. So each rate is multiplied by the ratio of the two
datasheets' rates. Start-up times and the residual GP are kept.

The few measurements that exist for the target device (anchors) then correct the laws. An anchor
carries information on what limits it: a large matmul on compute, a stream on memory, an empty
message on start-up. So each law has a shift for each of these three limits, which is the sum of a
shift shared by all laws of the device and one of its own. All shifts are estimated together from
all anchors, under a normal prior. The resulting laws have the origin ``transferred``, and their
intervals are wider by the error of the transfer.

    laws = transfer_law(h200_profile, "h100-sxm", anchors)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from groundspeed.calibrate.fit.dataframe import FittedLaw, add_derived_columns
from groundspeed.profiles.datasheet import DeviceSpec, find_device
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import Coefficient, Law
from groundspeed.profiles.laws.law import law_time
from groundspeed.profiles.operations import OPERATIONS, Array
from groundspeed.profiles.schema import Profile

SAME_ARCHITECTURE = 0.04
"""Standard deviation of the transfer error within one architecture, in log time, on top of the
law's own error. Laws transferred from H100 to H200 have a 90 % error quantile of 12.3 %, laws
fitted on the H200 10.9 % (aiconfigurator's tables)."""

OTHER_ARCHITECTURE = 0.20
"""Standard deviation of the transfer error between architectures, in log time. No published data
give it. It is the spread of the best shapes' share of the datasheet peak: 80 % on an H100, 87 % on
an A100, 51 % on an MI300X."""

DEVICE_SHARE, LIMIT_SHARE = 0.5, 0.3
"""Shares of the transfer variance: of a shift of the whole device (e.g. a lower clock), and of a
shift of one limit in all laws. The rest belongs to the individual laws."""

ANCHOR_NOISE = 0.08
"""Standard deviation of one anchor around the shifted law, in log time."""

HALF_OF_90 = 1.645

LIMITS = ("compute", "memory", "startup")
"""The limits of a law's terms; each limit has a shift."""

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
    """Transfer the laws of a source device to a target device.

    Parameters
    ----------
    source_profile : Profile
        Profile of the source device, with laws and a datasheet.
    target_datasheet : DeviceSpec or str
        Datasheet or name of the target device.
    anchors : DataFrame, optional
        Rows measured on the target: ``operation``, its columns and ``time_us``, plus the config
        key columns (``dtype``, ...) needed to tell laws apart. Not given: the laws are scaled by
        the datasheets only.

    Returns
    -------
    tuple of Law
        Laws with the origin ``transferred``. A law is omitted if one of the two datasheets lacks
        the rate that it scales with.

    Raises
    ------
    InputError
        If the source profile has no datasheet, or no law can be transferred.
    """
    target = (
        find_device(target_datasheet).spec
        if isinstance(target_datasheet, str)
        else target_datasheet
    )
    source = source_profile.datasheet
    if source is None:
        raise InputError(
            f"profile {source_profile.id} has no datasheet, so its laws cannot be scaled to "
            "another device"
        )
    moved = [
        m for law in source_profile.laws if (m := _scale_to_target(law, source, target)) is not None
    ]
    if not moved:
        raise InputError(
            f"no law of {source.id} can be transferred to {target.id}: the datasheets lack a rate "
            "that both need"
        )
    prior = SAME_ARCHITECTURE if source.architecture == target.architecture else OTHER_ARCHITECTURE
    shifts = _find_shifts(moved, anchors, prior)
    return tuple(
        _mark_transferred(
            _shifted(law, shift.of_limit), shift.spread, f"{law.source}, from {source.id}"
        )
        for law, shift in zip(moved, shifts, strict=True)
    )


def wire(datasheet: DeviceSpec, ranks: int) -> float | None:
    """Return the bandwidth of one device to the other ranks of a group [bytes/s].

    In a mesh without a switch, a pair of devices has only one link, however many links each device
    has. None if the datasheet gives no link bandwidth.
    """
    whole, link = datasheet.scaleup_bandwidth_bytes_per_s, datasheet.p2p_bandwidth_bytes_per_s
    if whole is None:
        return link.value if link else None
    return min(whole.value, link.value * (ranks - 1)) if link else whole.value


def _ratio(of: object, over: object) -> float | None:
    a, b = getattr(of, "value", None), getattr(over, "value", None)
    return a / b if a and b else None


def _scale_to_target(law: Law, source: DeviceSpec, target: DeviceSpec) -> Law | None:
    """Return the law with its rates scaled by target / source; None if a datasheet lacks one."""
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
        return None if rate is None else _scale_piecewise_law(law, 1.0, 1.0 / rate)
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
        coefficients[name] = _scale_coefficient(c, factor)
    return law.model_copy(update={"coefficients": coefficients})


def _scale_piecewise_law(law: Law, startup: float, rest: float) -> Law:
    """Scale a piecewise linear law: its first time by ``startup``, the rest by ``rest``."""
    if law.piecewise_linear is None:
        return law
    first = law.piecewise_linear.time_s[0]
    times = tuple(startup * first + rest * (t - first) for t in law.piecewise_linear.time_s)
    return law.model_copy(
        update={"piecewise_linear": law.piecewise_linear.model_copy(update={"time_s": times})}
    )


@dataclass(frozen=True)
class _Shift:
    """Estimated shift of a law, for each limit."""

    of_limit: dict[str, float]
    """Logarithm of the factor on the law's time, by limit."""
    spread: float
    """Posterior standard deviation of the shift, in log time."""


def _find_shifts(laws: Sequence[Law], anchors: pd.DataFrame | None, prior: float) -> list[_Shift]:
    """Estimate the shifts of all laws: normal prior, normal noise, one linear step.

    The unknowns are one shift of everything and one for each limit, both shared by all laws
    (collectives have a separate set), and one for each law and limit. The log residual of an
    anchor is their sum, weighted by the share of the anchor's time that each limit takes.
    """
    count = len(LIMITS)
    heads = [0 if law.operation != "collective" else 1 + count for law in laws]
    own_from = 2 * (1 + count)
    unknown = own_from + count * len(laws)
    variance = np.full(unknown, (1.0 - DEVICE_SHARE - LIMIT_SHARE) * prior**2)
    for head in (0, 1 + count):
        variance[head] = DEVICE_SHARE * prior**2
        variance[head + 1 : head + 1 + count] = LIMIT_SHARE * prior**2
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
        # Widen the prior if the anchors are farther from the laws than the prior expects.
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
"""Step of the numerical derivative, in log time."""


def _share(law: Law, limit: str, columns: dict[str, Array], plain: Array) -> Array:
    """Return d log(time) / d shift of a limit at each row: the limit's share of the time."""
    result: Array = np.log(law_time(_shifted(law, {limit: STEP}), columns).time_s / plain) / STEP
    return result


def _of_law(law: Law, anchors: pd.DataFrame) -> pd.DataFrame:
    """Return the anchors that match a law's operation and config key."""
    chosen = anchors[anchors["operation"] == law.operation]
    if chosen.empty:
        return chosen
    frame = add_derived_columns(law.operation, chosen)
    for name, value in law.config_key.items():
        if name in frame.columns:
            frame = frame[frame[name].astype(str) == value]
    return frame


def _shifted(law: Law, shifts: dict[str, float]) -> Law:
    """Return the law with each term slowed down by exp(shift) of its limit."""
    if law.piecewise_linear is not None:
        startup, rest = shifts.get("startup", 0.0), shifts.get("memory", 0.0)
        return _scale_piecewise_law(law, float(np.exp(startup)), float(np.exp(rest)))
    coefficients = {}
    for name, c in law.coefficients.items():
        factor = float(np.exp(shifts.get(LIMIT_OF.get(name, ""), 0.0)))
        coefficients[name] = _scale_coefficient(
            c, 1.0 / factor if name.endswith("_per_s") else factor
        )
    return law.model_copy(update={"coefficients": coefficients})


def _mark_transferred(law: Law, spread: float, source: str) -> Law:
    """Mark a law as transferred and widen its interval by the spread of its shift."""
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


def _scale_coefficient(c: Coefficient, factor: float) -> Coefficient:
    return Coefficient(value=c.value * factor, low=c.low * factor, high=c.high * factor)


def transferred_face(operation: str, laws: tuple[Law, ...]) -> FittedLaw:
    """Return the laws of one operation as a :class:`FittedLaw`, to predict a DataFrame."""
    return FittedLaw(operation, tuple(law for law in laws if law.operation == operation))
