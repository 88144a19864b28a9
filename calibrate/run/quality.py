"""Warn about our own measurement, with the number and what to do about it.

A measurement that looks confident and is not is worse than none. So a profile says what was odd
about the run it came from, before anybody asks.
"""

from collections.abc import Iterable

from groundspeed.profiles.schema import Curve, Environment, Point, Rate, Stability

ABOVE_ROOF = 1.0
"""Utilization that no steady device reaches."""

CLOCK_MOVED = 1.10
"""A clock that moves by less than this changes a rate by less than its law's error."""

FEW_SHARE = 0.10
"""Tags on fewer points than this are what a machine does now and then."""

TAGGED: dict[str, str] = {
    "noisy-neighbour": "were measured while other programs took over 10 % of the processor: "
    "measure when the machine is quiet",
    "drift": "drifted by over 5 % while they were sampled: let the device warm up, or cool",
    "bimodal": "fell into two groups: a clock or a neighbour with two states",
    "outliers": "had over 10 % outliers: something interrupts this machine often",
    "few-samples": "have fewer than ten samples: give the calibration more time",
    "near-clock-resolution": "are within fifty ticks of the clock: their digits are the clock's",
    "not-in-graph": "could not be captured in a graph, so launching is in their time",
    "throttled:power-cap": "ran against the power cap: sustained rates are lower than bursts",
    "throttled:power": "ran against the power brake: look at the power supply",
    "throttled:thermal": "ran too hot and were slowed down: look at the cooling",
    "throttled:hardware": "were slowed down by the hardware: look at power and cooling",
}
"""What each tag means for the reader."""


def quality_warnings(
    curves: Iterable[Curve],
    environment: Environment,
    stability: Iterable[Stability],
    rates: Iterable[Rate] = (),
) -> list[str]:
    """What a reader should know before trusting a profile's numbers.

    Parameters
    ----------
    curves : iterable of Curve
    environment : Environment
    stability : iterable of Stability
    rates : iterable of Rate, optional
        The summary, held against the datasheet.

    Returns
    -------
    list of str
        Each with how often or how much, and what to do.
    """
    points: list[Point] = [p for curve in curves for p in curve.points]
    warnings = []
    for steadiness in stability:
        if steadiness.verdict == "noisy":
            warnings.append(
                f"noisy machine: the {steadiness.limit} reference varied by "
                f"{steadiness.spread_fraction:.0%} during the run (other programs, a shared host, "
                "or a clock that moves)"
            )
    for tag, meaning in TAGGED.items():
        count = sum(tag in p.tags for p in points)
        if points and count / len(points) > FEW_SHARE:
            warnings.append(f"{count} of {len(points)} cases {meaning}")
    capped = sum(p.stop == "time-cap" and "sustained" not in p.tags for p in points)
    if points and capped / len(points) > 2.0 * FEW_SHARE:
        warnings.append(
            f"{capped} of {len(points)} cases ran out of time before they were precise: their "
            "intervals say how far"
        )
    clocks = sorted(p.clock_mhz for p in points if p.clock_mhz)
    if clocks:
        low, high = (clocks[round(q * (len(clocks) - 1))] for q in (0.1, 0.9))
        if high > CLOCK_MOVED * low:
            warnings.append(
                f"the clock moved between {low:.0f} and {high:.0f} MHz (10 % and 90 % of cases): "
                "rates of different cases are of different clocks"
            )
    if environment.other_processes:
        warnings.append(f"{environment.other_processes} other processes used the device meanwhile")
    if environment.partition_mode == "MIG":
        warnings.append("the device is in MIG mode: this is one slice of it")
    if environment.virtualization == "virtual machine":
        warnings.append(
            "a virtual machine: its neighbours and the host's clock cannot be seen from inside"
        )
    for rate in rates:
        if rate.utilization is not None and rate.utilization > ABOVE_ROOF:
            warnings.append(
                f"{rate.quantity} is {rate.utilization:.0%} of the datasheet: another clock than "
                "the sheet's, a cache that was not left, or the wrong sheet"
            )
    return warnings
