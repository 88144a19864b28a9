"""Laws: fitted functions from an operation to seconds. One file a form, plain data in a profile.

A law is coefficients with names and units, the range of inputs it was fitted on, and its error on
points that were held out. Evaluating it needs numpy alone. A new form is a file beside
``soft_roofline.py`` and a line in ``FORMS``.
"""

from groundspeed.profiles.laws.law import (
    MODEL_FORMS,
    Coefficient,
    HeldOutError,
    Law,
    LawPrediction,
    law_time,
)
from groundspeed.profiles.laws.piecewise_linear import PiecewiseLinear
from groundspeed.profiles.laws.residual_gp import ResidualGP

__all__ = [
    "MODEL_FORMS",
    "Coefficient",
    "HeldOutError",
    "Law",
    "LawPrediction",
    "PiecewiseLinear",
    "ResidualGP",
    "law_time",
]
