"""Derive the summary of a profile, i.e. the achieved rates of a device, from its curves.

Each rate is that of the best case of its kind, measured *again* with new samples. The best of many
noisy measurements is too optimistic by selection (winner's curse); its repetition is not. The
interval combines the sampling error of that repetition with the drift of the machine during the
whole run.

    rates = derive_rates(profile.curves, profile.datasheet, profile.stability, cache_bytes=50e6)
"""

import math
from collections import defaultdict

import numpy as np

from groundspeed.profiles.busbw import REDUCED_IN_NETWORK, bus_factor
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.laws.cache_levels import find_cache_levels
from groundspeed.profiles.schema import Curve, Point, Rate, Stability

BEYOND_CACHE = 4.0
"""Streams of at least this many times the last-level cache measure memory, not the cache."""

PEAK = "peak-search"
"""Tag of points from the search for the best shape."""

SUSTAINED = "sustained"
"""Tag of points that ran for seconds."""

WINNER = "winner"
"""Tag of the repetition of the best case with new samples."""

SELECTED = frozenset({PEAK, SUSTAINED, WINNER})
"""Tags of points that were selected as fast; laws are not fitted to such a biased sample."""


def derive_rates(
    curves: tuple[Curve, ...],
    datasheet: DeviceSpec | None,
    stability: tuple[Stability, ...],
    cache_bytes: float | None,
) -> tuple[Rate, ...]:
    """Derive the achieved rates from the curves.

    Parameters
    ----------
    curves : tuple of Curve
    datasheet : DeviceSpec or None
        Datasheet whose rates are the reference of the utilization; None gives no utilization.
    stability : tuple of Stability
        Spread of the machine during the run, by which the intervals are widened.
    cache_bytes : float or None
        [bytes] Size of the last-level cache: memory rates use streams of at least four times this.

    Returns
    -------
    tuple of Rate
        Compute rates (FLOP/s), then bandwidths (bytes/s), then times (s).
    """
    spreads = {s.limit: s.spread_fraction for s in stability}
    compute, memory = spreads.get("compute", 0.0), spreads.get("memory", 0.0)
    rates: list[Rate] = []
    for curve in curves:
        points = [p for p in curve.points if p.valid]
        if not points:
            continue
        winner = _winner(curve, points, cache_bytes)
        if curve.operation in ("matmul", "stream") and not (winner.flops or winner.bytes):
            continue  # no work, no rate: the physics check reports the point
        if curve.operation == "matmul":
            dtype = curve.config_key["dtype"]
            quantity = datasheet.peak(dtype) if datasheet else None
            name = f"matmul {dtype}" + ("" if curve.backend == "torch" else f" ({curve.backend})")
            shape = " x ".join(f"{winner.case[c]:.0f}" for c in ("m", "n", "k"))
            peak = quantity.value if quantity else None
            rates.append(_rate(name, "FLOP/s", winner.flops, winner, compute, peak, shape))
        elif curve.operation == "stream":
            bandwidth = datasheet.memory_bandwidth_bytes_per_s if datasheet else None
            name = f"memory {curve.config_key['mode']}"
            if curve.backend != "torch":
                name += f" ({curve.backend})"
            size = f"{winner.bytes / 1e6:.0f} MB moved"
            peak = bandwidth.value if bandwidth else None
            if winner.bytes < (cache_bytes or 0.0):
                # What fits into the cache says nothing about memory.
                name, peak = name.replace("memory", "cache", 1), None
                size += f", the cache holds {(cache_bytes or 0.0) / 1e6:.0f} MB"
            rates.append(_rate(name, "bytes/s", winner.bytes, winner, memory, peak, size))
        elif curve.operation in PLAIN_RATES or (
            curve.operation in MEASURED_RATES and curve.origin == "measured"
        ):
            rates.append(_plain_rate(curve, points, datasheet, compute, memory))
        elif curve.operation == "collective":
            rates += _collective_rates(curve, points, datasheet)
        elif curve.operation == "p2p":
            rates.append(_pair_rate(curve, points))
        elif curve.operation == "working_set":
            rates += _cache_level_rates(points, memory)
        elif curve.operation == "launch":
            rates.append(_duration(f"launch {curve.config_key['op']}", points[0], compute))
        elif curve.operation == "latency":
            for point in points:
                size = size_text(point.case.get("bytes", 0.0))
                rates.append(_duration(f"load latency in {size}", point, memory))
    order = {"FLOP/s": 0, "bytes/s": 1, "s": 2}
    return tuple(sorted(rates, key=lambda r: order[r.unit]))


