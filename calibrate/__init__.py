"""Measure a device and fit the laws of its profile.

The packages cover timing, telemetry, the choice of points, fitting, and resuming a stopped run.
Fitting a law to existing measurements needs no torch:

>>> from groundspeed.calibrate import choose_points, fit_law  # doctest: +SKIP
>>> law = fit_law("matmul", frame, device="h200-sxm")         # doctest: +SKIP
>>> law.predict(other_shapes)                                 # doctest: +SKIP

:func:`groundspeed.calibrate.run.campaign.calibrate` measures a device.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundspeed.calibrate.design.point_selection import choose_points
    from groundspeed.calibrate.fit.dataframe import FittedLaw, fit_law
    from groundspeed.calibrate.fit.transfer import transfer_law

__all__ = ["FittedLaw", "choose_points", "fit_law", "transfer_law"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module's attributes are of any type)
    """Import a public name on first use, so that pandas and scipy load only if needed."""
    if name in ("FittedLaw", "fit_law"):
        from groundspeed.calibrate.fit import dataframe

        return getattr(dataframe, name)
    if name == "choose_points":
        from groundspeed.calibrate.design.point_selection import choose_points

        return choose_points
    if name == "transfer_law":
        from groundspeed.calibrate.fit.transfer import transfer_law

        return transfer_law
    raise AttributeError(f"module 'groundspeed.calibrate' has no attribute '{name}'")
