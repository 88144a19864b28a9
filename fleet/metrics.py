"""Look up by its name how a metric is judged: direction, normal spread, and losses that count.

The spreads come from public fleets (1,224 A100 of Azure, 6,992 A100 of Perlmutter, ten H100 nodes):
from GPU to GPU, matmul throughput varies by 0.8 %, memory bandwidth by 0.3 %, NVLink bandwidth by
0.1 %, and launch time by 3 %. A loss counts only if it is both large enough to matter
(``warn_loss``, ``fail_loss``) and larger than the normal spread explains.

    facts_of("hbm_read").warn_loss
"""

import functools
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from groundspeed.fleet.counters import counter_of
from groundspeed.fleet.kinds import UNJUDGED, Kind
from groundspeed.fleet.settings import setting_of


@dataclass(frozen=True)
class MetricFacts:
    """Facts that decide how the values of a metric are judged."""

    kind: Kind
    higher_is_better: bool
    warn_loss: float
    """[1] Smallest loss that gives a warning."""
    fail_loss: float
    """[1] Smallest loss that gives a failure."""
    spread: float
    """[1] Standard deviation of the logarithm of the metric among healthy devices of one class."""
    skewed: bool = False
    """Healthy devices have a tail on the slow side; the slowest tenth then sets the spread."""


RULES: tuple[tuple[str, MetricFacts], ...] = (
    (r"temp(erature)?(_|$)|(^|_)g?temp|power|clock|fan(_|$)|util(ization)?(_|$)|throttle|slowdown|"
     r"violation|numa_node|return_code|^(pwr|mtemp|gtemp|sm|mem|enc|dec|jpg|ofa|mclk|pclk|sclk)$",
     MetricFacts("telemetry", True, 1.0, 1.0, 1.0)),
    (r"launch|kernel_time", MetricFacts("launch", False, 0.15, 0.30, 0.034)),
    (r"ib_loopback|loopback", MetricFacts("network", True, 0.10, 0.20, 0.030, skewed=True)),
    (r"all_reduce_ib|_ib_|^ib_|internode|roce|nic",
     MetricFacts("network", True, 0.03, 0.08, 0.003)),
    (r"nvlink|xgmi|all_reduce|all_gather|reduce_scatter|all_?to_?all|p2p|busbw|nccl|rccl",
     MetricFacts("nvlink", True, 0.02, 0.05, 0.0015)),
    (r"(h2d|d2h|pcie|host).*(cpu|numa|socket|node)_?\d",
     MetricFacts("host_link", True, 0.15, 0.25, 0.05)),
    (r"d2h|dtoh|device_to_host", MetricFacts("host_link", True, 0.08, 0.15, 0.012)),
    (r"h2d|htod|host_to_device|pcie|host_link",
     MetricFacts("host_link", True, 0.05, 0.10, 0.003)),
    (r"vector|fp64|non_tc", MetricFacts("vector", True, 0.024, 0.05, 0.003)),
    (r"matmul|gemm|flops|tflops|tensor", MetricFacts("tensor", True, 0.022, 0.05, 0.0080)),
    (r"hbm|memory|stream|copy|triad|read|write|bandwidth",
     MetricFacts("memory", True, 0.02, 0.05, 0.003)),
    (r"tokens_per_s|samples_per_s|requests_per_s|throughput",
     MetricFacts("model", True, 0.04, 0.08, 0.01)),
    (r"ttft|tpot|latency|time|_ms$|_us$|_s$", MetricFacts("model", False, 0.04, 0.08, 0.01)),
)  # fmt: skip
"""Name pattern and facts of each kind of metric; the first pattern that matches is used."""

UNKNOWN = MetricFacts("other", True, 0.05, 0.10, 0.02)


TIME_UNITS = ("s", "ms", "us", "µs", "ns", "seconds", "milliseconds", "microseconds")
RATE_NAME = re.compile(r"per_s(ec(ond)?)?$|/s$|throughput")
TIME_NAME = re.compile(r"(^|_)(time|latency|duration|ttft|tpot|itl)(_|$)|_(s|ms|us|ns)$")


def is_time(metric: str, unit: str = "") -> bool | None:
    """Return whether lower values are better, from the unit, else from the name; None if unknown.

    >>> is_time("gemm_time_ms"), is_time("tokens_per_s"), is_time("nccl", "us"), is_time("thing")
    (True, False, True, None)
    """
    if unit.strip().lower() in TIME_UNITS:
        return True
    if unit.strip().lower().endswith("/s") or "flop" in unit.lower():
        return False
    if RATE_NAME.search(metric.lower()):
        return False
    return True if TIME_NAME.search(metric.lower()) else None


TELEMETRY = MetricFacts("telemetry", True, 1.0, 1.0, 1.0)


@functools.lru_cache(maxsize=4096)
def _facts(name: str) -> MetricFacts:
    """Return the facts that a name (in lower case) gives."""
    if not is_rate_name(name):
        if counter_of(name) is not None:
            return replace(TELEMETRY, kind="counter")
        if setting_of(name) is not None:
            return replace(TELEMETRY, kind="setting")
    return next((facts for pattern, facts in RULES if re.search(pattern, name)), UNKNOWN)


def is_rate_name(name: str) -> bool:
    """Return whether a name is that of a rate, whatever else it holds.

    >>> is_rate_name("gemm_gflops"), is_rate_name("pcie_link_width")
    (True, False)
    """
    return re.search(r"flops|gbps|gb_s|busbw|bandwidth|tokens_per_s|_bw($|_)", name) is not None


def facts_of(metric: str, lower_is_better: Collection[str] = (), unit: str = "") -> MetricFacts:
    """Return how a metric is judged, from its name and its unit.

    Parameters
    ----------
    metric : str
        Name of the metric, e.g. ``matmul_bf16``.
    lower_is_better : collection of str
        Names of metrics for which lower is better, whatever the name suggests. Default: none.
    unit : str
        Unit of the values. For a unit of time lower is better, whatever the name suggests.
        Default: unknown, so that the name decides.
    """
    name = metric.lower()
    facts_found = _facts(name)
    less = is_time(metric, unit)
    if less is not None and facts_found.kind not in UNJUDGED:
        facts_found = replace(facts_found, higher_is_better=not less)
    if metric in lower_is_better:
        return replace(facts_found, higher_is_better=False)
    return facts_found
