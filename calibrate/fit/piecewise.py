"""Fit a piecewise linear (alpha-beta) law to time as a function of message size or token count.

Collective timings are noisy where latency dominates (repeats of one size differ by 5 to 10 %) and
steady where bandwidth dominates (1 %). The curve is therefore smoothed in two steps:

1. A base curve with three terms is fitted robustly: a latency, a bandwidth term, and a term
   proportional to the square root of the size (the cost of a pipeline of chunks).
2. A Gaussian process models the logarithm of measured time over base curve.

The knots are the smoothed values at the measured sizes and at the geometric mean of each two
neighbouring sizes. They are made monotone by pooling adjacent values that decrease.

The recorded error is the leave-one-out error over sizes. R2 is not used, because it is misleading
here: alpha + beta x reaches an R2 of 0.998 on curves that it misses by half.
"""

import itertools

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import nnls

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import HeldOutError, Law, PiecewiseLinear
from groundspeed.profiles.laws.law import Origin
from groundspeed.profiles.operations import Array, ConfigKey

FEWEST_SIZES = 4
CORRELATION_OCTAVES = 2.0
"""Correlation length of the residuals, in doublings of the size: a protocol spans several."""

RESIDUAL_LOG_SD = 0.2
"""Standard deviation of log(time / base curve): protocols differ by about a fifth."""

NOISE = {"latency": 0.05, "bandwidth": 0.01}
"""Standard deviation of repeated measurements, in log time, where latency or bandwidth dominates.
Published repeats of NCCL on one node differ by 2 % (median) and 13 % (90 % quantile) up to 64 KiB,
and by 1 % over all sizes."""

ROBUST = 0.05
FLOOR = 0.015
"""Smallest half width of a 90 % interval, in log time: two nodes of one kind differ by this."""

NEIGHBOURHOOD_OCTAVES = 3.0
LEAVE_ONE_OUT_FACTOR = 0.75
"""Factor from leave-one-out errors to the error at a new size. A left-out size is twice as far from
its neighbours as a new size is from the nearest knots, so its error is larger. The value comes from
H200 collectives with every second size held out."""


def fit_piecewise(
    operation: str,
    config_key: ConfigKey,
    size_bytes: Array,
    time_s: Array,
    *,
    origin: Origin,
    source: str,
) -> Law:
    """Fit a piecewise linear law to one curve of time over message size.

    Parameters
    ----------
    operation : str
        Name of an operation whose only column is ``bytes``.
    config_key : mapping of str to str
        Config key of the law, e.g. ``{"op": "all_reduce", "world_size": "8"}``.
    size_bytes, time_s : (N,) ndarray
        [bytes], [s] Message sizes and measured times. Several measurements of one size are
        averaged (geometric mean).
    origin : {'measured', 'imported', 'transferred'}
        How the times were obtained.
    source : str
        Description of the data, stored in the law.

    Raises
    ------
    InputError
        If there are fewer than four different sizes.
    """
    name = f"{operation} {' '.join(config_key.values())}"
    sizes = np.unique(size_bytes)
    times = np.exp([np.log(time_s[size_bytes == size]).mean() for size in sizes])
    if sizes.size < FEWEST_SIZES:
        raise InputError(
            f"fitting a law for {name} needs at least {FEWEST_SIZES} sizes, "
            f"but there are {sizes.size}"
        )
    log_ratio = _leave_one_size_out(sizes, times)
    at, smooth = _fit_knots(sizes, times)
    spread = _local_spread(at, sizes, log_ratio)
    piecewise_linear = PiecewiseLinear(
        column="bytes",
        scale="linear",
        at=tuple(at.tolist()),
        time_s=tuple(smooth.tolist()),
        log_spread=tuple(spread.tolist()),
    )
    held_out = _error_of(log_ratio, "leave one size out")
    return _make_law(operation, config_key, piecewise_linear, sizes, held_out, origin, source)


