"""From a stream of samples to a number with an error bar, and what is odd about the stream.

Timings are not normal: they have a floor, a long tail, and neighbours in time resemble each
other. So the number is the median, its spread is quantiles, and its 90 % interval comes from a
bootstrap over *blocks* of neighbouring samples (shuffling single samples would pretend that they
are independent and give an interval several times too narrow).

>>> import numpy as np
>>> s = summarize(np.array([1.0, 1.1, 1.0, 1.2, 1.0, 1.1, 1.0, 1.0, 1.1, 5.0]))
>>> s.median_s
1.05
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

CONFIDENCE = 0.90
RESAMPLES = 200

DRIFT_FRACTION = 0.05
OUTLIER_FRACTION = 0.10
BIMODAL_GAP = 0.10


@dataclass(frozen=True)
class Summary:
    """The statistics of one case's samples."""

    median_s: float
    q10_s: float
    q90_s: float
    low_s: float
    """Lower end of the 90 % interval of the median."""
    high_s: float
    samples: int


def summarize(samples: Samples, *, seed: int = 0) -> Summary:
    """Median, quantiles and the median's 90 % interval.

    Parameters
    ----------
    samples : (N,) ndarray
        [s] In the order they were taken.
    seed : int, default 0
        Of the bootstrap.

    Raises
    ------
    ValueError
        If there is no sample, or one is not positive and finite.
    """
    if samples.size == 0:
        raise ValueError("no samples")
    if not (np.isfinite(samples).all() and (samples > 0).all()):
        raise ValueError("samples must be positive and finite")
    median = float(np.median(samples))
    low, high = median_interval(samples, seed=seed)
    q10, q90 = np.quantile(samples, (0.1, 0.9))
    return Summary(
        median_s=median,
        q10_s=min(float(q10), median),
        q90_s=max(float(q90), median),
        low_s=min(low, median),
        high_s=max(high, median),
        samples=samples.size,
    )


def median_interval(samples: Samples, *, seed: int = 0) -> tuple[float, float]:
    """90 % interval of the median by a circular moving-block bootstrap.

    The block is the cube root of the number of samples, the usual choice when the length of the
    memory is not known (Hall, Horowitz and Jing, Biometrika 82 (1995) 561).
    """
    n = samples.size
    if n == 1:
        return float(samples[0]), float(samples[0])
    block = max(1, round(n ** (1.0 / 3.0)))
    blocks = -(-n // block)
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, n, size=(RESAMPLES, blocks))
    index = (starts[:, :, None] + np.arange(block)) % n
    medians = np.median(samples[index.reshape(RESAMPLES, -1)[:, :n]], axis=1)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(medians, (tail, 1.0 - tail))
    return float(low), float(high)


def quick_half_width(samples: Samples) -> float:
    """Relative half width of the median's 90 % interval from order statistics, cheap.

    The ranks of a binomial interval, n/2 ± 1.645 sqrt(n)/2: no resampling, so it can be asked
    after every sample.
    """
    n = samples.size
    if n < 2:
        return float("inf")
    ordered = np.sort(samples)
    reach = 1.645 * n**0.5 / 2.0
    low = ordered[max(0, int(np.floor(n / 2.0 - reach)))]
    high = ordered[min(n - 1, int(np.ceil(n / 2.0 + reach)) - 1)]
    return float((high - low) / 2.0 / np.median(samples))


def diagnose(samples: Samples) -> tuple[str, ...]:
    """Name what disturbed a stream of samples.

    Returns
    -------
    tuple of str
        Any of ``drift`` (the last third differs from the first by over 5 %, and by more than
        chance), ``bimodal`` (two clouds with a gap of over 10 % between them), ``outliers`` (over
        10 % of samples beyond five median deviations). Empty for a clean stream.
    """
    tags: list[str] = []
    if samples.size < 10:
        return ("few-samples",)
    median = float(np.median(samples))
    deviation = float(np.median(np.abs(samples - median)))
    third = samples.size // 3
    first, last = samples[:third], samples[-third:]
    change = float(np.median(last) / np.median(first) - 1.0)
    # A difference between two medians of n samples is by chance about 1.25 sigma sqrt(2 / n).
    chance = 3.0 * 1.25 * 1.4826 * deviation / median * (2.0 / third) ** 0.5
    if abs(change) > max(DRIFT_FRACTION, chance):
        tags.append("drift")
    ordered = np.sort(samples)
    edge = max(2, samples.size // 5)
    gaps = np.diff(ordered)[edge - 1 : -(edge - 1) or None]
    if gaps.size:
        at = int(np.argmax(gaps)) + edge
        below, above = ordered[:at], ordered[at:]
        inner = max(np.ptp(below), np.ptp(above[: above.size - above.size // 10]))
        apart = float(np.median(above) / np.median(below) - 1.0)
        if gaps.max() > BIMODAL_GAP * median and gaps.max() > 0.5 * inner and apart > BIMODAL_GAP:
            tags.append("bimodal")
    if "bimodal" not in tags:
        far = np.abs(samples - median) > 5.0 * max(deviation, 0.002 * median)
        if far.mean() > OUTLIER_FRACTION:
            tags.append("outliers")
    return tuple(tags)
