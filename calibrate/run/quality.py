"""Create the warnings of a profile: what disturbed the measurement, how much, and what to do.

A result that looks confident but is disturbed is worse than no result. A profile therefore lists
everything unusual about the run from which it was made.

    warnings = quality_warnings(curves, environment, stability, rates)
"""

from collections.abc import Iterable

from groundspeed.profiles.schema import Curve, Environment, Point, Rate, Stability

ABOVE_ROOF = 1.0
"""[1] Utilization above which a rate is reported as implausible."""

CLOCK_MOVED = 1.10
"""Ratio of the highest to the lowest clock (90 % and 10 % quantile) above which a warning is given.
Below it, the rates change by less than the error of their laws."""

FEW_SHARE = 0.10
"""Share of points with a tag above which a warning is given. Below it, the disturbance is
occasional and normal."""

TAGGED: dict[str, str] = {
    "noisy-neighbour": "were measured while other programs used over 10 % of the CPU: "
    "measure again on an idle machine",
    "drift": "changed by over 5 % while they were sampled: let the device warm up or cool down",
    "bimodal": "have samples in two groups: the clock or other load switches between two states",
    "outliers": "have over 10 % outliers: something often interrupts this machine",
    "few-samples": "have fewer than ten samples: use a longer calibration mode",
    "near-clock-resolution": "last less than fifty clock ticks: their times are not precise",
    "host-bound": "needed a host that launches faster: their times include the host's",
    "not-in-graph": "could not be captured in a CUDA graph, so their times include the launch",
    "throttled:power-cap": "were slowed by the power cap: sustained rates are lower than bursts",
    "throttled:power": "were slowed by the power brake: check the power supply",
    "throttled:thermal": "were slowed because the device was too hot: check the cooling",
    "throttled:hardware": "were slowed by the hardware: check power and cooling",
}
"""Warning for each tag; it follows the words "N of M cases"."""


def quality_warnings(
    curves: Iterable[Curve],
    environment: Environment,
    stability: Iterable[Stability],
    rates: Iterable[Rate] = (),
) -> list[str]:
    """Create the warnings that a reader needs before trusting a profile's numbers.

    Parameters
    ----------
    curves : iterable of Curve
        Measured points with their tags.
    environment : Environment
        Software and settings of the run.
    stability : iterable of Stability
        Spread of the reference cases.
    rates : iterable of Rate, optional
        Rates of the summary, compared with the datasheet. Default: none.

    Returns
    -------
    list of str
        Warnings, each with a count or an amount, and most with a remedy.
    """
    points: list[Point] = [p for curve in curves for p in curve.points]
    warnings = []
    for steadiness in stability:
        if steadiness.verdict == "noisy":
            warnings.append(
                f"noisy machine: the {steadiness.limit} reference varied by "
                f"{steadiness.spread_fraction:.0%} during the run (caused by other programs, a "
                "shared host or a changing clock)"
            )
    for tag, meaning in TAGGED.items():
        count = sum(tag in p.tags for p in points)
        if points and count / len(points) > FEW_SHARE:
            warnings.append(f"{count} of {len(points)} cases {meaning}")
    capped = sum(p.stop == "time-cap" and "sustained" not in p.tags for p in points)
    if points and capped / len(points) > 2.0 * FEW_SHARE:
        warnings.append(
            f"{capped} of {len(points)} cases ran out of time before they were precise: see their "
            "intervals"
        )
    clocks = sorted(p.clock_mhz for p in points if p.clock_mhz)
    if clocks:
        low, high = (clocks[round(q * (len(clocks) - 1))] for q in (0.1, 0.9))
        if high > CLOCK_MOVED * low:
            warnings.append(
                f"the clock moved between {low:.0f} and {high:.0f} MHz (10 % and 90 % quantile of "
                "the cases): rates of different cases belong to different clocks"
            )
    if environment.other_processes:
        warnings.append(
            f"{environment.other_processes} other processes used the device during the run"
        )
    if environment.partition_mode == "MIG":
        warnings.append("the device is in MIG mode: one slice of it was measured")
    if environment.virtualization == "virtual machine":
        warnings.append(
            "measured in a virtual machine: the load and the clock of the host are not visible"
        )
    for rate in rates:
        if rate.utilization is not None and rate.utilization > ABOVE_ROOF:
            warnings.append(
                f"{rate.quantity} is {rate.utilization:.0%} of the datasheet: the clock differs "
                "from the datasheet, the data came from a cache, or the datasheet is the wrong one"
            )
    return warnings
