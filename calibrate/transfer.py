"""Laws for a device that cannot be measured: fractions kept, peaks swapped, corrected by anchors.

Two chips of one architecture reach much the same share of their data sheets: constants fitted on
an H100 and scaled to an H200 predict its products to 4.5 % median, against 3.7 for its own. So
rates scale with the sheets' rates, times of starting stay, and the surface of residuals is kept.
What few points there are of the target then shift everything by their common factor, as far as
they agree. Such laws say ``transferred``, and their intervals are wider by what transfer misses.
"""

import numpy as np
import pandas as pd

from groundspeed.calibrate.frames import FittedLaw, with_derived
from groundspeed.profiles.datasheet import DeviceSpec, find_device
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import Coefficient, Law
from groundspeed.profiles.laws.law import law_time
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.schema import Profile

SAME_ARCHITECTURE = 0.04
"""Standard deviation, in log time, of what transfer misses beside the law's own error: H100 to
H200 leaves 12.3 % at the 90 % quantile, its own points leave 10.9 (aiconfigurator's tables)."""

OTHER_ARCHITECTURE = 0.20
"""The same between architectures. Nothing published says; the best shapes of an H100, an A100 and
an MI300X reach 80, 87 and 51 % of their sheets, which is this far apart."""

ANCHOR_NOISE = 0.08
"""Standard deviation of one anchor around the shifted law."""

HALF_OF_90 = 1.645


def transfer_law(
    source_profile: Profile,
    target_datasheet: DeviceSpec | str,
    anchors: pd.DataFrame | None = None,
) -> tuple[Law, ...]:
    """Laws of a target device from a source's.

    Parameters
    ----------
    source_profile : Profile
        With laws, and the data sheet they are shares of.
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
        If the source has no data sheet, or nothing can be transferred.
    """
    target = (
        find_device(target_datasheet).spec
        if isinstance(target_datasheet, str)
        else target_datasheet
    )
    source = source_profile.datasheet
    if source is None:
        raise InputError(
            f"profile {source_profile.id} has no data sheet, so its rates are shares of nothing"
        )
    found = []
    for law in source_profile.laws:
        moved = _swapped(law, source, target)
        if moved is None:
            continue
        shift, spread = _anchored(moved, anchors, source.architecture == target.architecture)
        found.append(_shifted(moved, shift, spread, f"{law.source}, from {source.id}"))
    if not found:
        raise InputError(f"nothing of {source.id} can be transferred to {target.id}")
    return tuple(found)


def _ratio(of: object, over: object) -> float | None:
    a, b = getattr(of, "value", None), getattr(over, "value", None)
    return a / b if a and b else None


def _swapped(law: Law, source: DeviceSpec, target: DeviceSpec) -> Law | None:
    """The law with the target's rates in place of the source's."""
    dtype = law.regime.get("dtype", "")
    compute = _ratio(target.peak(dtype), source.peak(dtype))
    memory = _ratio(target.memory_bandwidth_bytes_per_s, source.memory_bandwidth_bytes_per_s)
    link = _ratio(target.scaleup_bandwidth_bytes_per_s, source.scaleup_bandwidth_bytes_per_s)
    l2 = _ratio(target.l2_bytes, source.l2_bytes)
    if law.knots is not None:
        rate = link if law.operation == "collective" else memory
        if rate is None:
            return None
        first = law.knots.time_s[0]
        times = tuple(first + (t - first) / rate for t in law.knots.time_s)
        return law.model_copy(update={"knots": law.knots.model_copy(update={"time_s": times})})
    factors = {
        "compute_flops_per_s": compute,
        "bandwidth_bytes_per_s": memory,
        "quantize_bytes_per_s": memory,
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


def _anchored(law: Law, anchors: pd.DataFrame | None, same: bool) -> tuple[float, float]:
    """Shift of the log time, and the standard deviation left, after seeing the anchors.

    A normal prior around no shift meets n noisy looks at it: the shift is believed by
    ``n prior^2 / (n prior^2 + noise^2)``.
    """
    prior = SAME_ARCHITECTURE if same else OTHER_ARCHITECTURE
    seen = _of_law(law, anchors) if anchors is not None else None
    if seen is None or seen.empty:
        return 0.0, prior
    columns = {c: seen[c].to_numpy(dtype=float) for c in OPERATIONS[law.operation].columns}
    measured = seen["time_us"].to_numpy(dtype=float) * 1e-6
    residual = np.log(measured / law_time(law, columns).time_s)
    weight = len(seen) * prior**2 / (len(seen) * prior**2 + ANCHOR_NOISE**2)
    return weight * float(np.median(residual)), prior * float(np.sqrt(1.0 - weight))


def _of_law(law: Law, anchors: pd.DataFrame) -> pd.DataFrame:
    """The anchors of a law's operation and regime."""
    frame = with_derived(law.operation, anchors[anchors["operation"] == law.operation])
    for name, value in law.regime.items():
        if name in frame.columns:
            frame = frame[frame[name].astype(str) == value]
    return frame


def _shifted(law: Law, shift: float, spread: float, source: str) -> Law:
    """All times by a common factor, and intervals that hold what is not known."""
    factor = float(np.exp(shift))
    wider = HALF_OF_90 * spread
    held_out = law.held_out.model_copy(
        update={
            "log_q05": -float(np.hypot(law.held_out.log_q05, wider)),
            "log_q95": float(np.hypot(law.held_out.log_q95, wider)),
            "method": f"{law.held_out.method}, on the source device",
        }
    )
    update: dict[str, object] = {"origin": "transferred", "source": source, "held_out": held_out}
    if law.knots is not None:
        update["knots"] = law.knots.model_copy(
            update={
                "time_s": tuple(factor * t for t in law.knots.time_s),
                "log_spread": tuple(float(np.hypot(s, wider)) for s in law.knots.log_spread),
            }
        )
    update["coefficients"] = {
        name: _times(c, _power_of_time(name, factor)) for name, c in law.coefficients.items()
    }
    if law.surface is not None:
        extra = spread / law.surface.interval_scale
        update["surface"] = law.surface.model_copy(update={"extra_noise": extra})
    return law.model_copy(update=update)


def _power_of_time(name: str, factor: float) -> float:
    """What a constant is multiplied with so that every term of time grows by a factor."""
    if name.endswith("_per_s"):
        return 1.0 / factor
    return factor if name.endswith("_s") else 1.0


def _times(c: Coefficient, factor: float) -> Coefficient:
    return Coefficient(value=c.value * factor, low=c.low * factor, high=c.high * factor)


def transferred_face(operation: str, laws: tuple[Law, ...]) -> FittedLaw:
    """The DataFrame face of transferred laws of one operation."""
    return FittedLaw(operation, tuple(law for law in laws if law.operation == operation))
