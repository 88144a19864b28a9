"""The latency of a decoder layer that does almost no work: what decode pays for each layer.

A layer is a dozen small kernels; at batch 1 on a fast device their start-up costs, not their
bytes, can decide. A tiny decoder has all the launches of a real one and none of its weight, so its
time per layer is that latency: replayed in a graph (``layer``), or as the host dispatches it
(``layer-dispatch``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.decoder.decoder import Decoder, DecoderShape
from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.operands import OperandPool

LAYERS = 16
SHAPE = DecoderShape(
    hidden=128,
    intermediate=128,
    layers=LAYERS,
    heads=2,
    kv_heads=1,
    head_dim=64,
    vocabulary=128,
    tied_head=True,
)
CONTEXT = 16


@dataclass(frozen=True)
class LayerLatency:
    """One decode step of the tiny decoder; its time is divided by the layers."""

    op: str = "layer"
    operation: str = "launch"
    backend: str = "torch"
    runs_per_call: int = LAYERS

    @property
    def config_key(self) -> dict[str, str]:
        """How it is launched."""
        return {"op": self.op}

    def cost(self, case: Case) -> Cost:
        """None that counts."""
        return Cost(0.0, 0.0, 0.0)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """A decode step: eager, or on a GPU as the replay of a graph."""
        decoder, tokens = self._decoder(pool)
        if self.op == "layer-dispatch" or pool.device.type == "cpu":
            return [lambda: decoder.decode(tokens, CONTEXT)]
        if self.op != "layer":
            raise UnsupportedCaseError(f"launch '{self.op}' is none of a layer")
        for _ in range(2):
            decoder.decode(tokens, CONTEXT)
        torch.cuda.synchronize(pool.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            chosen = decoder.decode(tokens, CONTEXT)

        def replay() -> tuple[torch.Tensor, Decoder]:
            graph.replay()
            return chosen, decoder  # the graph holds only addresses: keep the memory alive

        return [replay]

    def check(self, case: Case, pool: OperandPool) -> float:
        """A step after a prefill says what the longer prefill says."""
        decoder, _ = self._decoder(pool)
        prompt = torch.arange(CONTEXT + 1, device=pool.device)[None] * 7 % SHAPE.vocabulary
        decoder.prefill(prompt[:, :CONTEXT])
        step = decoder.decode(prompt[:, CONTEXT], CONTEXT)
        return 0.0 if torch.equal(step, decoder.prefill(prompt)) else float("inf")

    @staticmethod
    def _decoder(pool: OperandPool) -> tuple[Decoder, torch.Tensor]:
        decoder = Decoder(SHAPE, pool.device, batch=1, capacity=2 * CONTEXT)
        return decoder, torch.zeros(1, dtype=torch.int64, device=pool.device)
