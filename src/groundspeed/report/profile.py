"""Build the report of a profile: achieved rates, datasheet peaks, laws, intervals and sources."""

from collections import defaultdict

import numpy as np

from groundspeed.display.show_links import curve_name
from groundspeed.display.terminal import digits, scale_for, shown
from groundspeed.profiles.busbw import busbw
from groundspeed.profiles.laws import law_time
from groundspeed.profiles.schema import Curve, Point, Profile
from groundspeed.profiles.summary import SELECTED
from groundspeed.profiles.utilization import utilization
from groundspeed.report.laws import law_section
from groundspeed.report.page import Axis, Figure, Page, Section, Table, Trace, numbers

SHAPES = ((4096.0, 4096.0), (8192.0, 8192.0), (5120.0, 27648.0), (28672.0, 4096.0))
"""(n, k) of GEMMs of common models (MLP, attention); drawn inside the law's fit range."""

ROWS = np.geomspace(1.0, 16384.0, 60)
"""Values of m in the plots of GEMM rate over m."""


def profile_page(profile: Profile) -> Page:
    """Build the report of one profile."""
    environment, device = profile.environment, profile.device
    sections = [
        s
        for s in (
            _summary(profile),
            _roofline(profile),
            _efficiency(profile),
            _memory(profile),
            _links(profile),
            law_section(profile),
            _telemetry(profile),
            _provenance(profile),
        )
        if s is not None
    ]
    return Page(
        title=device.name,
        subtitle=f"{profile.id}: {profile.mode}, {environment.date_utc}, {environment.telemetry}",
        facts=_facts(profile),
        sections=sections,
        warnings=(*profile.warnings, *_unsteady(profile)),
    )


def _facts(profile: Profile) -> list[tuple[str, str]]:
    facts = []
    for rate in profile.rates[:4]:
        share = f", {rate.utilization:.0%} of peak" if rate.utilization else ""
        facts.append((rate.quantity, shown(rate.value, rate.unit) + share))
    return facts


def _unsteady(profile: Profile) -> list[str]:
    return [
        f"the {s.limit} reference GEMM was {s.verdict}: spread ±{s.spread_fraction:.1%}, drift "
        f"{s.drift_fraction:+.1%} over {s.repeats} repeats"
        for s in profile.stability
        if s.verdict != "steady"
    ]


def _summary(profile: Profile) -> Section:
    rows = []
    for rate in profile.rates:
        divisor, unit = scale_for(rate.value, rate.unit)
        rows.append(
            (
                rate.quantity,
                f"{digits(rate.value / divisor)} {unit}",
                f"{digits(rate.low / divisor)} to {digits(rate.high / divisor)}"
                if rate.low < rate.high
                else "",
                f"{digits(rate.datasheet / divisor)} {unit}" if rate.datasheet else "",
                f"{rate.utilization:.1%}" if rate.utilization else "",
                rate.note,
            )
        )
    tables = [
        Table(
            ("quantity", "achieved", "90 % interval", "datasheet", "utilization", "case"),
            rows,
            "Best case of each kind, measured again with new samples.",
        )
    ]
    shares = utilization(profile)
    if shares:
        seen_by_models = [
            (
                f"{u.phase} {u.config_key}",
                f"{u.rows:,}",
                shown(u.rate, "FLOP/s" if u.phase == "prefill" else "bytes/s"),
                f"{u.share:.0%}" if u.share else "",
                f"{u.low:.0%} to {u.high:.0%}" if u.low and u.high else "",
                "extrapolated" if u.extrapolated else "",
            )
            for u in shares
        ]
        columns = (
            "layers of models",
            "rows (m)",
            "achieved",
            "utilization",
            "90 % interval",
            "",
        )
        tables.append(
            Table(columns, seen_by_models, "Utilization of models, instead of a guessed “60 %”")
        )
    return Section("Achieved rates", tables=tables)


