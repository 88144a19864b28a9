"""Time of one engine step, interpolated from tables of its parts.

A simulation needs the time of ten thousand steps, so the laws are evaluated once on grids and then
interpolated: GEMMs and other per-token operations over the tokens of a step, decode attention over
sequences and context, prefill attention over prompts and length. The host costs of the engine are
added to the kernel times. Without CUDA graphs, launching the layers sets a lower bound:

    step = max(kernels, layers x eager launch) + layers x gaps + step + sequences x each
"""

from dataclasses import dataclass, field

import numpy as np

from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.graph.operator import Operator
from groundspeed.estimator.graph.step import StepGraph
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.interpolation import Axis, Curve1, Curve2
from groundspeed.profiles.operations import Array

OWN_KERNELS = ("custom", "one_shot", "two_shot", "multimem")
"""All-reduce kernels of the engines themselves, in addition to those of NCCL or RCCL."""

LARGEST_TOKENS = 262_144.0


def step_graph(
    model: Model,
    deployment: Deployment,
    engine: Engine,
    *,
    busy_groups: float | None = None,
    per_node: int = 8,
) -> StepGraph:
    """Return the operators of a model as an engine runs them on a deployment."""
    return StepGraph(
        model, deployment, engine.custom_all_reduce, engine.fused_quantize, engine.kernels,
        engine.fused, busy_groups, per_node,
    )  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Time of one group of operators at one grid point, with its 90 % interval [s]."""

    group: str
    time_s: float
    low_s: float
    high_s: float
    bound: str
    flops: float
    bytes: float
    extrapolated: bool


@dataclass
class StepTimes:
    """Step times of one deployment.

    Parameters
    ----------
    graph : StepGraph
        Operators of the model on this deployment.
    hardware : Hardware
        A datasheet or a profile.
    engine : Engine
        Host costs and kernel factors.
    most_sequences : int
        Largest number of sequences in a step; sets the extent of the grid.
    longest : float
        Longest context [tokens]; sets the extent of the grid.
    """

    graph: StepGraph
    hardware: Hardware
    engine: Engine
    most_sequences: int
    longest: float
    rows_a_sequence: int = 1
    """Number of tokens per decoding sequence in a step; above 1 with speculative decoding."""
    _rows: Curve1 = field(init=False, repr=False)
    _experts: Curve1 | None = field(init=False, repr=False)
    _head: Curve1 = field(init=False, repr=False)
    _prefill: Curve2 = field(init=False, repr=False)
    _decode: Curve2 = field(init=False, repr=False)
    _collectives: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        top = max(2.0 * self.engine.token_budget, 2.0 * self.most_sequences, 64.0)
        tokens = Axis(1.0, min(top, LARGEST_TOKENS), 48)
        operators = self.graph.rows(tokens.values)
        experts = [o for o in operators if o.group == "experts"]
        self._rows = Curve1(
            tokens.low, tokens.high, self.total([o for o in operators if o.group != "experts"])
        )
        self._experts = Curve1(tokens.low, tokens.high, self.total(experts)) if experts else None
        sequences = Axis(1.0, max(2.0 * self.most_sequences, 4.0), 14)
        heads = self.total(self.graph.head(sequences.values))
        self._head = Curve1(sequences.low, sequences.high, heads)
        contexts = Axis(16.0, max(self.longest, 64.0), 20)
        b, c = _pairs(sequences, contexts)
        times_s = self.total(self.graph.decode(b, c))
        self._decode = Curve2(sequences, contexts, times_s.reshape(sequences.count, contexts.count))
        prompts, lengths = Axis(1.0, 1024.0, 11), Axis(8.0, max(self.longest, 64.0), 20)
        n, length = _pairs(prompts, lengths)
        times_s = self.total(self.graph.prefill(n, length))
        self._prefill = Curve2(prompts, lengths, times_s.reshape(prompts.count, lengths.count))
        self._collectives = self.graph.collectives

    def total(self, operators: list[Operator]) -> Array:
        """Return the summed time of the operators at each grid point [s]."""
        times = [self.timed(o) for o in operators]
        summed: Array = np.sum(times, axis=0) if times else np.zeros(1)
        return summed

    def timed(self, operator: Operator) -> Array:
        """Return the time of an operator; a collective uses the engine's fastest kernel."""
        if operator.operation != "collective":
            return self.hardware.time(operator).time_s
        ways = [self.hardware.time(o).time_s for o in self.ways(operator)]
        fastest: Array = np.min(ways, axis=0)
        return fastest

    def ways(self, operator: Operator) -> list[Operator]:
        """Return a collective once per kernel that the engine can use and the hardware has.

        Kernels are compared within one file: a published time of one kernel says nothing about the
        links of this machine once they were measured.
        """
        for known in self.hardware.modes(operator):
            usable = [
                mode for mode in known if self.graph.custom_all_reduce or mode not in OWN_KERNELS
            ]
            if usable:
                return [operator.with_key(mode=mode) for mode in dict.fromkeys(usable)]
        return [operator]

    def fastest(self, operator: Operator) -> Operator:
        """Return the operator itself, or a collective with the kernel that the engine would use."""
        if operator.operation != "collective":
            return operator
        return min(self.ways(operator), key=lambda o: float(self.hardware.time(o).time_s.mean()))

    def rows_s(self, tokens: float) -> float:
        """Return the time of GEMMs, elementwise operations and collectives of a step [s]."""
        if self._experts is None:
            return self._rows(tokens)
        return self._rows(tokens) + self.engine.costs.experts_factor * self._experts(tokens)

    def decode_attention_s(self, sequences: float, context: float) -> float:
        """Return the time of decode attention and recurrent state updates in all layers [s]."""
        costs = self.engine.costs
        latent = self.graph.model.latent is not None
        factor = costs.latent_decode_factor if latent else costs.attention_factor
        return factor * self._decode(sequences, context)

    def prefill_attention_s(self, prompts: float, length: float, past: float = 0.0) -> float:
        """Return the time of prefill attention of ``length`` tokens after ``past`` cached ones."""
        latent = self.graph.model.latent is not None
        factor = self.engine.costs.latent_prefill_factor if latent else 1.0
        whole = self._prefill(prompts, past + length)
        if past >= 1.0:
            whole = max(whole - self._prefill(prompts, past), self._prefill(1.0, 8.0))
        return factor * whole

    def decode_s(self, sequences: int, context: float) -> float:
        """Return the time of a decode-only step [s]."""
        return self.step_s(sequences, context, 0.0, 0.0, 0.0)

    def step_s(
        self, sequences: int, context: float, chunk: float, prompts: float, past: float
    ) -> float:
        """Return the time of a step that decodes sequences and prefills a chunk.

        Parameters
        ----------
        sequences : int
            Number of decoding sequences.
        context : float
            Mean context of the decoding sequences [tokens].
        chunk : float
            Number of prefilled tokens in the step, over all prompts.
        prompts : float
            Number of prompts that the chunk contains.
        past : float
            Mean number of tokens of these prompts that earlier chunks have computed.

        Returns
        -------
        float
            Time of the step [s].
        """
        costs, model = self.engine.costs, self.graph.model
        tokens = sequences * self.rows_a_sequence
        kernels = self.rows_s(max(tokens + chunk, 1.0))
        kernels += self._head(max(tokens + prompts, 1.0))
        if sequences:
            kernels += self.decode_attention_s(sequences, context)
        launch = costs.eager_decode_layer_s
        if model.latent is not None:
            launch = max(launch, costs.eager_latent_layer_s)
        floor = model.layers * launch
        if chunk:
            attention = self.prefill_attention_s(prompts, chunk / prompts, past)
            # prefill_factor scales the whole step if nothing decodes, else only the added time.
            base = self.rows_s(tokens) if tokens else 0.0
            added = self.rows_s(tokens + chunk) - base
            kernels += attention + (costs.prefill_factor - 1.0) * (added + attention)
            floor = max(floor, model.layers * costs.eager_prefill_layer_s)
        return max(kernels, floor) + self.host_s(sequences)

    def engine_step_s(self, parts: list[Part], sequences: int, *, prefilling: bool) -> float:
        """Return the time of a step whose kernels take the time of ``parts`` [s]."""
        costs, model = self.engine.costs, self.graph.model
        launch = costs.eager_decode_layer_s
        if model.latent is not None:
            launch = max(launch, costs.eager_latent_layer_s)
        if prefilling:
            launch = max(launch, costs.eager_prefill_layer_s)
        kernels = sum(part.time_s for part in parts)
        return max(kernels, model.layers * launch) + self.host_s(sequences)

    def host_s(self, sequences: float) -> float:
        """Return the time that host and gaps between kernels add to a step [s]."""
        costs = self.engine.costs
        host = costs.step_s + self.graph.model.layers * costs.layer_s
        return host + self._collectives * costs.collective_s + sequences * costs.sequence_s

    def step_many(self, sequences: Array, context: Array, chunk: Array, prompts: Array) -> Array:
        """Vectorized :meth:`step_s` of whole prompts for arrays (N,); 0 where a kind is absent."""
        costs, model = self.engine.costs, self.graph.model
        tokens = sequences * self.rows_a_sequence
        kernels = self._rows_many(np.maximum(tokens + chunk, 1.0))
        kernels += self._head.many(np.maximum(tokens + prompts, 1.0))
        latent = model.latent is not None
        factor = costs.latent_decode_factor if latent else costs.attention_factor
        decoding, prefilling = sequences > 0, chunk > 0
        attention = self._decode.many(np.maximum(sequences, 1.0), np.maximum(context, 1.0))
        kernels += np.where(decoding, factor * attention, 0.0)
        whole = self._prefill.many(np.maximum(prompts, 1.0), np.maximum(chunk / prompts, 1.0))
        whole *= costs.latent_prefill_factor if latent else 1.0
        base = np.where(decoding, self._rows_many(np.maximum(tokens, 1.0)), 0.0)
        added = self._rows_many(np.maximum(tokens + chunk, 1.0)) - base
        extra = whole + (costs.prefill_factor - 1.0) * (added + whole)
        kernels += np.where(prefilling, extra, 0.0)
        launch = costs.eager_decode_layer_s
        if latent:
            launch = max(launch, costs.eager_latent_layer_s)
        eager = np.where(prefilling, max(launch, costs.eager_prefill_layer_s), launch)
        fixed = costs.step_s + model.layers * costs.layer_s
        fixed += self._collectives * costs.collective_s
        floor = np.maximum(kernels, model.layers * eager)
        times_s: Array = floor + fixed + sequences * costs.sequence_s
        return times_s

    def _rows_many(self, tokens: Array) -> Array:
        if self._experts is None:
            return self._rows.many(tokens)
        return self._rows.many(tokens) + self.engine.costs.experts_factor * self._experts.many(
            tokens
        )

    def parts(self, operators: list[Operator]) -> list[Part]:
        """Return the mean time of each group over the grid points, with its interval."""
        groups: dict[str, list[Part]] = {}
        for operator in operators:
            fastest = self.hardware.time(self.fastest(operator))
            counted = operator.operation != "collective"
            groups.setdefault(operator.group, []).append(
                Part(
                    operator.group,
                    float(fastest.time_s.mean()),
                    float(fastest.low_s.mean()),
                    float(fastest.high_s.mean()),
                    fastest.bound,
                    float(operator.flops.mean()) if counted else 0.0,
                    float(operator.bytes.mean()) if counted else 0.0,
                    fastest.extrapolated,
                )
            )
        return [_joined(name, parts) for name, parts in groups.items()]


def _joined(name: str, parts: list[Part]) -> Part:
    time = sum(p.time_s for p in parts)
    below = sum((p.time_s - p.low_s) ** 2 for p in parts) ** 0.5
    above = sum((p.high_s - p.time_s) ** 2 for p in parts) ** 0.5
    largest = max(parts, key=lambda p: p.time_s)
    return Part(
        name, time, max(time - below, 0.0), time + above, largest.bound,
        sum(p.flops for p in parts), sum(p.bytes for p in parts),
        any(p.extrapolated for p in parts),
    )  # fmt: skip


def _pairs(x: Axis, y: Axis) -> tuple[Array, Array]:
    """Return all pairs of two grids as two flat arrays."""
    first, second = np.meshgrid(x.values, y.values, indexing="ij")
    return first.ravel(), second.ravel()
