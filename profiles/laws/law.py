"""The record of a fitted law as stored in a profile, and its evaluation with a 90 % interval.

Time and interval of one GEMM:

    prediction = law_time(law, {"m": [16.0], "n": [4096.0], "k": [4096.0]})
    prediction.time_s, prediction.low_s, prediction.high_s  # [s]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.laws import (
    decode_attention,
    experts,
    gemm,
    prefill_attention,
    soft_roofline,
)
from groundspeed.profiles.laws.piecewise_linear import PiecewiseLinear
from groundspeed.profiles.laws.residual_gp import ResidualGP
from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import OPERATIONS, Array, Columns
from groundspeed.profiles.record import NonNegative, Positive, Record, RenamedRecord


@dataclass(frozen=True)
class ModelForm:
    """The formula of a law and the names of its coefficients, which include their units."""

    time_s: Callable[[Work, Values], Array]
    """Function that returns the time [s] of each operation."""
    coefficients: tuple[str, ...]
    """Names of the coefficients that every operation needs."""
    computing: tuple[str, ...] = ()
    """Names of further coefficients for operations that arithmetic can limit."""


MODEL_FORMS: dict[str, ModelForm] = {
    "soft_roofline": ModelForm(
        soft_roofline.time_s, soft_roofline.COEFFICIENTS, soft_roofline.COMPUTING
    ),
    "gemm": ModelForm(gemm.time_s, gemm.COEFFICIENTS),
    "decode_attention": ModelForm(decode_attention.time_s, decode_attention.COEFFICIENTS),
    "experts": ModelForm(experts.time_s, experts.COEFFICIENTS),
    "prefill_attention": ModelForm(prefill_attention.time_s, prefill_attention.COEFFICIENTS),
}
"""Formula of each model form, by name."""

PIECEWISE_LINEAR = "piecewise_linear"
"""Name of the model form that has no coefficients: linear pieces between knots."""

Origin = Literal["measured", "imported", "transferred", "datasheet"]
"""Origin of numbers: timed here, timed by others, scaled from another GPU, or the vendor's peak."""

LogRatio = Annotated[float, Field(ge=-20.0, le=20.0)]
"""Logarithm of a ratio of times; above e^20 the two times cannot be of the same operation."""

WORK = ("flops", "bytes")
"""Quantities that a fit range limits besides the columns.

At a corner of the column ranges the work may be far more than at any fitted point.
"""


class Coefficient(Record):
    """One fitted constant and its 90 % interval (bootstrap over points)."""

    value: Positive
    low: Positive
    high: Positive


class HeldOutError(Record):
    """Error of a law on points that it was not fitted to, as fractions of the measured time."""

    points: int = Field(ge=0)
    """Number of held-out points."""
    method: str
    """Method of holding points out, e.g. leave-one-out."""
    median_fraction: NonNegative
    """Median of the absolute error."""
    q90_fraction: NonNegative
    """90 % quantile of the absolute error."""
    log_q05: LogRatio
    """5 % quantile of log(measured / predicted)."""
    log_q50: LogRatio
    """Median of log(measured / predicted): the bias."""
    log_q95: LogRatio
    """95 % quantile of log(measured / predicted); ``log_q05`` and this bound the 90 % interval."""


