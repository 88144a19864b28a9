"""Read a page of Prometheus metrics of vLLM or SGLang: gauges, histograms, and what changed.

>>> page = parse_page('''# TYPE vllm:num_requests_running gauge
... vllm:num_requests_running{engine="0"} 2
... # TYPE vllm:time_to_first_token_seconds histogram
... vllm:time_to_first_token_seconds_bucket{le="0.1"} 3
... vllm:time_to_first_token_seconds_bucket{le="+Inf"} 4
... vllm:time_to_first_token_seconds_sum 0.5
... vllm:time_to_first_token_seconds_count 4
... ''')
>>> page.engine, page.gauge("num_requests_running"), page.histogram("time_to_first_token_seconds")
('vllm', 2.0, Histogram(count=4.0, total=0.5, edges=(0.1, inf), counts=(3.0, 1.0)))
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from groundspeed.profiles.errors import InputError

ENGINES = ("vllm", "sglang", "trtllm")


@dataclass(frozen=True)
class Histogram:
    """A histogram of one quantity, summed over all labels."""

    count: float
    total: float
    """Sum of all values."""
    edges: tuple[float, ...]
    """Upper ends of the buckets; the last is infinite."""
    counts: tuple[float, ...]
    """Number of values in each bucket."""

    @property
    def mean(self) -> float | None:
        """Mean value; None without any."""
        return self.total / self.count if self.count else None

    def minus(self, earlier: "Histogram | None") -> "Histogram":
        """Return what was added since an earlier page."""
        if earlier is None or earlier.count > self.count:
            return self  # there was no page, or the server has started again
        before = dict(zip(earlier.edges, earlier.counts, strict=True))
        counts = tuple(c - before.get(e, 0.0) for e, c in zip(self.edges, self.counts, strict=True))
        return Histogram(self.count - earlier.count, self.total - earlier.total, self.edges, counts)

    def quantile(self, share: float) -> float | None:
        """Return a quantile, interpolated inside its bucket; None without any value."""
        if not self.count:
            return None
        wanted, below, low = share * self.count, 0.0, 0.0
        for edge, count in zip(self.edges, self.counts, strict=True):
            if below + count >= wanted and count > 0.0:
                if math.isinf(edge):
                    return low
                return low + (edge - low) * (wanted - below) / count
            below += count
            low = edge
        return low

    @property
    def largest_edge(self) -> float | None:
        """Upper end of the highest bucket that has values; None without any."""
        used = [e for e, c in zip(self.edges, self.counts, strict=True) if c > 0.0]
        return used[-1] if used else None


@dataclass(frozen=True)
class Page:
    """One page of metrics of an engine; names are without the engine's prefix."""

    engine: str
    samples: Mapping[str, tuple[tuple[Mapping[str, str], float], ...]]

    def gauge(self, name: str) -> float | None:
        """Return the sum of a gauge or counter over its labels; None if it is absent."""
        found = self.samples.get(name) or self.samples.get(f"{name}_total")
        return sum(value for _, value in found) if found else None

    def info(self, name: str) -> dict[str, str]:
        """Return the labels of a gauge that carries a configuration."""
        found = self.samples.get(name)
        return dict(found[0][0]) if found else {}

    def histogram(self, *names: str) -> Histogram | None:
        """Return the first of some histograms that the page has; None if it has none."""
        for name in names:
            buckets = self.samples.get(f"{name}_bucket")
            if not buckets:
                continue
            upto: dict[float, float] = {}
            for labels, value in buckets:
                edge = float(labels.get("le", "inf"))
                upto[edge] = upto.get(edge, 0.0) + value
            edges = tuple(sorted(upto))
            counts = tuple(
                upto[e] - (upto[edges[i - 1]] if i else 0.0) for i, e in enumerate(edges)
            )
            return Histogram(
                self.gauge(f"{name}_count") or 0.0, self.gauge(f"{name}_sum") or 0.0, edges, counts
            )
        return None


def parse_page(text: str) -> Page:
    """Read a page of metrics.

    Raises
    ------
    InputError
        If it is not in the Prometheus text format.
    """
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    votes: dict[str, int] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                prefix, _, name = sample.name.partition(":")
                if not name:
                    prefix, _, name = sample.name.partition("_")
                if prefix not in ENGINES:
                    continue
                votes[prefix] = votes.get(prefix, 0) + 1
                if "le" in sample.labels:
                    float(sample.labels["le"])
                samples.setdefault(name, []).append((sample.labels, float(sample.value)))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"is no page of Prometheus metrics ({error})") from error
    engine = max(votes, key=lambda k: votes[k]) if votes else ""
    return Page(engine, {name: tuple(found) for name, found in samples.items()})