PLAIN_RATES = {
    "matmul_sustained": ("FLOP/s", "matmul {dtype} sustained"),
    "matmul_data": ("FLOP/s", "matmul {dtype} on {data}"),
    "attention_prefill": ("FLOP/s", "attention prefill {dtype}"),
    "attention_decode": ("bytes/s", "attention decode {dtype}"),
    "moe": ("FLOP/s", "experts {dtype} {distribution}"),
    "host_link": ("bytes/s", "host link {direction} {memory}"),
}
"""Unit and name of the rates that are simply the best point of a curve, by operation."""

MEASURED_RATES = {
    "experts": ("FLOP/s", "experts {dtype} {distribution}"),
    "mla_decode": ("bytes/s", "latent attention decode {kv_dtype}"),
    "mla_prefill": ("FLOP/s", "latent attention prefill {dtype}"),
}
"""As above, for curves that were measured: published tables hold no best case."""


def _plain_rate(
    curve: Curve, points: list[Point], datasheet: DeviceSpec | None, compute: float, memory: float
) -> Rate:
    unit, title = (PLAIN_RATES | MEASURED_RATES)[curve.operation]
    work = "flops" if unit == "FLOP/s" else "bytes"
    best = max(points, key=lambda p: getattr(p, work) / p.time_s)
    config_key = defaultdict(str, curve.config_key)
    name = title.format_map(config_key)
    if curve.backend != "torch":
        name += f" ({curve.backend})"
    peak = None
    if datasheet is not None and unit == "FLOP/s":
        quantity = datasheet.peak(config_key["dtype"])
        peak = quantity.value if quantity else None
    elif datasheet is not None and curve.operation == "attention_decode":
        bandwidth = datasheet.memory_bandwidth_bytes_per_s
        peak = bandwidth.value if bandwidth else None
    spread = compute if unit == "FLOP/s" else memory
    return _rate(name, unit, getattr(best, work), best, spread, peak, "best of its curve")


