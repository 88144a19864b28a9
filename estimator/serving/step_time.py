"""Time of one engine step: kernels from the tables of its operators, and what the host adds.

The kernels of a step are those of its tokens, of its decoding sequences and of its prompts; their
times are interpolated (``step_tables``). The host costs of the engine are added. Without CUDA
graphs (early versions of latent attention), launching the layers sets a lower bound:

    step = max(kernels, layers x eager launch) + layers x gaps + step + sequences x each

Decode is captured in CUDA graphs; a step with prefill launches its kernels one by one. For short
prompts on fast GPUs that takes longer than the kernels themselves, and TTFT no longer depends on
the number of GPUs. Engines launch while earlier steps still run, so it delays the first token but
hardly takes time from the other requests.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.costs import attention_factor, kernel_factors
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.graph.operator import Operator
from groundspeed.estimator.graph.step import StepGraph
from groundspeed.estimator.hardware.law_lookup import Hardware
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.interpolation import Curve1, Curve2
from groundspeed.estimator.serving.step_tables import (
    Grid,
    Part,
    StepTables,
    joined,
    operator_time,
    rounded_up,
    step_tables,
)
from groundspeed.profiles.operations import Array

LEAST_SEQUENCES, LEAST_LONGEST = 256.0, 4096.0
"""Smallest extents of the tables, so that the loads of a deployment share them."""


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
        engine.fused, engine.run_as, busy_groups, per_node,
    )  # fmt: skip


def weighted(grid: Grid, factors: Mapping[str, float], bandwidth: float) -> Array:
    """Return the summed time of all groups of a grid, each multiplied by its factor, (P,).

    A factor below 1 says that the engine has better kernels than those that were measured: they
    are no faster than memory (``bandwidth``, bytes/s) either.
    """
    total = grid.total()
    for place, group in enumerate(grid.groups):
        factor = factors.get(group, 1.0)
        if factor == 1.0:
            continue
        alone = grid.total([group])
        least = np.minimum(alone, np.exp(grid.logs[4, place]) / bandwidth)
        total = total + np.maximum(factor * alone, least) - alone
    return total


@dataclass(frozen=True)
class Drafter:
    """What proposes the tokens that a step verifies; see ``speculation``."""

    tokens: int = 0
    """Number of tokens proposed for each sequence before a step, one after the other."""
    share: float = 0.0
    """[1] Layers of a draft head over those of the model, which it resembles."""
    gaps_s: float = 0.0
    """[s] What the host adds to a pass of a draft head."""
    steps: "StepTimes | None" = None
    """Step times of a draft model; None: a head."""


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
    drafter: Drafter = Drafter()
    """What proposes tokens; by default nothing."""
    tables: StepTables = field(init=False, repr=False)
    _floor_s: float = field(init=False, repr=False)
    launch_s: float = field(init=False, repr=False)
    """[s] Time that the host takes to launch the kernels of a step with prefill."""
    _fixed_s: float = field(init=False, repr=False)
    _of_tokens: dict[int, tuple[float, float]] = field(init=False, repr=False, default_factory=dict)
    """Kernels on the tokens of a decode step, and the host, by the number of sequences."""
    _rows: Curve1 = field(init=False, repr=False)
    _head: Curve1 = field(init=False, repr=False)
    _prefill: Curve2 = field(init=False, repr=False)
    _decode: Curve2 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        costs, model = self.engine.costs, self.graph.model
        sequences = 2.0 * rounded_up(float(self.most_sequences), LEAST_SEQUENCES)
        longest = rounded_up(self.longest, LEAST_LONGEST)
        most = max(2.0 * self.engine.token_budget, sequences)
        t = self.tables = step_tables(self.graph, self.hardware, most, sequences, longest)
        b = self.bandwidth_bytes_per_s
        factors = kernel_factors(costs, self.graph.formats.experts)
        self._rows = Curve1(t.rows.axes[0].low, t.rows.axes[0].high, weighted(t.rows, factors, b))
        self._head = Curve1(t.head.axes[0].low, t.head.axes[0].high, weighted(t.head, factors, b))
        x, y = t.decode.axes
        decode = {**factors, "attention": attention_factor(costs, model, decode=True)}
        self._decode = Curve2(x, y, weighted(t.decode, decode, b).reshape(x.count, y.count))
        x, y = t.prefill.axes
        prefill = {**factors, "attention": attention_factor(costs, model, decode=False)}
        self._prefill = Curve2(x, y, weighted(t.prefill, prefill, b).reshape(x.count, y.count))
        layers = model.layers
        eager = layers * costs.eager_latent_layer_s if model.attends_latents else 0.0
        self._floor_s = eager
        self.launch_s = t.launches * costs.launch_s
        self._fixed_s = costs.step_s + layers * costs.layer_s + t.collectives * costs.collective_s
        self._fixed_s += model.indexed_latent_layers * costs.indexed_latent_layer_s

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """[bytes/s] Peak bandwidth of the memory in the datasheet; inf: it is not known."""
        spec = self.hardware.datasheet
        known = spec is not None and spec.memory_bandwidth_bytes_per_s is not None
        return spec.memory_bandwidth() if spec is not None and known else math.inf

    @property
    def rows_a_sequence(self) -> int:
        """Number of tokens per decoding sequence in a step; above 1 with speculative decoding."""
        return 1 + self.drafter.tokens

    def rows_s(self, tokens: float) -> float:
        """Return the time of GEMMs, elementwise operations and collectives of a step [s]."""
        return self._rows(tokens)

    def decode_attention_s(self, sequences: float, context: float) -> float:
        """Return the time of decode attention and recurrent state updates in all layers [s]."""
        return self._decode(sequences, context)

    def prefill_attention_s(self, prompts: float, length: float, past: float = 0.0) -> float:
        """Return the time of prefill attention of ``length`` tokens after ``past`` cached ones."""
        whole = self._prefill(prompts, past + length)
        if past >= 1.0:
            whole = max(whole - self._prefill(prompts, past), self._prefill(1.0, 8.0))
        return whole

    def decode_s(self, sequences: int, context: float) -> float:
        """Return the time of a decode-only step [s]."""
        fixed = self._of_tokens.get(sequences)
        if fixed is None:
            tokens = sequences * self.rows_a_sequence
            fixed = self._rows(tokens) + self._head(tokens), self.host_s(sequences)
            self._of_tokens[sequences] = fixed
        kernels = fixed[0] + self._decode(sequences, context)
        step = (kernels if kernels > self._floor_s else self._floor_s) + fixed[1]
        return step + self.draft_s(sequences, context) if self.drafter.tokens else step

    def draft_s(self, sequences: float, context: float) -> float:
        """Return the time in which the tokens of a step are proposed [s]."""
        draft = self.drafter
        if not draft.tokens or not sequences:
            return 0.0
        if draft.steps is not None:
            one = draft.steps.pass_s(sequences, context)
        elif draft.share:
            one = draft.share * (self._rows(sequences) + self._decode(sequences, context))
            one += self._head(sequences) + draft.gaps_s
        else:
            return 0.0
        return draft.tokens * one

    def pass_s(self, sequences: float, context: float) -> float:
        """Return the time of a decode step that the scheduler does not wait for [s]: a draft's."""
        kernels = self._rows(sequences) + self._head(sequences) + self._decode(sequences, context)
        return kernels + self._fixed_s - self.engine.costs.step_s

    def draft_prefill_s(self, added: float, chunk: float, prompts: float, past: float) -> float:
        """Return the time in which a draft reads a chunk of prompts [s].

        Parameters
        ----------
        added : float
            Time that the chunk takes in the model itself [s].
        chunk, prompts, past : float
            As in :meth:`step_s`.
        """
        draft = self.drafter
        if not draft.tokens:
            return 0.0
        if draft.steps is not None:
            own = draft.steps
            return own.step_s(0, 0.0, chunk, prompts, past) - own.engine.costs.step_s
        return draft.share * added

    def step_s(
        self, sequences: float, context: float, chunk: float, prompts: float, past: float
    ) -> float:
        """Return the time of a step that decodes sequences and prefills a chunk.

        Parameters
        ----------
        sequences : float
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
        tokens = sequences * self.rows_a_sequence
        rows = self._rows(max(tokens + chunk, 1.0))
        kernels = rows + self._head(max(tokens + prompts, 1.0))
        if sequences:
            kernels += self._decode(sequences, context)
        if chunk:
            attention = self.prefill_attention_s(prompts, chunk / prompts, past)
            # prefill_factor scales the whole step if nothing decodes, else only the added time.
            added = rows - self._rows(tokens) if tokens else rows
            kernels += attention
            kernels += (self.engine.costs.prefill_factor - 1.0) * (added + attention)
            kernels += self.draft_prefill_s(added + attention, chunk, prompts, past)
        step = max(kernels, self._floor_s) + self.host_s(sequences)
        return step + self.draft_s(sequences, context)

    def engine_step_s(self, parts: list[Part], sequences: int) -> float:
        """Return the time of a step whose kernels take the time of ``parts`` [s]."""
        kernels = sum(part.time_s for part in parts)
        return max(kernels, self._floor_s) + self.host_s(sequences)

    def host_s(self, sequences: float) -> float:
        """Return the time that host and gaps between kernels add to a step [s]."""
        return self._fixed_s + sequences * self.engine.costs.sequence_s

    def step_many(self, sequences: Array, context: Array, chunk: Array, prompts: Array) -> Array:
        """Vectorized :meth:`step_s` of whole prompts for arrays (N,); 0 where a kind is absent."""
        costs = self.engine.costs
        tokens = sequences * self.rows_a_sequence
        kernels = self._rows.many(np.maximum(tokens + chunk, 1.0))
        kernels += self._head.many(np.maximum(tokens + prompts, 1.0))
        decoding, prefilling = sequences > 0, chunk > 0
        attention = self._decode.many(np.maximum(sequences, 1.0), np.maximum(context, 1.0))
        kernels += np.where(decoding, attention, 0.0)
        whole = self._prefill.many(np.maximum(prompts, 1.0), np.maximum(chunk / prompts, 1.0))
        base = np.where(decoding, self._rows.many(np.maximum(tokens, 1.0)), 0.0)
        added = self._rows.many(np.maximum(tokens + chunk, 1.0)) - base
        extra = whole + (costs.prefill_factor - 1.0) * (added + whole)
        kernels += np.where(prefilling, extra, 0.0)
        times_s: Array = (
            np.maximum(kernels, self._floor_s) + self._fixed_s + sequences * costs.sequence_s
        )
        if not self.drafter.tokens:
            return times_s
        drafts = [
            self.draft_s(float(n), max(float(c), 1.0)) if n > 0 else 0.0
            for n, c in zip(sequences, context, strict=True)
        ]
        read = [
            self.draft_prefill_s(float(a), float(t), float(p), 0.0) if t > 0 else 0.0
            for a, t, p in zip(added + whole, chunk, prompts, strict=True)
        ]
        times_s += np.array(drafts) + np.array(read)
        return times_s

    def decode_parts(self, sequences: float, context: float) -> list[Part]:
        """Return the time of each group of operators in a step that only decodes."""
        t, rows = self.tables, sequences * self.rows_a_sequence
        return joined(
            [*t.rows.parts(rows), *t.head.parts(rows), *t.decode.parts(sequences, context),
             *self.draft_parts(sequences, context)]
        )  # fmt: skip

    def draft_parts(self, sequences: float, context: float) -> list[Part]:
        """Return the time in which the tokens of a step are proposed, as one group."""
        total = self.draft_s(sequences, context)
        if total <= 0.0:
            return []
        own = self.drafter.steps or self
        t = own.tables
        layers = [*t.rows.parts(sequences), *t.decode.parts(sequences, context)]
        head = t.head.parts(sequences)
        share = 1.0 if self.drafter.steps is not None else self.drafter.share
        weighted_parts = [(share, p) for p in layers] + [(1.0, p) for p in head]
        time = sum(f * p.time_s for f, p in weighted_parts)
        largest = max(weighted_parts, key=lambda entry: entry[0] * entry[1].time_s)[1]
        scale, many = total / time, self.drafter.tokens
        return [
            Part(
                "draft", total,
                scale * sum(f * p.low_s for f, p in weighted_parts),
                scale * sum(f * p.high_s for f, p in weighted_parts),
                largest.bound,
                many * sum(f * p.flops for f, p in weighted_parts),
                many * sum(f * p.bytes for f, p in weighted_parts),
                any(p.extrapolated for p in layers),
            )
        ]  # fmt: skip

    def prefill_parts(self, prompts: float, length: float) -> list[Part]:
        """Return the time of each group of operators in a step that prefills whole prompts."""
        t = self.tables
        return joined(
            [*t.rows.parts(prompts * length), *t.head.parts(prompts),
             *t.prefill.parts(prompts, length)]
        )  # fmt: skip

    def parts(self, operators: list[Operator]) -> list[Part]:
        """Return the mean time of each group over exactly these shapes, with its interval."""
        found = []
        for operator in operators:
            t = operator_time(self.graph, self.hardware, operator)
            counted = operator.operation != "collective"
            found.append(
                Part(
                    operator.group, float(t.time_s.mean()), float(t.low_s.mean()),
                    float(t.high_s.mean()), t.bound,
                    float(operator.flops.mean()) if counted else 0.0,
                    float(operator.bytes.mean()) if counted else 0.0, t.extrapolated,
                )
            )  # fmt: skip
        return joined(found)
