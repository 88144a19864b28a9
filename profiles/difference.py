"""Compare two profiles: which rates differ, and which differences are only noise."""

import numpy as np

from groundspeed.profiles.record import Record
from groundspeed.profiles.schema import Profile, Rate


class RateChange(Record):
    """One achieved rate in two profiles."""

    quantity: str
    unit: str
    first: float
    second: float
    change_fraction: float
    """second / first - 1."""
    beyond_noise: bool
    """The two 90 % intervals do not meet."""


class EnvironmentChange(Record):
    """Something about the environment that is not the same."""

    what: str
    first: str
    second: str


class ProfileComparison(Record):
    """Two profiles side by side."""

    first: str
    second: str
    rates: tuple[RateChange, ...]
    median_change_fraction: float | None
    """Median size of the change over all rates; None without a common rate."""
    environment: tuple[EnvironmentChange, ...]
    only_in_one: tuple[str, ...]


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
        beyond_noise=a.high < b.low or b.high < a.low,
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