def _cache_level_rates(points: list[Point], spread: float) -> list[Rate]:
    """Return the read bandwidth of each level of the memory hierarchy, smallest level first."""
    sizes = np.array([p.case["bytes"] for p in points])
    speeds = np.array([p.bytes / p.time_s for p in points])
    rates = []
    for level, plateau in enumerate(find_cache_levels(sizes, speeds), start=1):
        on_it = [
            p for p in points if plateau.smallest_bytes <= p.case["bytes"] <= plateau.largest_bytes
        ]
        middle = sorted(on_it, key=lambda p: p.bytes / p.time_s)[len(on_it) // 2]
        reach = " to ".join(
            size_text(size) for size in (plateau.smallest_bytes, plateau.largest_bytes)
        )
        name = f"read level {level}"
        rates.append(_rate(name, "bytes/s", middle.bytes, middle, spread, None, reach))
    return rates


def _collective_rates(
    curve: Curve, points: list[Point], datasheet: DeviceSpec | None
) -> list[Rate]:
    """Return the bus bandwidth at the best size and the latency of the smallest message."""
    op, ranks = curve.config_key["op"], int(curve.config_key["world_size"])
    factor = bus_factor(op, ranks)
    best = max(points, key=lambda p: p.bytes / p.time_s)
    least = min(points, key=lambda p: p.bytes)
    wire = datasheet.scaleup_bandwidth_bytes_per_s if datasheet else None
    name = f"{op} x{ranks}" + "".join(f" {word}" for word in (_hosts(curve), _mode(curve)) if word)
    note = f"busbw at {size_text(best.bytes)}"
    peak = wire.value if wire and not _hosts(curve) else None
    rate = _rate(name, "bytes/s", factor * best.bytes, best, 0.0, peak, note)
    if peak and rate.value > peak and op in REDUCED_IN_NETWORK:
        rate = rate.model_copy(update={"note": f"{note}, in-network reduction"})
    if least.bytes > MOST_LATENCY_BYTES:
        return [rate]  # the time of a large message is no latency
    return [rate, _duration(f"{name} latency", least, 0.0)]


MOST_LATENCY_BYTES = 64 * 2**10
"""[bytes] Largest message whose time is a latency: on any link its bytes take a few us."""


def size_text(size_bytes: float) -> str:
    """Return a size in binary units.

    >>> size_text(2**33), size_text(1.5 * 2**20)
    ('8 GiB', '1.5 MiB')
    """
    for unit, scale in (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.4g} {unit}"
    return f"{size_bytes:.0f} B"


def _hosts(curve: Curve) -> str:
    return f"on {curve.config_key['hosts']} hosts" if "hosts" in curve.config_key else ""


def _mode(curve: Curve) -> str:
    return "in a graph" if curve.config_key.get("mode") == "graph" else ""


def _pair_rate(curve: Curve, points: list[Point]) -> Rate:
    """Return the bandwidth of the median pair of devices, with a note on the slowest pair."""
    ordered = sorted(points, key=lambda p: p.bytes / p.time_s)
    slowest, usual = ordered[0], ordered[len(ordered) // 2]
    share = slowest.bytes / slowest.time_s / (usual.bytes / usual.time_s)
    pair = f"{slowest.case['from']:.0f}-{slowest.case['to']:.0f}"
    name = f"pairs {curve.config_key['direction']}"
    note = f"median; slowest {pair}, {share:.0%} of it"
    return _rate(name, "bytes/s", usual.bytes, usual, 0.0, None, note)


def _duration(quantity: str, point: Point, spread: float) -> Rate:
    widen = 1.0 + spread
    return Rate(
        quantity=quantity,
        unit="s",
        value=point.time_s,
        low=point.low_s / widen,
        high=point.high_s * widen,
    )


def _winner(curve: Curve, points: list[Point], cache_bytes: float | None) -> Point:
    repeated = [p for p in points if WINNER in p.tags]
    return repeated[-1] if repeated else best_point(curve.operation, points, cache_bytes)


def best_point(operation: str, points: list[Point], cache_bytes: float | None) -> Point:
    """Return the point that is reported as the achieved rate of a curve.

    Parameters
    ----------
    operation : {'matmul', 'stream', ...}
    points : list of Point
        Points of the curve; at least one.
    cache_bytes : float or None
        [bytes] Size of the last-level cache. Only streams of at least four times this size are
        considered; if there are none, the longest stream is used.
    """
    if operation != "stream":
        return max(points, key=lambda p: (p.flops or p.bytes) / p.time_s)
    beyond = [p for p in points if p.bytes >= BEYOND_CACHE * (cache_bytes or 0.0)]
    return max(beyond or [max(points, key=lambda p: p.bytes)], key=lambda p: p.bytes / p.time_s)


def _rate(
    quantity: str,
    unit: str,
    work: float,
    point: Point,
    spread: float,
    datasheet: float | None,
    note: str,
) -> Rate:
    value = work / point.time_s
    below = math.hypot(1.0 - point.time_s / point.high_s, spread)
    above = math.hypot(point.time_s / point.low_s - 1.0, spread)
    return Rate.model_validate(
        {
            "quantity": quantity,
            "unit": unit,
            "value": value,
            "low": value * (1.0 - min(below, 0.99)),
            "high": value * (1.0 + above),
            "datasheet": datasheet,
            "utilization": value / datasheet if datasheet else None,
            "note": note,
        }
    )
