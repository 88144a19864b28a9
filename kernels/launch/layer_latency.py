"""The latency of a decoder layer that does almost no work, which every decode step pays per layer.

A layer consists of a dozen small kernels. At batch 1 on a fast device, their start-up costs can
take longer than reading their bytes. A tiny decoder launches the same kernels as a real one with
almost no weights, so its time per layer is this latency. It is measured in a replayed CUDA graph
(``layer``) and as dispatched by the host (``layer-dispatch``).

    calls = LayerLatency(op="layer").prepare({}, pool)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groundspeed.kernels.capture import capture
from groundspeed.kernels.decoder.decoder import Decoder, DecoderShape
from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.operands import OperandPool

LAYERS = 16
"""Number of layers of the tiny decoder."""

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
"""[tokens] Length of the context of the decode step."""


@dataclass(frozen=True)
class LayerLatency:
    """One decode step of the tiny decoder; the reported time is per layer."""

    op: str = "layer"
    operation: str = "launch"
    backend: str = "torch"
    runs_per_call: int = LAYERS

    @property
    def config_key(self) -> dict[str, str]:
        """Variant of the launch: ``layer`` or ``layer-dispatch``."""
        return {"op": self.op}

    def cost(self, case: Case) -> Cost:
        """Return zero FLOPs and bytes, because the work is negligible."""
        return Cost(0.0, 0.0, 0.0)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one decode step: eager, or replayed in a CUDA graph (``layer`` on a GPU)."""
        decoder, tokens = self._decoder(pool)
        if self.op == "layer-dispatch" or pool.device.type == "cpu":
            return [lambda: decoder.decode(tokens, CONTEXT)]
        if self.op != "layer":
            raise UnsupportedCaseError(f"unknown launch '{self.op}', known: layer, layer-dispatch")
        for _ in range(2):
            decoder.decode(tokens, CONTEXT)
        torch.cuda.synchronize(pool.device)
        chosen = tokens.clone()
        graph = capture(lambda: chosen.copy_(decoder.decode(tokens, CONTEXT)))

        def replay() -> tuple[torch.Tensor, Decoder]:
            graph.replay()
            return chosen, decoder  # the graph stores only addresses: keep memory alive

        return [replay]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Check that prefill plus one decode step gives the same token as the longer prefill."""
        decoder, _ = self._decoder(pool)
        prompt = torch.arange(CONTEXT + 1, device=pool.device)[None] * 7 % SHAPE.vocabulary
        decoder.prefill(prompt[:, :CONTEXT])
        step = decoder.decode(prompt[:, CONTEXT], CONTEXT)
        return 0.0 if torch.equal(step, decoder.prefill(prompt)) else float("inf")

    @staticmethod
    def _decoder(pool: OperandPool) -> tuple[Decoder, torch.Tensor]:
        decoder = Decoder(SHAPE, pool.device, batch=1, capacity=2 * CONTEXT)
        return decoder, torch.zeros(1, dtype=torch.int64, device=pool.device)
