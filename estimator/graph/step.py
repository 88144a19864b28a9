"""The operators of one step of a model on one rank: the only description of what a step computes.

A step decodes some sequences and prefills parts of some prompts. Its operators are grouped by the
quantity that their time depends on:

- *rows*: all GEMMs and small operations; depend on the tokens of the step (decoding + prefilled);
- *decode*: attention over the cache and updates of states; depend on the sequences and contexts;
- *prefill*: attention among the tokens of prompts; depends on the prompts and their lengths;
- *head*: depends on the number of sequences that get a token.

Kinds of attention and recurrence are objects (:mod:`groundspeed.estimator.mixers.mixer`); this
module adds embedding, norms, MLPs, experts, head and communication. Serving engines fuse norms with
residual additions and rotary embedding with the cache write; the plain decoder of ``verify`` and
the engine ``bare`` run one kernel for each operation (``fused=False``).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from groundspeed.estimator.deployment.deployment import Deployment, formats
from groundspeed.estimator.graph.operator import (
    Operator,
    collective,
    constant,
    elementwise,
    matmul,
    split,
)
from groundspeed.estimator.mixers.mixer import Shard
from groundspeed.estimator.model.quantization import Formats
from groundspeed.estimator.model.spec import Experts, Model
from groundspeed.profiles.operations import Array

GATHERED_RANKS = 8
"""Most ranks over which engines gather the tokens of all groups; beyond, they use all-to-all."""

KERNELS = {"experts": 5.0, "recurrent": 5.5}
"""Kernels behind one operator of a group: experts sort the tokens, multiply, activate, multiply
and sum; a chunked scan (gated delta rule in flash-linear-attention, as engines call it) and what
goes with it are eleven kernels, modelled as two operators."""

WIRE_BYTES = 2.0
"""[bytes] Size of an activation that is sent to other ranks: 16 bit."""


@dataclass(frozen=True)
class StepGraph:
    """The operators of a model on one rank of a deployment."""

    model: Model
    deployment: Deployment
    custom_all_reduce: bool = False
    """True if the engine has its own all-reduce kernel besides that of NCCL or RCCL."""
    fused_quantize: bool = False
    """True if the activations are quantized by the operation before the GEMM."""
    kernels: str = "vllm"
    """Library of the kernels, used if a profile has laws for several."""
    fused: bool = True
    """True if small operations are fused as in serving engines; False: one kernel for each."""
    run_as: tuple[tuple[str, str], ...] = ()
    """Formats of stored experts, and the format that the engine computes each in."""
    busy_groups: float | None = None
    """Number of attention groups that have sequences, of ``dp``; None: all."""
    per_node: int = 8
    """Number of devices that share fast links."""

    @property
    def formats(self) -> Formats:
        """Number format of each part of the model."""
        return formats(self.model, self.deployment)

    @cached_property
    def shard(self) -> Shard:
        """What one rank holds and runs."""
        return Shard(
            self.deployment.tp,
            self.formats,
            self.kernels,
            self.fused,
            self.fused_quantize,
        )

    @property
    def collectives(self) -> float:
        """Number of collectives in one step: after attention and MLP or experts, if sharded."""
        return sum(o.count for o in self.rows(np.ones(1)) if o.operation == "collective")

    @property
    def launches(self) -> float:
        """Number of kernels that a step with prefill launches."""
        one = np.ones(1)
        return sum(
            o.count * (KERNELS.get(o.group, 1.0) if o.operation != "matmul" else 1.0)
            for o in (*self.rows(one), *self.head(one), *self.prefill(one, one))
        )

    def rows(self, m: Array) -> list[Operator]:
        """Return the operators whose time depends on the number of tokens in a step.

        Parameters
        ----------
        m : (N,) ndarray
            Number of tokens in the step of one rank.
        """
        model, d, rest = self.model, self.deployment, self.formats.rest
        parts = [elementwise("embed", "embed", m, model.hidden, 1, rest)]
        for mixer in model.mixers:
            parts += mixer.rows(m, self.shard)
            if d.tp > 1 and mixer.reduces:
                parts.append(self._collective("all_reduce", m, d.tp, mixer.layers))
        parts += self._dense(m)
        if model.experts is not None:
            parts += self._experts(m, model.experts)
        parts += self._norms(m)
        if d.pp > 1:
            # A pipeline stage sends its rows to the next one: half the bytes of a 2-rank gather.
            crossing = min(d.pp - 1, -(-d.devices // self.per_node) - 1)
            if d.pp - 1 > crossing:
                parts.append(self._collective("all_gather", 2.0 * m, 2, d.pp - 1 - crossing))
            if crossing:
                sent = self._collective("all_gather", 2.0 * m, 2, crossing)
                parts.append(sent.with_key(hosts="2"))
        return parts

    def head(self, sequences: Array) -> list[Operator]:
        """Return the LM head and sampling for the sequences that get a token."""
        model, rest = self.model, self.formats.rest
        width = split(model.vocabulary, self.deployment.tp)
        parts = [
            matmul("head", sequences, width, model.hidden, 1, rest),
            elementwise("sampling", "argmax", sequences, model.vocabulary, 1, rest),
        ]
        if not self.fused:
            parts.append(elementwise("norm", self._norm, sequences, model.hidden, 1, rest))
        return parts

    def decode(self, sequences: Array, context: Array) -> list[Operator]:
        """Return what decoding sequences do with their cache or state; both arguments (N,)."""
        return [o for m in self.model.mixers for o in m.decode(sequences, context, self.shard)]

    def prefill(self, prompts: Array, length: Array) -> list[Operator]:
        """Return attention of whole prompts; both arguments (N,)."""
        return [o for m in self.model.mixers for o in m.prefill(prompts, length, self.shard)]

    def decode_step(self, sequences: Array, context: Array, rows_each: float) -> list[Operator]:
        """Return all operators of steps that only decode, with ``rows_each`` tokens a sequence."""
        rows = sequences * rows_each
        return [*self.rows(rows), *self.head(rows), *self.decode(sequences, context)]

    def prefill_step(self, prompts: Array, length: Array) -> list[Operator]:
        """Return all operators of steps that only prefill whole prompts."""
        return [*self.rows(prompts * length), *self.head(prompts), *self.prefill(prompts, length)]

    @property
    def _norm(self) -> str:
        return "rms_norm" if self.model.norm == "rms" else "layer_norm"

    def _norms(self, m: Array) -> list[Operator]:
        model, rest = self.model, self.formats.rest
        if self.fused:
            # Each norm is fused with the residual addition: it reads two tensors and writes two.
            count = model.layers * model.norms_per_layer
            return [elementwise("norm", "rms_norm", m, 2 * model.hidden, count, rest)]
        count = model.layers * (1 if model.parallel_block else model.norms_per_layer)
        return [
            elementwise("norm", self._norm, m, model.hidden, count, rest),
            elementwise("residual", "residual_add", m, model.hidden, 2 * model.layers, rest),
        ]

    def _dense(self, m: Array) -> list[Operator]:
        model, tp, count = self.model, self.deployment.tp, self.model.mlp_layers
        if not count:
            return []
        width, op = split(model.mlp_width, tp), "silu_mul" if model.gated_mlp else "gelu"
        parts = self.shard.linear("mlp", m, width, model.hidden, count)
        parts.append(elementwise("activation", op, m, width, count, self.formats.rest))
        parts += self.shard.linear("mlp", m, model.hidden, split(model.intermediate, tp), count)
        if tp > 1:
            parts.append(self._collective("all_reduce", m, tp, count))
        return parts

    def _experts(self, m: Array, e: Experts) -> list[Operator]:
        """Return router, experts and shared expert of all layers that have experts."""
        model, d, f = self.model, self.deployment, self.formats
        # The experts process the tokens of all attention groups.
        tokens = m * (d.dp if self.busy_groups is None else self.busy_groups)
        columns = {
            "tokens": tokens,
            "hidden": constant(m, e.latent_hidden or model.hidden),
            # The "experts" operation assumes three matrices; experts without a gate have two.
            "width": constant(m, e.intermediate / d.expert_tp * e.matrices / 3.0),
            "experts": constant(m, e.count),
            "top_k": constant(m, e.top_k),
            "ep": constant(m, d.ep),
        }
        # Serving engines see the skewed routing of real text, the decoder of verify a uniform one.
        routing = "zipf" if self.fused else "balanced"
        config_key = {
            "dtype": dict(self.run_as).get(f.experts, f.experts),
            "distribution": routing,
            "library": self.kernels,
        }
        parts = [
            matmul("router", m, e.count, model.hidden, e.layers, f.rest),
            elementwise("router", "argmax", m, e.count, e.layers, f.rest),
            Operator("experts", "experts", config_key, columns, e.layers),
        ]
        if e.shared_intermediate:
            shared = split(e.shared_intermediate, d.tp)
            up = (2 if e.gated else 1) * shared
            parts += self.shard.linear("shared", m, up, model.hidden, e.layers)
            parts.append(elementwise("activation", "silu_mul", m, up, e.layers, f.rest))
            parts += self.shard.linear("shared", m, model.hidden, shared, e.layers)
            if not self.fused:
                parts.append(
                    elementwise("residual", "residual_add", m, model.hidden, e.layers, f.rest)
                )
        if e.latent_hidden:
            parts += self.shard.linear("router", m, 2 * e.latent_hidden, model.hidden, e.layers)
        if d.dp > 1 and d.world > GATHERED_RANKS:
            # Wide expert parallelism sends each token to the ranks of its experts: in 8 bits there,
            # in 16 bits back.
            sent = m * e.top_k
            parts.append(self._collective("alltoall", sent / WIRE_BYTES, d.world, e.layers))
            parts.append(self._collective("alltoall", sent, d.world, e.layers))
        elif d.dp > 1:
            # Gather the tokens of all groups for the experts, then scatter the results back.
            parts.append(self._collective("all_gather", tokens, d.world, e.layers))
            parts.append(self._collective("reduce_scatter", tokens, d.world, e.layers))
        elif d.tp > 1:
            parts.append(self._collective("all_reduce", m, d.tp, e.layers))
        return parts

    def _collective(self, op: str, rows: Array, ranks: int, count: float) -> Operator:
        return collective(op, rows * self.model.hidden * WIRE_BYTES, ranks, count)
