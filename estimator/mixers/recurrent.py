"""Linear attention and state-space mixers: a state of fixed size instead of a KV cache.

A step reads and writes the state of each sequence, whatever its length; a prompt is scanned in
chunks. Gated delta networks (Qwen3-Next) and Mamba 2 (Nemotron-H) differ in their sizes only.
"""

from dataclasses import dataclass

from groundspeed.estimator.graph.operator import Operator, elementwise, split
from groundspeed.estimator.mixers.mixer import Shard
from groundspeed.profiles.operations import Array, item_bytes

STATE_BYTES = 4.0
"""[bytes] Size of one element of a recurrent state: it is stored in 32 bit."""


@dataclass(frozen=True)
class Recurrence:
    """Layers with a recurrence."""

    layers: int
    hidden: int
    in_width: int
    inner_width: int
    conv_width: int
    conv_kernel: int
    conv_bias: bool
    state_items: int
    scalars: int

    @property
    def reduces(self) -> bool:
        """True: the heads are split over the ranks."""
        return True

    def parameters(self) -> int:
        """Return the number of parameters of one layer."""
        conv = self.conv_width * (self.conv_kernel + (1 if self.conv_bias else 0))
        return self.hidden * self.in_width + self.inner_width * self.hidden + conv + self.scalars

    def cached_items(self, tokens: float) -> float:
        """Return 0: nothing grows with the sequence."""
        return 0.0

    def read_items(self, tokens: float) -> float:
        """Return the elements that a new token reads: all that are kept."""
        return self.cached_items(tokens)

    def cache_ways(self, tp: int) -> float:
        """Return over how many ranks the heads are split."""
        return float(tp)

    def state_bytes(self) -> float:
        """Return the bytes of the states of all layers."""
        return STATE_BYTES * self.layers * self.state_items

    def rows(self, m: Array, at: Shard) -> list[Operator]:
        """Return the projections, the convolution and the scan."""
        group, count = "recurrent", self.layers
        # Convolution and scan are memory-bound: each reads and writes its input once.
        width = 2 * split(self.conv_width, at.tp)
        return [
            *at.linear(group, m, split(self.in_width, at.tp), self.hidden, count),
            *at.linear(group, m, self.hidden, split(self.inner_width, at.tp), count),
            elementwise(group, "rms_norm", m, width, 2 * count, at.formats.rest),
        ]

    def decode(self, sequences: Array, context: Array, at: Shard) -> list[Operator]:
        """Return the read and write of the states."""
        rest = at.formats.rest
        items = split(self.state_items, at.tp) * STATE_BYTES / item_bytes(rest)
        return [elementwise("recurrent", "rms_norm", sequences, items, self.layers, rest)]

    def prefill(self, prompts: Array, length: Array, at: Shard) -> list[Operator]:
        """Return nothing: the scan is part of the rows."""
        return []
