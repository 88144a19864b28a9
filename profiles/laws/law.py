"""The record of a fitted law, and its evaluation: a time with an error bar."""

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
    """A formula with coefficients that have names and units."""

    time_s: Callable[[Work, Values], Array]
    coefficients: tuple[str, ...]
    computing: tuple[str, ...] = ()
    """Needed beside those for operations that compute."""


MODEL_FORMS: dict[str, ModelForm] = {
    "soft_roofline": ModelForm(
        soft_roofline.time_s, soft_roofline.COEFFICIENTS, soft_roofline.COMPUTING
    ),
    "gemm": ModelForm(gemm.time_s, gemm.COEFFICIENTS),
    "decode_attention": ModelForm(decode_attention.time_s, decode_attention.COEFFICIENTS),
    "experts": ModelForm(experts.time_s, experts.COEFFICIENTS),
    "prefill_attention": ModelForm(prefill_attention.time_s, prefill_attention.COEFFICIENTS),
}
"""Every formula that a law can have."""

PIECEWISE_LINEAR = "piecewise_linear"
"""The model form without coefficients: linear pieces between knots."""

Origin = Literal["measured", "imported", "transferred", "datasheet"]


LogRatio = Annotated[float, Field(ge=-20.0, le=20.0)]
"""Logarithm of a ratio of times; beyond e^20 nothing is a measurement of the same thing."""

WORK = ("flops", "bytes")
"""What a fit range limits besides the columns: its corner may hold far more work than any point."""


class Coefficient(Record):
    """One fitted constant and its 90 % interval (bootstrap over points)."""

    value: Positive
    low: Positive
    high: Positive


class HeldOutError(Record):
    """How far the law is off on points it has not seen; fractions of the measured time."""

    points: int = Field(ge=0)
    method: str
    median_fraction: NonNegative
    q90_fraction: NonNegative
    log_q05: LogRatio
    """5 % quantile of log(measured / predicted)."""
    log_q50: LogRatio
    """Its median: the bias."""
    log_q95: LogRatio
    """95 % quantile: with ``log_q05`` the 90 % interval of one new measurement."""


class Law(RenamedRecord):
    """A fitted function from an operation to seconds, with what it stands on."""

    old_names: ClassVar[Mapping[str, str]] = {
        "config_key": "regime",
        "model_form": "form",
        "fit_range": "box",
        "piecewise_linear": "knots",
        "residual_gp": "surface",
    }

    operation: str
    config_key: dict[str, str]
    """What it holds for: data type, stream mode, elementwise operation."""
    model_form: str
    coefficients: dict[str, Coefficient]
    fit_range: dict[str, tuple[Positive, Positive]]
    """Smallest and largest value of each column, and of the work, among the fitted points."""
    piecewise_linear: PiecewiseLinear | None = None
    residual_gp: ResidualGP | None = None
    """Residual of the form between the points, and the interval."""
    unaligned: ResidualGP | None = None
    """What products cost more, or less, whose rows are no multiple of 16."""
    points: int = Field(ge=1)
    held_out: HeldOutError
    origin: Origin
    source: str
    """The measurement or publication it was fitted to."""

    @model_validator(mode="after")
    def _known(self) -> "Law":
        if self.operation not in OPERATIONS:
            raise ValueError(
                f"operation '{self.operation}': {did_you_mean(self.operation, OPERATIONS)}"
            )
        if self.model_form not in (*MODEL_FORMS, PIECEWISE_LINEAR):
            raise ValueError(
                f"model form '{self.model_form}': "
                f"{did_you_mean(self.model_form, [*MODEL_FORMS, PIECEWISE_LINEAR])}"
            )
        if (self.model_form == PIECEWISE_LINEAR) != (self.piecewise_linear is not None):
            raise ValueError("only the model form 'piecewise_linear' has a field of that name")
        spec = OPERATIONS[self.operation]
        lacking = [c for c in spec.categories if c not in self.config_key]
        if lacking:
            raise ValueError(f"config key lacks {', '.join(lacking)}")
        if self.piecewise_linear is not None and self.piecewise_linear.column not in spec.columns:
            raise ValueError(
                f"piecewise linear in '{self.piecewise_linear.column}', which is not a column"
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
            raise ValueError(f"fit range has no column {', '.join(sorted(strange))}")
        if any(low > high for low, high in self.fit_range.values()):
            raise ValueError("a fit range ends before it begins")
        return self

    def values(self) -> dict[str, float]:
        """The coefficients without their intervals."""
        return {name: c.value for name, c in self.coefficients.items()}


Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class LawPrediction:
    """Predicted times of N operations."""

    time_s: Array
    """[s] (N,) Median expected."""
    low_s: Array
    """[s] (N,) 5 % quantile of one new measurement."""
    high_s: Array
    """[s] (N,) 95 % quantile."""
    extrapolated: NDArray[np.bool_]
    """(N,) True where an input lies outside the fit range."""


def law_time(law: Law, columns: Columns) -> LawPrediction:
    """Evaluate a law.

    Outside the fit range the physics of the model form holds, but its error is unknown: the
    interval is widened by half its width for each octave (factor of two) outside, and the result
    says ``extrapolated``.

    Parameters
    ----------
    law : Law
    columns : mapping of str to (N,) array_like
        The operation's numeric columns (``m``, ``n``, ``k`` for ``matmul``), all positive.

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
"""Rows at once: intermediate results stay in the cache."""


def _block_time(law: Law, arrays: dict[str, Array]) -> tuple[Array, Array, Array, Flags]:
    """Time, its interval, and whether it is outside the fit range."""
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
"""Octaves by which rounding may put a point outside its own fit range."""

WIDER_AN_OCTAVE = 0.5
"""Widening per octave outside the fit range, in widths of the interval: laws of GEMM between
512 and 16,384 hold all but a few per cent of those up to 65,536 and down to 64."""

ALIGNMENT = 16.0
"""Rows in multiples of this fill the matrix units' smallest tile."""

UNKNOWN_UNALIGNED = 0.25
"""Half width of the 90 % interval, in log time, of an alignment that was never measured: one
library loses nothing at it and another a quarter (published H200 fp8)."""


def is_unaligned(columns: Columns) -> NDArray[np.bool_]:
    """Which products have rows that fill no whole number of tiles."""
    if "m" not in columns:
        return np.zeros(next(iter(columns.values())).shape, dtype=bool)
    m = columns["m"]
    result: NDArray[np.bool_] = (m > ALIGNMENT) & (m % ALIGNMENT != 0)
    return result


def _unaligned(law: Law, columns: Columns) -> tuple[Array, Array]:
    """Additional residual of unaligned GEMMs, and its half width."""
    if law.unaligned is not None:
        return law.unaligned.evaluate(columns)
    count = next(iter(columns.values())).size
    return np.zeros(count), np.full(count, UNKNOWN_UNALIGNED)
