"""Summarize timing samples as a median with a 90 % interval, and detect disturbed samples.

Timings are not normally distributed: they have a lower limit and a long tail, and consecutive
samples are correlated. The summary is therefore the median, its spread is given by quantiles, and
its 90 % interval comes from a bootstrap over *blocks* of consecutive samples. Resampling single
samples would treat them as independent and give an interval several times too narrow.

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
"""Number of bootstrap resamples."""

DRIFT_FRACTION = 0.05
"""Change of the median between the first and last third of the samples that counts as drift."""
OUTLIER_FRACTION = 0.10
"""Share of outlying samples above which a case is tagged ``outliers``."""
BIMODAL_GAP = 0.10
"""Gap between two groups of samples, over the median, that counts as bimodal."""


@dataclass(frozen=True)
class Summary:
    """Statistics of the samples of one case."""

    median_s: float
    q10_s: float
    q90_s: float
    low_s: float
    """[s] Lower end of the 90 % interval of the median."""
    high_s: float
    """[s] Upper end of the 90 % interval of the median."""
    samples: int
    """Number of samples."""


def summarize(samples: Samples, *, seed: int = 0) -> Summary:
    """Compute the median, the 10 % and 90 % quantiles, and the 90 % interval of the median.

    Parameters
    ----------
    samples : (N,) ndarray
        [s] Durations in the order in which they were taken.
    seed : int, default 0
        Random seed of the bootstrap.

    Raises
    ------
    ValueError
        If there are no samples, or a sample is not positive and finite.
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

    The block length is the cube root of the number of samples, the usual choice when the
    correlation length is not known (Hall, Horowitz and Jing, Biometrika 82 (1995) 561).
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
    """Relative half width of the median's 90 % interval, estimated from order statistics.

    The interval has the ranks of a binomial interval, n/2 ± 1.645 sqrt(n)/2. It needs no
    resampling, so it is cheap enough to compute after every sample.
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
    """Return tags that describe disturbances in the samples of a case.

    Returns
    -------
    tuple of str
        Any of ``drift`` (the medians of the first and the last third differ by over 5 %, and by
        more than chance), ``bimodal`` (two groups with a gap of over 10 % between them), and
        ``outliers`` (over 10 % of the samples are more than five median absolute deviations from
        the median). Only ``few-samples`` if there are fewer than ten samples. Empty if the samples
        are undisturbed.
    """
    tags: list[str] = []
    if samples.size < 10:
        return ("few-samples",)
    median = float(np.median(samples))
    deviation = float(np.median(np.abs(samples - median)))
    third = samples.size // 3
    first, last = samples[:third], samples[-third:]
    change = float(np.median(last) / np.median(first) - 1.0)
    # The difference of two medians of n samples each has a standard deviation of about
    # 1.25 sigma sqrt(2 / n); three of them count as more than chance.
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