def fit_token_counts(
    operation: str,
    config_key: ConfigKey,
    tokens: Array,
    time_s: Array,
    *,
    origin: Origin,
    source: str,
) -> Law:
    """Fit a piecewise linear law to the time of one MoE layer's experts over the token count.

    The curve depends on how many experts are hit and on how full their tiles are. One formula for
    all configurations misses it by 11 to 30 % (median, published tables). A monotone curve in
    log-log coordinates through the seven points of a single configuration has a median error of
    3 to 4 %.

    Parameters
    ----------
    operation : str
        Name of an operation whose only column is ``tokens``.
    config_key : mapping of str to str
        Config key of the law: data type, sizes and number of experts, ...
    tokens, time_s : (N,) ndarray
        Token counts, and [s] measured times. Several measurements of one token count are averaged
        (geometric mean).
    origin : {'measured', 'imported', 'transferred'}
        How the times were obtained.
    source : str
        Description of the data, stored in the law.

    Raises
    ------
    InputError
        If there are fewer than two different token counts.
    """
    counts = np.unique(tokens)
    if counts.size < 2:
        raise InputError(
            f"fitting a law for {operation} {' '.join(config_key.values())} needs at least two "
            "different token counts"
        )
    times = np.exp([np.log(time_s[tokens == count]).mean() for count in counts])
    rising = pool_adjacent_violators(np.log(times))
    at = _refine_token_counts(counts)
    curve = _monotone_curve(counts, rising, at)
    inner = np.arange(1, counts.size - 1)
    log_ratio = np.array(
        [
            np.log(times[i])
            - _monotone_curve(np.delete(counts, i), np.delete(rising, i), counts[i : i + 1])[0]
            for i in inner
        ]
    )
    if log_ratio.size == 0:
        log_ratio = np.array([0.0])
    between = counts[inner] if inner.size else counts[:1]
    spread = (
        SWEEP_LEAVE_ONE_OUT_FACTOR / LEAVE_ONE_OUT_FACTOR * _local_spread(at, between, log_ratio)
    )
    piecewise_linear = PiecewiseLinear(
        column="tokens",
        scale="log",
        at=tuple(at.tolist()),
        time_s=tuple(np.maximum.accumulate(np.exp(curve)).tolist()),
        log_spread=tuple(np.maximum(spread, SWEEP_FLOOR).tolist()),
    )
    held_out = _error_of(log_ratio, "leave one inner token count out")
    return _make_law(operation, config_key, piecewise_linear, counts, held_out, origin, source)


def _make_law(
    operation: str,
    config_key: ConfigKey,
    piecewise_linear: PiecewiseLinear,
    seen: Array,
    held_out: HeldOutError,
    origin: Origin,
    source: str,
) -> Law:
    """Build the ``Law`` record of a piecewise linear fit to the sizes or counts in ``seen``."""
    return Law(
        operation=operation,
        config_key=dict(config_key),
        model_form="piecewise_linear",
        coefficients={},
        piecewise_linear=piecewise_linear,
        fit_range={piecewise_linear.column: (float(seen[0]), float(seen[-1]))},
        points=seen.size,
        held_out=held_out,
        origin=origin,
        source=source,
    )


def _refine_token_counts(counts: Array) -> Array:
    """Return the counts with three log-spaced values inserted between each two neighbours."""
    log = np.log(counts)
    places = [np.linspace(a, b, PIECES + 1)[:-1] for a, b in itertools.pairwise(log)]
    token_counts: Array = np.exp(np.append(np.concatenate(places), log[-1]))
    token_counts[::PIECES] = counts
    return token_counts


def _monotone_curve(counts: Array, log_times: Array, at: Array) -> Array:
    """Interpolate log times by PCHIP over log counts, which is monotone if the points are."""
    if counts.size < 2:
        return np.full(at.size, float(log_times[0]))
    result: Array = PchipInterpolator(np.log(counts), log_times)(np.log(at))
    return result


PIECES = 4
SWEEP_LEAVE_ONE_OUT_FACTOR = 0.5
"""Factor from leave-one-out errors to the error at a new token count. With seven counts, a left-out
count is five octaves from its neighbours, and a new one half as far."""

SWEEP_FLOOR = 0.05
"""Smallest half width of a 90 % interval of a token sweep, in log time."""


