"""Grafana dashboard of the health-check gauges: which GPUs are slow, by how much, since when."""

import json
from typing import Any

SCHEMA_VERSION = 39
"""Schema version of the dashboard JSON that Grafana 11 writes; later versions read it."""

VERDICTS = {"0": ("OK", "green"), "1": ("WARN", "yellow"), "2": ("FAIL", "red"),
            "3": ("UNKNOWN", "gray")}  # fmt: skip


def dashboard_json() -> str:
    """Return the dashboard as JSON, to be imported into Grafana or provisioned."""
    loss, value = "groundspeed_loss_ratio", "groundspeed_value"
    worst = f'topk(20, max by (node, gpu, metric) ({loss}{{node=~"$node"}}))'
    unit = "{{node}} gpu {{gpu}}"
    panels = [
        _count(1, "Nodes that fail", 0, 2, "red"),
        _count(2, "Nodes with a warning", 6, 1, "yellow"),
        _count(3, "Nodes that cannot be judged", 12, 3, "gray"),
        _panel(4, "stat", "Oldest check", (18, 0, 6, 5),
               "max(time() - groundspeed_check_timestamp_seconds)", unit="s",
               thresholds=(("green", None), ("yellow", 86_400))),
        _panel(5, "table", "Worst units", (0, 5, 24, 9), worst, unit="percentunit", instant=True,
               thresholds=(("green", None), ("yellow", 0.024), ("red", 0.05))),
        _panel(6, "state-timeline", "Verdict of each node", (0, 14, 24, 8),
               'groundspeed_node_verdict{node=~"$node"}', legend="{{node}}", mappings=True),
        _panel(7, "timeseries", "Loss against its class: $metric", (0, 22, 24, 10),
               f'{loss}{{node=~"$node",metric=~"$metric"}}', unit="percentunit",
               legend=unit + " {{metric}}"),
        _panel(8, "timeseries", "Temperature", (0, 32, 12, 8),
               f'{value}{{node=~"$node",metric="temperature_c"}}', unit="celsius", legend=unit),
        _panel(9, "timeseries", "Power", (12, 32, 12, 8),
               f'{value}{{node=~"$node",metric="power_w"}}', unit="watt", legend=unit),
    ]  # fmt: skip
    document = {
        "uid": "groundspeed",
        "title": "groundspeed: is every GPU as fast as its class?",
        "tags": ["groundspeed", "gpu"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-7d", "to": "now"},
        "templating": {"list": [_source(), _choice("node"), _choice("metric")]},
        "panels": panels,
    }
    return json.dumps(document, indent=1)


def _count(number: int, title: str, x: int, verdict: int, colour: str) -> dict[str, Any]:
    query = f"count(groundspeed_node_verdict == {verdict}) or vector(0)"
    thresholds = (("green", None), (colour, 1.0))
    return _panel(number, "stat", title, (x, 0, 6, 5), query, thresholds=thresholds)


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _choice(label: str) -> dict[str, Any]:
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": {"query": f"label_values(groundspeed_verdict, {label})", "refId": label},
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(
    number: int,
    kind: str,
    title: str,
    place: tuple[int, int, int, int],
    query: str,
    *,
    unit: str = "none",
    legend: str = "",
    instant: bool = False,
    thresholds: tuple[tuple[str, float | None], ...] = (("green", None),),
    mappings: bool = False,
) -> dict[str, Any]:
    x, y, width, height = place
    source = {"type": "prometheus", "uid": "${source}"}
    target: dict[str, Any] = {
        "refId": "A",
        "datasource": source,
        "expr": query,
        "legendFormat": legend,
    }
    if instant:
        target |= {"instant": True, "range": False, "format": "table"}
    steps = [{"color": colour, "value": value} for colour, value in thresholds]
    defaults: dict[str, Any] = {
        "unit": unit,
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [],
    }
    if mappings:
        options = {
            value: {"text": text, "color": colour} for value, (text, colour) in VERDICTS.items()
        }
        defaults["mappings"] = [{"type": "value", "options": options}]
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": source,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "targets": [target],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {},
    }
