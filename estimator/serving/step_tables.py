"""Times of the operators of a step on grids, evaluated once for each deployment on each device.

A simulation needs the time of thousands of steps, and a sweep over concurrencies asks for the same
deployment again and again. The laws are therefore evaluated once on grids: operations on every
token over the tokens of a step, the head over its sequences, decode attention over sequences and
contexts, prefill attention over prompts and lengths. Between grid points logarithms are
interpolated; two points for each octave are within 1 % of the laws.

Tables are kept for the latest deployments (:func:`step_tables`). The extents of the grids are
rounded up to powers of two, so that loads of one deployment share them.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundspeed.estimator.graph.operator import Operator
from groundspeed.estimator.graph.step import StepGraph
from groundspeed.estimator.hardware.hardware import BOUNDS, Hardware, OperatorTime
from groundspeed.estimator.serving.interpolation import Axis
from groundspeed.profiles.operations import Array

OWN_KERNELS = ("custom", "one_shot", "two_shot", "multimem")
"""All-reduce kernels of the engines themselves, in addition to those of NCCL or RCCL."""

LARGEST_TOKENS = 262_144.0
TOKEN_POINTS = 48
SMALLEST_VALUE = 1e-30

TABLES_KEPT = 64
"""Deployments whose tables are kept: each takes about half a megabyte."""


@dataclass(frozen=True)
class Part:
    """Time of one group of operators at one point, with its 90 % interval [s]."""

    group: str
    time_s: float
    low_s: float
    high_s: float
    bound: str
    flops: float
    bytes: float
    extrapolated: bool


@dataclass(frozen=True)
class Grid:
    """Groups of operators over one or two axes; the last axis varies fastest."""

    axes: tuple[Axis, ...]
    groups: tuple[str, ...]
    logs: Array
    """(5, G, P) Logarithms of time, ends of the interval, FLOPs and bytes of each group."""
    bounds: NDArray[np.int8]
    """(G, P) Index of the bound in ``BOUNDS``."""
    outside: NDArray[np.bool_]
    """(G, P) Whether a law was evaluated beyond its measurements."""

    def total(self, groups: Sequence[str] | None = None) -> Array:
        """Return the summed time of some groups (None: of all) at each point, (P,)."""
        chosen = [i for i, g in enumerate(self.groups) if groups is None or g in groups]
        summed: Array = np.exp(self.logs[0, chosen]).sum(axis=0)
        return summed

    def parts(self, *where: float) -> list[Part]:
        """Return the groups at a point between the grid points."""
        points, weights = self._around(where)
        values = np.exp(self.logs[:, :, points] @ weights)
        nearest = points[int(weights.argmax())]
        time, low, high, flops, moved = values.tolist()
        return [
            Part(
                name, time[i], low[i], high[i], BOUNDS[self.bounds[i, nearest]], flops[i], moved[i],
                bool(self.outside[i, nearest]),
            )
            for i, name in enumerate(self.groups)
        ]  # fmt: skip

    def _around(self, where: Sequence[float]) -> tuple[NDArray[np.intp], Array]:
        """Return the grid points around a point, and the weight of each."""
        points, weights = np.zeros(1, dtype=np.intp), np.ones(1)
        for axis, value in zip(self.axes, where, strict=True):
            low, high = math.log(axis.low), math.log(axis.high)
            place = (math.log(max(value, 1e-9)) - low) * (axis.count - 1) / (high - low)
            i = min(max(int(place), 0), axis.count - 2)
            u = place - i
            points = (points[:, None] * axis.count + np.array([i, i + 1])).ravel()
            weights = (weights[:, None] * np.array([1.0 - u, u])).ravel()
        return points, weights


@dataclass(frozen=True)
class StepTables:
    """The operators of one deployment on one device, on grids."""

    rows: Grid
    head: Grid
    decode: Grid
    prefill: Grid
    collectives: float
    """Number of collectives in a step."""
    launches: float
    """Number of kernels that a step with prefill launches."""
    answered_by: tuple[tuple[str, tuple[str, ...]], ...]
    """File and origin, and the operations that it answered for."""


@functools.lru_cache(maxsize=TABLES_KEPT)
def step_tables(graph: StepGraph, hardware: Hardware, tokens: float, sequences: float,
                longest: float) -> StepTables:  # fmt: skip
    """Return the tables of a deployment, from those kept if it was asked for before.

    Parameters
    ----------
    graph : StepGraph
    hardware : Hardware
    tokens, sequences, longest : float
        Largest number of tokens in a step, of sequences, and of tokens in a sequence.
    """
    wide = Axis(1.0, min(tokens, LARGEST_TOKENS), TOKEN_POINTS)
    many = _octaves(1.0, sequences)
    contexts, lengths = _octaves(16.0, longest), _octaves(8.0, longest)
    prompts = Axis(1.0, 1024.0, 11)
    b, c = _pairs(many, contexts)
    n, length = _pairs(prompts, lengths)
    build = functools.partial(_grid, graph, hardware)
    return StepTables(
        build((wide,), graph.rows(wide.values)),
        build((many,), graph.head(many.values)),
        build((many, contexts), graph.decode(b, c)),
        build((prompts, lengths), graph.prefill(n, length)),
        graph.collectives,
        graph.launches,
        _answered_by(graph, hardware),
    )


def _answered_by(graph: StepGraph, hardware: Hardware) -> tuple[tuple[str, tuple[str, ...]], ...]:
    one = np.ones(1)
    found: dict[str, dict[str, None]] = {}
    for operator in (
        *graph.decode_step(one, 64.0 * one, 1.0), *graph.prefill_step(one, 64.0 * one)
    ):  # fmt: skip
        source = hardware.source(fastest(graph, hardware, operator))
        found.setdefault(source, {})[operator.operation] = None
    return tuple((source, tuple(names)) for source, names in found.items())


def fastest(graph: StepGraph, hardware: Hardware, operator: Operator) -> Operator:
    """Return the operator itself, or a collective with the kernel that the engine would use."""
    chosen = ways(graph, hardware, operator)
    if len(chosen) == 1:
        return chosen[0]
    return min(chosen, key=lambda o: float(hardware.time(o).time_s.mean()))


def rounded_up(value: float, least: float) -> float:
    """Return the next power of two that is not below a value, and at least ``least``."""
    return float(max(least, 2.0 ** math.ceil(math.log2(max(value, 1.0)))))


def joined(parts: Sequence[Part]) -> list[Part]:
    """Add up parts of one name; errors of different operators are independent."""
    by_name: dict[str, list[Part]] = {}
    for part in parts:
        by_name.setdefault(part.group, []).append(part)
    return [same[0] if len(same) == 1 else _sum(name, same) for name, same in by_name.items()]


def _sum(name: str, parts: Sequence[Part]) -> Part:
    time = sum(p.time_s for p in parts)
    below = sum((p.time_s - p.low_s) ** 2 for p in parts) ** 0.5
    above = sum((p.high_s - p.time_s) ** 2 for p in parts) ** 0.5
    largest = max(parts, key=lambda p: p.time_s)
    return Part(
        name, time, max(time - below, 0.0), time + above, largest.bound,
        sum(p.flops for p in parts), sum(p.bytes for p in parts),
        any(p.extrapolated for p in parts),
    )  # fmt: skip


def ways(graph: StepGraph, hardware: Hardware, operator: Operator) -> list[Operator]:
    """Return a collective once per kernel that the engine can use and the hardware has.

    Kernels are compared within one file: a published time of one kernel says nothing about the
    links of this machine once they were measured.
    """
    if operator.operation != "collective":
        return [operator]
    for known in hardware.modes(operator):
        usable = [m for m in known if graph.custom_all_reduce or m not in OWN_KERNELS]
        if usable:
            return [operator.with_key(mode=mode) for mode in dict.fromkeys(usable)]
    return [operator]


def operator_time(graph: StepGraph, hardware: Hardware, operator: Operator) -> OperatorTime:
    """Return the time of an operator; a collective runs at each size with the fastest kernel."""
    first, *others = (hardware.time(o) for o in ways(graph, hardware, operator))
    for other in others:
        first = first.where_faster(other)
    return first


def _grid(
    graph: StepGraph, hardware: Hardware, axes: tuple[Axis, ...], operators: Sequence[Operator]
) -> Grid:
    points = math.prod(axis.count for axis in axes)
    groups = tuple(dict.fromkeys(o.group for o in operators))
    values = np.zeros((5, len(groups), points))
    below, above = np.zeros((2, len(groups), points))
    largest = np.full((len(groups), points), -1.0)
    bounds = np.zeros((len(groups), points), dtype=np.int8)
    outside = np.zeros((len(groups), points), dtype=bool)
    for operator in operators:
        i = groups.index(operator.group)
        t = operator_time(graph, hardware, operator)
        values[0, i] += t.time_s
        below[i] += (t.time_s - t.low_s) ** 2
        above[i] += (t.high_s - t.time_s) ** 2
        if operator.operation != "collective":
            values[3, i] += operator.flops
            values[4, i] += operator.bytes
        more = t.time_s > largest[i]
        largest[i] = np.where(more, t.time_s, largest[i])
        bounds[i] = np.where(more, t.bounds, bounds[i])
        outside[i] |= t.outside
    values[1] = np.maximum(values[0] - np.sqrt(below), 0.0)
    values[2] = values[0] + np.sqrt(above)
    return Grid(axes, groups, np.log(np.maximum(values, SMALLEST_VALUE)), bounds, outside)


def _octaves(low: float, high: float) -> Axis:
    """Return a grid with two points for each octave."""
    return Axis(low, high, max(4, 2 * math.ceil(math.log2(high / low)) + 1))


def _pairs(x: Axis, y: Axis) -> tuple[Array, Array]:
    """Return all pairs of two grids as two flat arrays."""
    first, second = np.meshgrid(x.values, y.values, indexing="ij")
    return first.ravel(), second.ravel()