class Law(RenamedRecord):
    """A fitted function from an operation to seconds, with its fit range, error and source."""

    old_names: ClassVar[Mapping[str, str]] = {
        "config_key": "regime",
        "model_form": "form",
        "fit_range": "box",
        "piecewise_linear": "knots",
        "residual_gp": "surface",
    }

    operation: str
    config_key: dict[str, str]
    """Entries that select the law: data type, stream mode, elementwise operation."""
    model_form: str
    """Key of ``MODEL_FORMS``, or ``piecewise_linear``."""
    coefficients: dict[str, Coefficient]
    fit_range: dict[str, tuple[Positive, Positive]]
    """Smallest and largest value of each column, of FLOPs and of bytes among the fitted points."""
    piecewise_linear: PiecewiseLinear | None = None
    """Knots; given only for the model form ``piecewise_linear``."""
    residual_gp: ResidualGP | None = None
    """Gaussian process of the residual between the points, which also gives the interval."""
    unaligned: ResidualGP | None = None
    """Gaussian process of the additional residual of GEMMs whose m is not a multiple of 16."""
    points: int = Field(ge=1)
    """Number of fitted points."""
    held_out: HeldOutError
    origin: Origin
    source: str
    """Measurement or publication to which the law was fitted."""

    @model_validator(mode="after")
    def _known(self) -> "Law":
        if self.operation not in OPERATIONS:
            raise ValueError(
                f"unknown operation '{self.operation}': {did_you_mean(self.operation, OPERATIONS)}"
            )
        if self.model_form not in (*MODEL_FORMS, PIECEWISE_LINEAR):
            raise ValueError(
                f"unknown model form '{self.model_form}': "
                f"{did_you_mean(self.model_form, [*MODEL_FORMS, PIECEWISE_LINEAR])}"
            )
        if (self.model_form == PIECEWISE_LINEAR) != (self.piecewise_linear is not None):
            raise ValueError(
                "field 'piecewise_linear' must be given for the model form 'piecewise_linear' only"
            )
        spec = OPERATIONS[self.operation]
        lacking = [c for c in spec.categories if c not in self.config_key]
        if lacking:
            raise ValueError(f"config_key lacks {', '.join(lacking)}")
        if self.piecewise_linear is not None and self.piecewise_linear.column not in spec.columns:
            raise ValueError(
                f"piecewise_linear.column '{self.piecewise_linear.column}' is not a column of "
                f"{self.operation}"
            )
        needed: set[str] = set()
        if self.model_form in MODEL_FORMS:
            model_form = MODEL_FORMS[self.model_form]
            needed = {*model_form.coefficients, *(model_form.computing if spec.computes else ())}
        missing = needed - set(self.coefficients)
        if missing:
            raise ValueError(f"coefficients lack {', '.join(sorted(missing))}")
        strange = set(self.fit_range) - {*spec.columns, *WORK}
        if strange:
            raise ValueError(f"fit_range has unknown columns: {', '.join(sorted(strange))}")
        if any(low > high for low, high in self.fit_range.values()):
            raise ValueError("the lower limit of a fit range is above its upper limit")
        return self

    def values(self) -> dict[str, float]:
        """Return the value of each coefficient, without its interval."""
        return {name: c.value for name, c in self.coefficients.items()}


Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class LawPrediction:
    """Predicted times of N operations."""

    time_s: Array
    """[s] (N,) Predicted median time."""
    low_s: Array
    """[s] (N,) Lower limit of the 90 % interval of one new measurement (5 % quantile)."""
    high_s: Array
    """[s] (N,) Upper limit of the 90 % interval of one new measurement (95 % quantile)."""
    extrapolated: NDArray[np.bool_]
    """(N,) True where an input lies outside the fit range."""


def law_time(law: Law, columns: Columns) -> LawPrediction:
    """Evaluate a law.

    Outside the fit range, the physics of the model form still applies but its error is not known.
    The interval is then widened by half its width for each octave (factor of two) outside the
    range, and ``extrapolated`` is True.

    Parameters
    ----------
    law : Law
    columns : mapping of str to (N,) array_like
        Numeric columns of the operation (``m``, ``n`` and ``k`` for ``matmul``), all positive.

    Returns
    -------
    LawPrediction
        Median time and 90 % interval of each operation.

    Raises
    ------
    InputError
        If a column is missing or not positive.
    """
    operation = OPERATIONS[law.operation]
    arrays: dict[str, Array] = {}
    for name in operation.columns:
        if name not in columns:
            raise InputError(f"{law.operation} needs column '{name}'")
        arrays[name] = np.atleast_1d(np.asarray(columns[name], dtype=np.float64))
        if not (np.isfinite(arrays[name]).all() and (arrays[name] > 0).all()):
            raise InputError(f"column '{name}' of {law.operation} must be positive and finite")
    total = next(iter(arrays.values())).size
    blocks = [
        _block_time(law, {c: v[i : i + BLOCK] for c, v in arrays.items()})
        for i in range(0, max(total, 1), BLOCK)
    ]
    return LawPrediction(*(np.concatenate(part) for part in zip(*blocks, strict=True)))