def _roofline(profile: Profile) -> Section | None:
    traces: list[Trace] = []
    intensities: list[float] = []
    for curve in profile.curves:
        points = [p for p in curve.points if p.valid and p.flops > 0 and p.bytes > 0]
        if curve.operation not in ("matmul", "attention_prefill", "attention_decode") or not points:
            continue
        name = f"{curve.operation.replace('_', ' ')} {' '.join(curve.config_key.values())}"
        if curve.backend != "torch":
            name += f" ({curve.backend})"
        x = np.array([p.flops / p.bytes for p in points])
        intensities += [float(x.min()), float(x.max())]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": name,
                "x": numbers(x), "y": numbers(np.array([p.flops / p.time_s for p in points])),
                "text": [_case(p) for p in points], "marker": {"size": 6, "opacity": 0.75},
                "hovertemplate": "%{text}<br>%{y:.3s}FLOP/s at %{x:.3s} FLOP/byte",
            }
        )  # fmt: skip
    low, high = (min(intensities), max(intensities)) if intensities else (1.0, 4096.0)
    span = np.geomspace(low / 1.5, high * 1.5, 100)
    datasheet = profile.datasheet
    if datasheet is not None and datasheet.memory_bandwidth_bytes_per_s is not None:
        bandwidth = datasheet.memory_bandwidth_bytes_per_s.value
        for dtype, peak in datasheet.peak_flops_per_s.items():
            if any(dtype == law.config_key.get("dtype") for law in profile.laws):
                roof = np.minimum(peak.value, span * bandwidth)
                traces.append(_line(f"datasheet {dtype}", span, roof, "dot"))
    for law in profile.laws:
        values = law.values()
        if law.operation == "matmul" and "compute_flops_per_s" in values:
            roof = np.minimum(values["compute_flops_per_s"], span * values["bandwidth_bytes_per_s"])
            traces.append(_line(f"fitted {law.config_key['dtype']}", span, roof, "solid"))
    if not traces:
        return None
    return Section(
        "Roofline",
        "Each point is a measured case: achieved rate over arithmetic intensity. Solid lines are "
        "fitted roofs, dotted lines are datasheet roofs.",
        figures=[
            Figure(
                "roofline", "Roofline.", f"Points of {len(intensities) // 2} curves, and roofs.",
                traces, Axis("FLOP per byte", log=True), Axis("achieved", log=True, unit="FLOP/s"),
                height=500,
            )
        ],
    )  # fmt: skip


def _line(name: str, x: np.ndarray, y: np.ndarray, dash: str, **more: object) -> Trace:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": numbers(x), "y": numbers(y),
        "line": {"dash": dash, "width": 1.6}, **more,
    }  # fmt: skip


def _case(p: Point) -> str:
    columns = ", ".join(f"{name} {value:,.0f}" for name, value in p.case.items())
    return f"{columns}: {shown(p.time_s, 's')}"


def _efficiency(profile: Profile) -> Section | None:
    """Build plots of GEMM rate over m: laws with intervals for several (n, k), and points."""
    figures = []
    for number, law in enumerate(w for w in profile.laws if w.operation == "matmul"):
        traces: list[Trace] = []
        curve = profile.curve("matmul", **law.config_key)
        for n, k in SHAPES:
            columns = {"m": ROWS, "n": np.full(ROWS.size, n), "k": np.full(ROWS.size, k)}
            prediction = law_time(law, columns)
            flops = 2.0 * ROWS * n * k
            inside = ~prediction.extrapolated
            if inside.sum() < 10:
                continue
            name = f"n {n:,.0f}, k {k:,.0f}"
            x, low, high = ROWS[inside], prediction.low_s[inside], prediction.high_s[inside]
            colour = COLOURS[len(traces) // 2 % len(COLOURS)]
            band = np.concatenate([flops[inside] / high, (flops[inside] / low)[::-1]])
            traces.append(
                {
                    "type": "scatter", "mode": "lines", "x": numbers(np.concatenate([x, x[::-1]])),
                    "y": numbers(band), "fill": "toself", "line": {"width": 0, "color": colour},
                    "opacity": 0.25, "hoverinfo": "skip", "showlegend": False, "legendgroup": name,
                }
            )  # fmt: skip
            line = _line(
                name, x, flops[inside] / prediction.time_s[inside], "solid", legendgroup=name
            )
            traces.append({**line, "line": {"color": colour, "width": 2}})
        traces += _near(curve)
        if traces:
            dtype = " ".join(law.config_key.values())
            figures.append(
                Figure(
                    f"efficiency-{number}", f"{dtype}.",
                    "GEMM rate over m. Bands are 90 % intervals of one new measurement, "
                    "crosses are measured points.",
                    traces, Axis("m", log=True), Axis("achieved", log=True, unit="FLOP/s"),
                )
            )  # fmt: skip
    if not figures:
        return None
    return Section("GEMM rate by size", figures=figures)


COLOURS = ("#4477dd", "#d9722e", "#2f9e6e", "#a566cc")


def _near(curve: Curve | None) -> list[Trace]:
    """Return a trace of the measured GEMMs of all shapes."""
    points = [p for p in (curve.points if curve else ()) if p.valid and "m" in p.case]
    if not points:
        return []
    return [
        {
            "type": "scatter", "mode": "markers", "name": "measured (all shapes)",
            "x": numbers(np.array([p.case["m"] for p in points])),
            "y": numbers(np.array([p.flops / p.time_s for p in points])),
            "text": [_case(p) for p in points],
            "marker": {"symbol": "x", "size": 5, "color": "#85898f"},
            "hovertemplate": "%{text}<br>%{y:.3s}FLOP/s",
        }
    ]  # fmt: skip


def _memory(profile: Profile) -> Section | None:
    traces: list[Trace] = []
    for curve in profile.curves:
        if curve.operation not in ("stream", "working_set", "host_link"):
            continue
        points = sorted((p for p in curve.points if p.valid), key=lambda p: _size(p))
        points = [p for p in points if not SELECTED & set(p.tags)]
        if len(points) < 2:
            continue
        name = " ".join([curve.operation.replace("_", " "), *curve.config_key.values()])
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers",
                "name": name + ("" if curve.backend == "torch" else f" ({curve.backend})"),
                "x": numbers(np.array([_size(p) for p in points])),
                "y": numbers(np.array([p.bytes / p.time_s for p in points])),
                "text": [_case(p) for p in points],
                "hovertemplate": "%{text}<br>%{y:.3s}B/s",
            }
        )  # fmt: skip
    if not traces:
        return None
    figure = Figure(
        "memory", "Bandwidth over size.",
        "Each plateau is a cache; the last one is the memory. Click a name to hide it.",
        traces, Axis("working set", log=True, unit="B"), Axis("achieved", log=True, unit="B/s"),
    )  # fmt: skip
    return Section("Memory and host link", figures=[figure])


