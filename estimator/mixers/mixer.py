"""What every kind of attention or recurrence must say of itself.

A layer of a model *mixes* tokens (attention, or a recurrence) and then works on each token alone
(an MLP or experts). A mixer is one object: its parameters, the memory that a sequence keeps for it,
and its operators in decode and prefill. A model has one mixer for each kind of layer, with the
number of its layers; memory, step times and parameter counts are sums over them.

To add a kind: a file here, its sizes in ``model/spec.py``, the keys of its configuration in
``model/architectures.py``; and, if no known operation describes its kernel, the operation in
``profiles/operations.py`` and the kernel that measures it in ``kernels/``.
"""

from dataclasses import dataclass
from typing import Protocol

from groundspeed.estimator.graph.operator import Operator, elementwise, matmul
from groundspeed.estimator.model.quantization import SIXTEEN_BIT, Formats
from groundspeed.profiles.operations import Array

EIGHT_BIT = ("fp8", "fp8_row", "fp8_block", "int8")
"""Formats whose activations are quantized before a GEMM."""

FUSABLE = ("fp8", "int8", "nvfp4")
"""Formats whose activations the operation before the GEMM can quantize: one scale per tensor, or
small blocks inside a row."""


@dataclass(frozen=True)
class Shard:
    """What one rank runs: its share of the model, the formats and the engine's kernels."""

    tp: int
    """Number of ranks over which the layers are split."""
    formats: Formats
    kernels: str = "vllm"
    """Library of the kernels, used if a profile has laws for several."""
    fused: bool = True
    """True if small operations are fused as in serving engines; False: one kernel for each."""
    fused_quantize: bool = False
    """True if activations are quantized by the operation before the GEMM."""

    def linear(self, group: str, m: Array, n: float, k: float, count: float) -> list[Operator]:
        """Return GEMMs with the weights of the layers, and what quantizes their activations."""
        dtype = self.formats.linear
        gemm = matmul(group, m, n, k, count, dtype)
        if dtype not in SIXTEEN_BIT:
            gemm = gemm.with_key(library=self.kernels)
        if self.fused_quantize and dtype in FUSABLE:
            return [gemm.with_key(quantize="fused")]
        if dtype not in EIGHT_BIT:
            return [gemm]
        # A table of GEMMs may contain this operation: see ``hardware/law_lookup``.
        quantize = elementwise("quantize", "fp8_quantize", m, k, count, self.formats.rest)
        return [quantize.with_key(gemm=dtype, library=self.kernels), gemm]


class Mixer(Protocol):
    """All layers of a model that mix tokens in the same way."""

    @property
    def layers(self) -> int:
        """Number of layers of this kind."""
        ...

    @property
    def reduces(self) -> bool:
        """True if the output of a layer must be summed over the ranks."""
        ...

    def parameters(self) -> int:
        """Return the number of parameters of one layer."""
        ...

    def cached_items(self, tokens: float) -> float:
        """Return the elements that a sequence of ``tokens`` tokens keeps in all layers."""
        ...

    def read_items(self, tokens: float) -> float:
        """Return the elements of the cache that a new token reads in all layers."""
        ...

    def cache_ways(self, tp: int) -> float:
        """Return over how many of ``tp`` ranks the cache is split."""
        ...

    def state_bytes(self) -> float:
        """Return the bytes of the state of fixed size that a sequence keeps in all layers."""
        ...

    def rows(self, m: Array, at: Shard) -> list[Operator]:
        """Return the operators whose time depends on the number of tokens ``m`` of a step."""
        ...

    def decode(self, sequences: Array, context: Array, at: Shard) -> list[Operator]:
        """Return what decoding sequences do with their cache or state; both arguments (N,)."""
        ...

    def prefill(self, prompts: Array, length: Array, at: Shard) -> list[Operator]:
        """Return what whole prompts do beyond their rows; both arguments (N,).

        The time of a chunk is the difference of two of these.
        """
        ...
