"""A decoder of a given shape with random weights, which ``groundspeed verify`` runs.

The weights are random numbers drawn on the device, because the speed does not depend on their
values. No download and no file is needed, and any model whose shape is known can be run. The
structure is the one that estimates assume: fused QKV and gate-up GEMMs, static KV cache, fused
attention, greedy sampling. Every operation is a function that :mod:`groundspeed.kernels` measures.

    decoder = Decoder(shape, torch.device("cuda"), batch=1, capacity=1024)
    next_token = decoder.prefill(prompt)  # prompt: (1, S) token ids

Shapes: B batch, S prompt length, T cache capacity, H hidden, V vocabulary, D head_dim.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.attention.attention import attend_decode, attend_prefill, attend_window
from groundspeed.kernels.decoder import elementwise
from groundspeed.kernels.kernel import DTYPES
from groundspeed.kernels.matmul.low_precision import scaled_product
from groundspeed.kernels.vendor import vendor_of

Probe = Callable[[str], None]
"""Callback that receives the group of each operation after it was called, e.g. to time it."""


def no_probe(group: str) -> None:
    """Do nothing: the default callback."""


@dataclass(frozen=True)
class MixtureShape:
    """Sizes of the mixture of experts of some layers."""

    layers: int
    """Number of layers with experts: the last ones."""
    experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int = 0
    """Intermediate size of the shared expert; 0: none."""


@dataclass(frozen=True)
class DecoderShape:
    """Sizes and variants of a dense decoder that determine its speed."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied_head: bool
    """Whether the LM head shares the weights of the embedding table."""
    gated_mlp: bool = True
    """Whether the MLP is gated (SiLU of the gate times up); otherwise it uses GELU."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Whether the output projection of attention has a bias."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """Whether query and key heads are normalized before the rotary embedding."""
    layer_norm: bool = False
    """Whether norms are LayerNorm; otherwise they are RMSNorm."""
    parallel_block: bool = False
    """Whether attention and MLP have the same input, as in GPT-J."""
    mixture: "MixtureShape | None" = None
    """Mixture of experts in the last layers; None: every layer has a dense MLP."""
    window: int | None = None
    """[tokens] Number of tokens that attention sees in the first ``windowed_layers``."""
    windowed_layers: int = 0
    fp8_weights: bool = False
    """Whether the weights of attention and dense MLPs are fp8, with a scale for each row. Their
    inputs are then quantized, as in serving engines."""
    dtype: str = "bfloat16"

    @property
    def qkv_width(self) -> int:
        """Output width of the fused QKV GEMM."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass
class _Mixture:
    router: torch.Tensor  # (E, H)
    up: torch.Tensor  # (E, 2 I, H)
    down: torch.Tensor  # (E, H, I)
    shared_up: torch.Tensor | None
    shared_down: torch.Tensor | None
    routes: "_Routes"


@dataclass
class _Layer:
    norm: torch.Tensor  # (H,)
    qkv: torch.Tensor  # (qkv_width, H)
    qkv_bias: torch.Tensor | None
    out: torch.Tensor  # (H, heads * D)
    out_bias: torch.Tensor | None
    mlp_norm: torch.Tensor | None  # (H,), None in a parallel block
    mixture: _Mixture | None
    up: torch.Tensor | None  # (2 I or I, H), None in a layer with experts
    up_bias: torch.Tensor | None
    down: torch.Tensor | None  # (H, I)
    down_bias: torch.Tensor | None
    q_norm: torch.Tensor | None  # (D,)
    k_norm: torch.Tensor | None
    window: int | None
    k_cache: torch.Tensor  # (B, kv_heads, T, D)
    v_cache: torch.Tensor


class _Routes(dict[int, list[tuple[int, torch.Tensor]]]):
    """The rows of each activated expert, for any number of tokens: uniform, drawn once."""

    def __init__(self, shape: MixtureShape, device: torch.device, *, seed: int) -> None:
        super().__init__()
        self._shape, self._device, self._seed = shape, device, seed

    def __missing__(self, tokens: int) -> list[tuple[int, torch.Tensor]]:
        """Draw the experts of some tokens: ``top_k`` different ones for each token."""
        m = self._shape
        generator = torch.Generator().manual_seed(self._seed)
        chosen = torch.rand(tokens, m.experts, generator=generator).topk(m.top_k).indices
        routes = []
        for expert in chosen.unique().tolist():
            rows = torch.nonzero((chosen == expert).any(dim=1)).flatten()
            routes.append((int(expert), rows.to(self._device)))
        self[tokens] = routes
        return routes


