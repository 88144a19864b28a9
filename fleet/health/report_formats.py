"""Format a health check for Nagios, node-problem-detector and Prometheus.

Nagios expects one line with a vertical bar and performance data; its exit codes are 0, 1, 2, 3. The
node-problem-detector of Kubernetes has three exit codes (0 no problem, 1 a problem, 2 unknown) and
shows eighty characters. Prometheus reads gauges from a file, through node_exporter, or from a port.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from groundspeed.fleet.health.node_health import EXIT_CODES, Health, Judged
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry, Metric

NPD_CODES = {"OK": 0, "WARN": 0, "FAIL": 1, "UNKNOWN": 2}
"""Exit codes for node-problem-detector. WARN is no problem: pods may still be scheduled here."""

NPD_CHARACTERS = 80


def nagios_line(health: Health) -> str:
    """Return the check as one line with performance data, the output of a Nagios plugin.

    >>> from groundspeed.fleet.health.node_health import unknown_health
    >>> nagios_line(unknown_health("n1", "the GPU is busy"))
    'GROUNDSPEED UNKNOWN - the GPU is busy'
    """
    head = f"GROUNDSPEED {health.state} - {_plain(health.summary)}"
    data = " ".join(_performance(row) for row in health.rows if row.value is not None)
    return f"{head} | {data}" if data else head


def _performance(row: Judged) -> str:
    """Return a row as ``'label'=value;warn;crit``; a range ``x:`` alerts below x."""
    label = row.metric if row.gpu is None else f"gpu{row.gpu}_{row.metric}"
    label = "".join(c if c.isalnum() or c in "_.-" else "_" for c in label)

    def limit(at: float | None) -> str:
        if at is None or row.expected is None:
            return ""
        return f"{at:.6g}:" if at < row.expected else f"{at:.6g}"

    unit = "s" if row.unit == "s" else ""
    return f"'{label}'={row.value:.6g}{unit};{limit(row.warn_at)};{limit(row.fail_at)}"


def npd_line(health: Health) -> str:
    """Return the state and the summary in at most eighty characters."""
    return f"{health.state}: {_plain(health.summary)}"[:NPD_CHARACTERS]


def _plain(text: str) -> str:
    """Return the text without characters that end a line or begin performance data."""
    return " ".join(text.replace("|", "/").split())


def registry_of(health: Health) -> "CollectorRegistry":
    """Return a Prometheus registry with the gauges of a check."""
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()

    def gauge(name: str, what: str, *labels: str) -> "Gauge":
        return Gauge(f"groundspeed_{name}", what, labels, registry=registry)

    each = ("node", "gpu", "metric")
    value = gauge("value", "Measured value, in SI units", *each, "unit")
    expected = gauge("expected", "Usual value of its class, in SI units", *each, "unit")
    loss = gauge("loss_ratio", "Fraction of the usual rate that is missing", *each)
    verdict = gauge("verdict", "Verdict on the metric: 0 OK, 1 WARN, 2 FAIL, 3 UNKNOWN", *each)
    for row in health.rows:
        labels = (health.node, "" if row.gpu is None else str(row.gpu), row.metric)
        if row.value is not None:
            value.labels(*labels, row.unit).set(row.value)
        if row.expected is not None:
            expected.labels(*labels, row.unit).set(row.expected)
        if row.loss_fraction is not None:
            loss.labels(*labels).set(row.loss_fraction)
        if row.state is not None:
            verdict.labels(*labels).set(EXIT_CODES[row.state])
    whole = gauge("node_verdict", "Verdict on the node: 0 OK, 1 WARN, 2 FAIL, 3 UNKNOWN", "node")
    whole.labels(health.node).set(EXIT_CODES[health.state])
    date = gauge("check_timestamp_seconds", "Unix time at which the check ended", "node")
    date.labels(health.node).set_to_current_time()
    return registry


def write_textfile(health: Health, path: Path) -> None:
    """Write a file for node_exporter's textfile collector atomically.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    registry = registry_of(health)
    from prometheus_client import write_to_textfile

    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from error


class LatestHealth:
    """Prometheus collector that serves the newest check of this node."""

    def __init__(self) -> None:
        self._registry: CollectorRegistry | None = None

    def show(self, health: Health) -> None:
        """Replace the check that is served."""
        self._registry = registry_of(health)

    def collect(self) -> "Iterator[Metric]":
        """Yield the gauges of the newest check; prometheus-client calls this for every request."""
        if self._registry is not None:
            yield from self._registry.collect()

    def serve(self, port: int, address: str) -> None:
        """Serve the gauges over HTTP on a port, in background threads.

        Raises
        ------
        InputError
            If the address and port cannot be bound, e.g. because the port is taken.
        """
        from prometheus_client import CollectorRegistry, start_http_server

        outer = CollectorRegistry()
        outer.register(self)
        try:
            start_http_server(port, address, outer)
        except OSError as error:
            raise InputError(
                f"cannot listen on {address}:{port} ({error.strerror})", where="--port"
            ) from error
