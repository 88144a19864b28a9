"""Laws: fitted functions from an operation to seconds, with one file for each model form.

A law consists of coefficients with names and units, the range of inputs on which it was fitted (fit
range), and its error on held-out points. It is stored in a profile as plain data, and evaluating it
needs only numpy. To add a model form, add a file like ``soft_roofline.py`` and an entry in
``MODEL_FORMS`` (``law.py``).

    law_time(law, {"m": m, "n": n, "k": k}).time_s  # [s], with low_s and high_s as 90 % interval
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