class Decoder:
    """A decoder with random weights and a static KV cache.

    Parameters
    ----------
    shape : DecoderShape
    device : torch.device
    batch : int
        Number of sequences in the KV cache.
    capacity : int
        [tokens] Length of the KV cache of each sequence.
    seed : int, default 0
        Random seed of the weights.

    Raises
    ------
    torch.OutOfMemoryError, RuntimeError
        If the weights and the KV cache do not fit in the memory of the device.
    """

    def __init__(
        self,
        shape: DecoderShape,
        device: torch.device,
        *,
        batch: int,
        capacity: int,
        seed: int = 0,
    ) -> None:
        self.shape = shape
        self.device = device
        self.batch = batch
        self.capacity = capacity
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._fp8 = vendor_of(device).fp8
        self._masks: dict[int, torch.Tensor] = {}  # of attention in windows
        s = shape
        widest = max(s.qkv_width, s.hidden, 2 * s.intermediate)
        self._ones = torch.ones((1, widest), device=device)  # the scales of the weights
        self.table = self._weight(s.vocabulary, s.hidden)
        self.head = self.table if s.tied_head else self._weight(s.vocabulary, s.hidden)
        self.final_norm = self._weight(s.hidden)
        self.layers = [self._layer(i) for i in range(s.layers)]
        angles = torch.arange(capacity, device=device)[:, None] / 1e4 ** (
            torch.arange(0, s.head_dim, 2, device=device) / s.head_dim
        )
        both = torch.cat((angles, angles), dim=-1)[:, None]  # (T, 1, D)
        self.cos, self.sin = both.cos().to(DTYPES[s.dtype]), both.sin().to(DTYPES[s.dtype])

    def prefill(self, tokens: torch.Tensor, probe: Probe = no_probe) -> torch.Tensor:
        """Process a prompt and return the first token of each sequence.

        Parameters
        ----------
        tokens : (B, S) int64 Tensor
            Prompt of each sequence.
        probe : callable, optional
            Called after each operation with its group. Default: no callback.

        Returns
        -------
        (B,) int64 Tensor
        """
        return self._forward(tokens, 0, probe)

    def decode(self, tokens: torch.Tensor, position: int, probe: Probe = no_probe) -> torch.Tensor:
        """Process one token per sequence and return the next one.

        Parameters
        ----------
        tokens : (B,) int64 Tensor
        position : int
            Number of tokens that are already in the KV cache.
        probe : callable, optional
            Called after each operation with its group. Default: no callback.

        Returns
        -------
        (B,) int64 Tensor
        """
        return self._forward(tokens[:, None], position, probe)

    def _forward(self, tokens: torch.Tensor, start: int, probe: Probe) -> torch.Tensor:
        s = self.shape
        batch, length = tokens.shape
        x = elementwise.embed(self.table, tokens.reshape(-1))  # (B * S, H)
        probe("embed")
        cos = self.cos[start : start + length].repeat(batch, 1, 1)
        sin = self.sin[start : start + length].repeat(batch, 1, 1)
        for layer in self.layers:
            normed = self._norm(x, layer.norm)
            probe("norm")
            attended = self._attention(layer, normed, cos, sin, batch, start, probe)
            x = x + attended
            probe("residual")
            if layer.mlp_norm is not None:  # else attention and MLP have the same input (GPT-J)
                normed = self._norm(x, layer.mlp_norm)
                probe("norm")
            x = x + self._mlp(layer, normed, probe)
            probe("residual")
        last = x.view(batch, length, s.hidden)[:, -1]
        last = self._norm(last, self.final_norm)
        probe("norm")
        logits = F.linear(last, self.head)  # (B, V)
        probe("head")
        chosen = elementwise.argmax(logits)
        probe("sampling")
        return chosen

    def _mlp(self, layer: _Layer, x: torch.Tensor, probe: Probe) -> torch.Tensor:
        """Run the dense MLP or the mixture of a layer on (rows, H) inputs."""
        if layer.mixture is not None:
            return self._experts(layer.mixture, x, probe)
        if layer.up is None or layer.down is None:
            raise AssertionError("a layer has a dense MLP or a mixture")
        up = self._linear(x, layer.up, layer.up_bias, "mlp", probe)
        up = elementwise.silu_mul(up) if self.shape.gated_mlp else elementwise.gelu(up)
        probe("activation")
        return self._linear(up, layer.down, layer.down_bias, "mlp", probe)

    def _linear(
        self, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, group: str, probe: Probe
    ) -> torch.Tensor:
        """Multiply (rows, K) inputs by a weight of a layer, which may be fp8."""
        if w.dtype != self._fp8:
            result = F.linear(x, w, bias)
            probe(group)
            return result
        quantized, scale = elementwise.quantize_rows(x, self._fp8)
        probe("quantize")
        result = scaled_product(quantized, w, scale, self._ones[:, : w.shape[0]])
        if bias is not None:
            result = result + bias
        probe(group)
        return result

    def _experts(self, mixture: _Mixture, x: torch.Tensor, probe: Probe) -> torch.Tensor:
        """Run the activated experts one after another, each on the rows routed to it.

        The router's GEMM and softmax run, and its weights scale the results, but the choice is a
        fixed random one: that of an untrained router would depend on the random weights, and the
        host would have to wait for it.
        """
        weights = torch.softmax(F.linear(x, mixture.router), dim=-1)  # (rows, E)
        probe("router")
        out = torch.zeros_like(x)
        for expert, rows in mixture.routes[x.shape[0]]:
            part = x[rows]
            probe("experts")
            up = F.linear(part, mixture.up[expert])
            probe("experts")
            up = elementwise.silu_mul(up)
            probe("experts")
            down = F.linear(up, mixture.down[expert])
            probe("experts")
            out.index_add_(0, rows, down * weights[rows, expert, None])
            probe("experts")
        if mixture.shared_up is not None and mixture.shared_down is not None:
            up = F.linear(x, mixture.shared_up)
            probe("shared")
            up = elementwise.silu_mul(up)
            probe("activation")
            shared = F.linear(up, mixture.shared_down)
            probe("shared")
            out = out + shared
            probe("residual")
        return out

    def _attention(
        self,
        layer: _Layer,
        normed: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        batch: int,
        start: int,
        probe: Probe,
    ) -> torch.Tensor:
        s = self.shape
        rows = normed.shape[0]
        length = rows // batch
        qkv = self._linear(normed, layer.qkv, layer.qkv_bias, "qkv", probe)
        heads = qkv.view(rows, s.heads + 2 * s.kv_heads, s.head_dim)
        turning, v = heads[:, : s.heads + s.kv_heads], heads[:, s.heads + s.kv_heads :]
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = turning[:, : s.heads], turning[:, s.heads :]
            turning = torch.cat((self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)), dim=1)
            probe("norm")
        turning = elementwise.rotary(turning, cos, sin)
        probe("rotary")
        q, k = turning[:, : s.heads], turning[:, s.heads :]
        end = start + length
        layer.k_cache[:, :, start:end] = k.view(batch, length, -1, s.head_dim).transpose(1, 2)
        layer.v_cache[:, :, start:end] = v.view(batch, length, -1, s.head_dim).transpose(1, 2)
        probe("kv_write")
        q = q.view(batch, length, s.heads, s.head_dim).transpose(1, 2)
        window = layer.window if layer.window is not None and end > layer.window else None
        first = end - window if window is not None and length == 1 else 0
        k, v = layer.k_cache[:, :, first:end], layer.v_cache[:, :, first:end]
        if length == 1:
            attended = attend_decode(q, k, v)
        elif window is not None:
            attended = attend_window(q, k, v, window, self._masks)
        else:
            attended = attend_prefill(q, k, v)
        probe("attention")
        flat = attended.transpose(1, 2).reshape(rows, s.heads * s.head_dim)
        return self._linear(flat, layer.out, layer.out_bias, "out", probe)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self.shape.layer_norm:
            return elementwise.layer_norm(x, weight, None)
        return elementwise.rms_norm(x, weight)

    def _weight(self, *size: int) -> torch.Tensor:
        """Return normal numbers, scaled so that all layers have activations of one magnitude."""
        weight = torch.empty(size, dtype=DTYPES[self.shape.dtype], device=self.device)
        if len(size) == 1:
            return weight.fill_(1.0)
        return weight.normal_(0.0, size[-1] ** -0.5, generator=self._generator)

    def _layer_weight(self, *size: int) -> torch.Tensor:
        """Return a weight of attention or a dense MLP, in fp8 if the shape says so."""
        weight = self._weight(*size)
        return weight.to(self._fp8) if self.shape.fp8_weights else weight

    def _mixture(self, m: MixtureShape, index: int) -> _Mixture:
        hidden, shared = self.shape.hidden, m.shared_intermediate
        routes = _Routes(m, self.device, seed=index)
        return _Mixture(
            router=self._weight(m.experts, hidden),
            up=self._weight(m.experts, 2 * m.intermediate, hidden),
            down=self._weight(m.experts, hidden, m.intermediate),
            shared_up=self._weight(2 * shared, hidden) if shared else None,
            shared_down=self._weight(hidden, shared) if shared else None,
            routes=routes,
        )

    def _layer(self, index: int) -> _Layer:
        s = self.shape
        cache = (self.batch, s.kv_heads, self.capacity, s.head_dim)

        def zeros(*size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=DTYPES[s.dtype], device=self.device)

        up_width = 2 * s.intermediate if s.gated_mlp else s.intermediate
        m = s.mixture
        dense = m is None or index < s.layers - m.layers

        def bias(wanted: bool, width: int) -> torch.Tensor | None:
            return zeros(width) if wanted else None

        return _Layer(
            norm=self._weight(s.hidden),
            qkv=self._layer_weight(s.qkv_width, s.hidden),
            qkv_bias=bias(s.qkv_bias, s.qkv_width),
            out=self._layer_weight(s.hidden, s.heads * s.head_dim),
            out_bias=bias(s.output_bias, s.hidden),
            mlp_norm=None if s.parallel_block else self._weight(s.hidden),
            mixture=None if m is None or dense else self._mixture(m, index),
            up=self._layer_weight(up_width, s.hidden) if dense else None,
            up_bias=bias(s.mlp_bias and dense, up_width),
            down=self._layer_weight(s.hidden, s.intermediate) if dense else None,
            down_bias=bias(s.mlp_bias and dense, s.hidden),
            q_norm=self._weight(s.head_dim) if s.qk_norm else None,
            k_norm=self._weight(s.head_dim) if s.qk_norm else None,
            window=s.window if index < s.windowed_layers else None,
            k_cache=zeros(*cache),
            v_cache=zeros(*cache),
        )
