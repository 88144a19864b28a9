"""Compare two profiles: which achieved rates and which environment settings differ.

A rate difference is beyond noise if the 90 % intervals of the two rates do not overlap. A rate
from a single published number has an interval without width: its noise is unknown, not zero, so
nothing is said of it.

    comparison = compare_profiles(load_profile(old), load_profile(new))
    [(r.quantity, r.change_fraction) for r in comparison.rates if r.beyond_noise]
"""

import numpy as np

from groundspeed.profiles.record import Record
from groundspeed.profiles.schema import Profile, Rate


class RateChange(Record):
    """Values of one achieved rate in two profiles."""

    quantity: str
    unit: str
    first: float
    second: float
    change_fraction: float
    """[1] second / first - 1."""
    beyond_noise: bool | None
    """Whether the two 90 % intervals do not overlap; None if one of them has no width."""


class EnvironmentChange(Record):
    """One property of the environment that differs between two profiles."""

    what: str
    """Name of the property, e.g. ``driver`` or ``library torch``."""
    first: str
    second: str


class ProfileComparison(Record):
    """Result of comparing two profiles."""

    first: str
    """Id of the first profile."""
    second: str
    """Id of the second profile."""
    rates: tuple[RateChange, ...]
    """Rates that both profiles have."""
    median_change_fraction: float | None
    """[1] Median of the absolute change over all common rates; None if there are none."""
    environment: tuple[EnvironmentChange, ...]
    """Properties of the environment that differ."""
    only_in_one: tuple[str, ...]
    """Names of the rates that only one of the profiles has."""


def compare_profiles(first: Profile, second: Profile) -> ProfileComparison:
    """Compare the achieved rates and the environment of two profiles."""
    rates_a = {r.quantity: r for r in first.rates}
    rates_b = {r.quantity: r for r in second.rates}
    common = [name for name in rates_a if name in rates_b]
    changes = tuple(_change(rates_a[name], rates_b[name]) for name in common)
    return ProfileComparison(
        first=first.id,
        second=second.id,
        rates=changes,
        median_change_fraction=float(np.median([abs(c.change_fraction) for c in changes]))
        if changes
        else None,
        environment=tuple(_environment(first, second)),
        only_in_one=tuple(sorted(rates_a.keys() ^ rates_b.keys())),
    )


def _change(a: Rate, b: Rate) -> RateChange:
    return RateChange(
        quantity=a.quantity,
        unit=a.unit,
        first=a.value,
        second=b.value,
        change_fraction=b.value / a.value - 1.0,
        beyond_noise=None
        if a.low == a.high or b.low == b.high
        else a.high < b.low or b.high < a.low,
    )


def _environment(first: Profile, second: Profile) -> list[EnvironmentChange]:
    ignored = {"date_utc", "command", "libraries"}
    flat_a = {"device": first.device.name, **first.environment.model_dump(exclude=ignored)}
    flat_b = {"device": second.device.name, **second.environment.model_dump(exclude=ignored)}
    flat_a |= {f"library {k}": v for k, v in first.environment.libraries.items()}
    flat_b |= {f"library {k}": v for k, v in second.environment.libraries.items()}
    return [
        EnvironmentChange(what=key, first=str(flat_a.get(key)), second=str(flat_b.get(key)))
        for key in sorted(flat_a.keys() | flat_b.keys())
        if flat_a.get(key) != flat_b.get(key)
    ]