def _error_of(log_ratio: Array, method: str) -> HeldOutError:
    error = np.abs(np.exp(-log_ratio) - 1.0)
    q05, q50, q95 = np.quantile(log_ratio, (0.05, 0.5, 0.95))
    return HeldOutError(
        points=log_ratio.size,
        method=method,
        median_fraction=float(np.median(error)),
        q90_fraction=float(np.quantile(error, 0.9)),
        log_q05=float(q05),
        log_q50=float(q50),
        log_q95=float(q95),
    )


def _fit_knots(sizes: Array, times: Array) -> tuple[Array, Array]:
    """Return knots at the sizes and at their geometric means, and the monotone times there."""
    half_way = np.sqrt(sizes[1:] * sizes[:-1])
    at = np.sort(np.concatenate([sizes, half_way]))
    return at, np.exp(pool_adjacent_violators(np.log(_smooth(sizes, times, at))))


def _smooth(sizes: Array, times: Array, at: Array) -> Array:
    """Return the base curve multiplied by the exponential of the residual GP, at ``at``."""
    constants = _fit_base_curve(sizes, times)

    def base(x: Array) -> Array:
        result: Array = _powers(x) @ constants
        return result

    residual = np.log(times / base(sizes))
    latency_rules = constants[0] > 0.5 * base(sizes)
    noise = np.where(latency_rules, NOISE["latency"], NOISE["bandwidth"])

    def related(a: Array, b: Array) -> Array:
        octaves = np.abs(np.log2(a)[:, None] - np.log2(b)[None, :])
        result: Array = RESIDUAL_LOG_SD**2 * np.exp(-octaves / CORRELATION_OCTAVES)
        return result

    weights = np.linalg.solve(related(sizes, sizes) + np.diag(noise**2), residual)
    result: Array = base(at) * np.exp(related(at, sizes) @ weights)
    return result


def _powers(x: Array) -> Array:
    return np.stack([np.ones_like(x), np.sqrt(x), x], axis=1)


def _fit_base_curve(sizes: Array, times: Array) -> Array:
    """Fit the latency, square-root and bandwidth constants: non-negative, robust to outliers."""
    columns = _powers(sizes)
    scale = columns.max(axis=0)
    weight = 1.0 / times
    constants = np.zeros(3)
    for _ in range(4):
        scaled, _ = nnls(columns / scale * weight[:, None], times * weight)
        constants = scaled / scale
        residual = np.log(times / np.maximum(columns @ constants, 1e-30))
        weight = 1.0 / times / (1.0 + (residual / ROBUST) ** 2) ** 0.25
    return constants


def pool_adjacent_violators(values: Array) -> Array:
    """Return the closest non-decreasing sequence (pool adjacent violators, least squares).

    >>> pool_adjacent_violators(np.array([1.0, 3.0, 2.0, 4.0]))
    array([1. , 2.5, 2.5, 4. ])
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, m), (a, n) = pools.pop(), pools.pop()
            pools.append(((a * n + b * m) / (n + m), n + m))
    return np.concatenate([np.full(n, value) for value, n in pools])


def _leave_one_size_out(sizes: Array, times: Array) -> Array:
    """Return log(measured / predicted) of each size from a fit without it.

    The smallest and the largest size are extrapolated.
    """
    log_ratio = np.empty(sizes.size)
    for i in range(sizes.size):
        rest = np.arange(sizes.size) != i
        at, smooth = _fit_knots(sizes[rest], times[rest])
        piecewise_linear = PiecewiseLinear(
            column="bytes",
            scale="linear",
            at=tuple(at.tolist()),
            time_s=tuple(smooth.tolist()),
            log_spread=(0.0,) * at.size,
        )
        log_ratio[i] = np.log(times[i] / piecewise_linear.evaluate(sizes[i : i + 1])[0])
    return log_ratio


def _local_spread(at: Array, sizes: Array, log_ratio: Array) -> Array:
    """Half width of the 90 % interval at each knot, from leave-one-out errors of nearby sizes."""
    spread = np.empty(at.size)
    for i, place in enumerate(at):
        octaves = np.abs(np.log2(sizes / place))
        weight = np.exp(-0.5 * (octaves / NEIGHBOURHOOD_OCTAVES) ** 2)
        scale = np.sqrt((weight * log_ratio**2).sum() / weight.sum())
        spread[i] = max(FLOOR, LEAVE_ONE_OUT_FACTOR * 1.645 * scale)
    return spread