def _size(p: Point) -> float:
    return p.case.get("working_set_bytes", p.case.get("bytes", p.bytes))


def _links(profile: Profile) -> Section | None:
    by_op: dict[str, list[Trace]] = defaultdict(list)
    regimes = {tuple(sorted(c.config_key.items())): c for c in profile.curves
               if c.operation == "collective"}  # fmt: skip
    for law in profile.laws:
        if law.operation != "collective":
            continue
        op, ranks = law.config_key["op"], int(law.config_key["world_size"])
        low, high = law.fit_range["bytes"]
        size = np.geomspace(low, high, 80)
        prediction = law_time(law, {"bytes": size})
        rate = np.array(
            [busbw(op, ranks, b, t) for b, t in zip(size, prediction.time_s, strict=True)]
        )
        name = f"{ranks} ranks" + (f" {law.config_key['mode']}" if "mode" in law.config_key else "")
        by_op[op].append(_line(name, size, rate, "solid"))
        curve = regimes.get(tuple(sorted(law.config_key.items())))
        points = [p for p in (curve.points if curve else ()) if p.valid]
        if curve is not None and points:
            by_op[op].append(
                {
                    "type": "scatter", "mode": "markers", "name": f"{curve_name(curve)}, measured",
                    "x": numbers(np.array([p.bytes for p in points])),
                    "y": numbers(np.array([busbw(op, ranks, p.bytes, p.time_s) for p in points])),
                    "text": [_case(p) for p in points], "marker": {"size": 6},
                    "hovertemplate": "%{text}<br>%{y:.3s}B/s",
                }
            )  # fmt: skip
    if not by_op:
        return None
    figures = [
        Figure(
            f"links-{op}", f"{op}.", "Bus bandwidth over size, as defined by nccl-tests.", traces,
            Axis("message size", log=True, unit="B"), Axis("bus bandwidth", log=True, unit="B/s"),
            height=380,
        )
        for op, traces in sorted(by_op.items())
    ]  # fmt: skip
    return Section("Links between devices", figures=figures)


def _telemetry(profile: Profile) -> Section | None:
    points = [p for c in profile.curves for p in c.points if p.clock_mhz or p.power_w]
    if len(points) < 3:
        return None
    flops = np.array([p.flops / p.time_s for p in points])
    figures = []
    for name, title, unit in (("clock_mhz", "Clock", "MHz"), ("power_w", "Power", "W"),
                              ("temperature_c", "Temperature", "°C")):  # fmt: skip
        values = [getattr(p, name) for p in points]
        if any(v is not None for v in values):
            measured = np.array([np.nan if v is None else float(v) for v in values])
            trace = {
                "type": "scatter", "mode": "markers", "name": title, "x": numbers(flops),
                "y": numbers(measured), "text": [_case(p) for p in points],
                "marker": {"size": 5}, "hovertemplate": "%{text}<br>%{y} " + unit,
            }  # fmt: skip
            figures.append(
                Figure(
                    f"telemetry-{name}", f"{title}.", f"Median per case, in {unit}.", [trace],
                    Axis("achieved", unit="FLOP/s"), Axis(f"{title} [{unit}]"), height=300,
                )
            )  # fmt: skip
    return Section("Telemetry during the run", figures=figures) if figures else None


def _provenance(profile: Profile) -> Section:
    environment = profile.environment.model_dump(mode="json")
    libraries = environment.pop("libraries")
    rows = [(name.replace("_", " "), str(value)) for name, value in environment.items()
            if value not in (None, "", {})]  # fmt: skip
    rows += [(f"library {name}", str(version)) for name, version in libraries.items()]
    origins = sorted({(law.origin, law.source) for law in profile.laws})
    origin_rows = [(origin, source) for origin, source in origins]
    return Section(
        "Environment and provenance",
        tables=[
            Table(("property", "value"), rows, "Environment of the measurement.", words=(1,)),
            Table(("origin", "source"), origin_rows, "Sources of the laws.", words=(1,)),
        ],
    )