BLOCK = 32_768
"""Number of rows that are evaluated at once, so that intermediate results stay in the cache."""


def _block_time(law: Law, arrays: dict[str, Array]) -> tuple[Array, Array, Array, Flags]:
    """Return the time, both limits of its interval, and whether it is outside the fit range."""
    operation = OPERATIONS[law.operation]
    flops = operation.flops(arrays, law.config_key)
    moved = operation.bytes(arrays, law.config_key)
    if law.piecewise_linear is not None:
        time = law.piecewise_linear.evaluate(arrays[law.piecewise_linear.column])
    else:
        time = MODEL_FORMS[law.model_form].time_s(Work(arrays, flops, moved), law.values())
    octaves = np.zeros_like(time)
    work = {"flops": flops, "bytes": moved}
    for name, (low, high) in law.fit_range.items():
        value = np.maximum(arrays[name] if name in arrays else work[name], 1e-9)
        octaves += np.log2(np.maximum(np.maximum(low / value, value / high), 1.0))
    widen = 1.0 + WIDER_AN_OCTAVE * octaves
    below, above = np.minimum(law.held_out.log_q05, 0.0), np.maximum(law.held_out.log_q95, 0.0)
    if law.piecewise_linear is not None:
        spread = law.piecewise_linear.spread(arrays[law.piecewise_linear.column])
        below, above = -spread, spread
    if law.residual_gp is not None:
        residual, spread = law.residual_gp.evaluate(arrays)
        odd = is_unaligned(arrays)
        if odd.any():
            more, wider = _unaligned(law, {c: v[odd] for c, v in arrays.items()})
            residual[odd] += more
            spread[odd] = np.hypot(spread[odd], wider)
        time = time * np.exp(residual)
        below, above = -spread, spread
    low, high = time * np.exp(below * widen), time * np.exp(above * widen)
    return time, low, high, octaves > OUTSIDE


OUTSIDE = 1e-9
"""Octaves outside the fit range that are tolerated as rounding errors."""

WIDER_AN_OCTAVE = 0.5
"""Widening per octave outside the fit range, in widths of the interval.

With this value, intervals of GEMM laws fitted between 512 and 16,384 contain all but a few per cent
of the measurements up to 65,536 and down to 64.
"""

ALIGNMENT = 16.0
"""A GEMM whose m is a multiple of this fills the smallest tile of the matrix units."""

UNKNOWN_UNALIGNED = 0.25
"""Half width of the 90 % interval, in log time, of unaligned GEMMs without measurements.

In published H200 fp8 timings, one library loses nothing on unaligned shapes and another a quarter.
"""


def is_unaligned(columns: Columns) -> NDArray[np.bool_]:
    """Return which GEMMs have more than 16 rows (m) and no whole number of 16-row tiles."""
    if "m" not in columns:
        return np.zeros(next(iter(columns.values())).shape, dtype=bool)
    m = columns["m"]
    result: NDArray[np.bool_] = (m > ALIGNMENT) & (m % ALIGNMENT != 0)
    return result


def _unaligned(law: Law, columns: Columns) -> tuple[Array, Array]:
    """Return the additional residual of unaligned GEMMs and the half width of its interval."""
    if law.unaligned is not None:
        return law.unaligned.evaluate(columns)
    count = next(iter(columns.values())).size
    return np.zeros(count), np.full(count, UNKNOWN_UNALIGNED)
