"""Sizes of a decoder-only model, its exact parameter count and its KV cache size.

Parameter counts include everything in a checkpoint (biases, norms, an untied LM head), except
layers used only for multi-token prediction in speculative decoding. A *decode step reads* fewer
parameters: the input embedding is a lookup of a few rows, so for Qwen2.5-32B a step reads
(32.76 - 0.78) B parameters, 64.0 GB in bf16; of a mixture's experts it reads those that at least
one token selected.

A layer has a *mixer* (full attention, sliding-window attention, latent attention, or a recurrence
with a state of fixed size) and a *channel part* (a dense MLP, or experts). The layer counts state
how many layers have each kind.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from groundspeed.estimator.mixers.compressed import CompressedAttention
from groundspeed.estimator.mixers.grouped import Grouped
from groundspeed.estimator.mixers.latent import LatentAttention
from groundspeed.estimator.mixers.mixer import Mixer
from groundspeed.estimator.mixers.recurrent import Recurrence
from groundspeed.estimator.mixers.sparse_blocks import SparseAttention
from groundspeed.profiles.record import Record

Size = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]
Count = Annotated[int, Field(ge=1, le=100_000, strict=True)]
NonNegativeSize = Annotated[int, Field(ge=0, le=10_000_000, strict=True)]


class Latent(Record):
    """Multi-head latent attention (MLA, DeepSeek): caches one compressed vector per token."""

    query_rank: NonNegativeSize
    """Rank of the compressed queries; 0: queries are not compressed."""
    kv_rank: Size
    nope_dim: Size
    rope_dim: Size
    value_dim: Size
    index_heads: NonNegativeSize = 0
    index_dim: NonNegativeSize = 0
    index_top_k: NonNegativeSize = 0
    """Sparse attention: number of past tokens that a new token attends to; 0: all of them."""


class Compressed(Record):
    """Compressed attention (DeepSeek-V4): a window, and vectors that stand for several tokens."""

    ratios: tuple[tuple[NonNegativeSize, Count], ...]
    """Numbers of tokens that one vector stands for (0: window alone), each with its layers."""
    query_rank: Size
    output_rank: Size
    output_groups: Count
    window: Size
    index_heads: Count
    index_dim: Size
    index_top_k: Size
    streams: Count = 1
    """Width of the residual in hidden sizes (hyper-connections)."""


class SparseBlocks(Record):
    """Grouped attention over the best blocks of past tokens, chosen by an index (MiniMax-M3)."""

    layers: Count
    """Number of layers that have it; the others attend to all tokens."""
    index_heads: Count
    index_dim: Size
    seen: Size
    """Number of past tokens that a new token attends to."""


class Experts(Record):
    """A mixture of experts: each token is routed to ``top_k`` of ``count`` small MLPs."""

    count: Count
    top_k: Count
    intermediate: Size
    layers: Count
    """Number of layers with experts instead of a dense MLP."""
    shared_intermediate: NonNegativeSize = 0
    """Intermediate size of the shared expert, which processes every token; 0: no shared expert."""
    shared_gate: bool = False
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    latent_hidden: NonNegativeSize = 0
    """Width to which tokens are projected before the experts; 0: the model's hidden size."""

    @model_validator(mode="after")
    def _possible(self) -> "Experts":
        if self.top_k > self.count:
            raise ValueError(f"top_k ({self.top_k}) exceeds the number of experts ({self.count})")
        return self

    @property
    def matrices(self) -> int:
        """Number of weight matrices of one expert."""
        return 3 if self.gated else 2


class Recurrent(Record):
    """Linear attention or a state-space mixer: has a state of fixed size instead of a KV cache."""

    kind: Literal["gated_delta", "mamba2"]
    layers: Count
    in_width: Size
    """Total number of output columns of the input projections."""
    inner_width: Size
    """Input width of the output projection."""
    conv_width: Size
    conv_kernel: Count
    conv_bias: bool = False
    state_items: Size
    """Number of elements of the recurrent state per sequence and layer."""
    heads: Count
    scalars: NonNegativeSize
    """Number of small parameters per layer: decay, step size, norms."""


class Model(Record):
    """The shape of a decoder-only transformer."""

    id: str
    architecture: str
    hidden: Size
    intermediate: Size
    layers: Annotated[int, Field(ge=1, le=10_000, strict=True)]
    heads: Count
    kv_heads: Count
    head_dim: Annotated[int, Field(ge=1, le=65_536, strict=True)]
    vocabulary: Annotated[int, Field(ge=1, le=100_000_000, strict=True)]
    tied_head: bool
    gated_mlp: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    norm: Literal["rms", "layer"] = "rms"
    norms_per_layer: Literal[1, 2, 4] = 2
    qk_norm: bool = False
    qk_norm_whole: bool = False
    """True if the norm of queries and keys spans all heads together (MiniMax), not each head."""
    output_gate: bool = False
    """True if the query projection also computes an output gate of the same size (Qwen3-Next)."""
    sinks: bool = False
    """True if each head has an attention sink: a learned extra logit (gpt-oss)."""
    parallel_block: bool = False
    """True if attention and MLP read the same norm and their outputs are added (GPT-J, Falcon)."""
    max_context: int | None = None
    sliding_window: int | None = None
    windowed_layers: NonNegativeSize = 0
    """Number of layers whose attention is limited to the last ``sliding_window`` tokens."""
    global_head_dim: Size | None = None
    """Head dimension of the layers without a window; None: that of all."""
    global_kv_heads: Count | None = None
    """Number of KV heads of the layers without a window; None: that of all."""
    global_values_are_keys: bool = False
    """True if the layers without a window have one projection for keys and values (Gemma 4)."""
    latent: Latent | None = None
    compressed: Compressed | None = None
    sparse: SparseBlocks | None = None
    experts: Experts | None = None
    recurrent: Recurrent | None = None
    mixer_layers: NonNegativeSize | None = None
    """Number of layers with attention; None: all layers that are not recurrent."""
    dense_layers: NonNegativeSize | None = None
    """Number of layers with a dense MLP; None: all layers without experts."""
    dtype: str = "bfloat16"
    """Data type of the published weights; for quantized weights, the compute data type."""
    weights: str | None = None
    """Format of quantized weights (``fp8_block``, ``w4a16_mxfp4``, ...); None: not quantized."""
    fp8_format: Literal["fp8", "fp8_block"] = "fp8"
    """Scaling of 8-bit weights by the publisher; the meaning of ``--dtype fp8`` for this model."""
    quantized_part: Literal["linear", "experts"] = "linear"
    """Quantized weights: all linear layers, or only the experts."""
    expert_weights: str | None = None
    """Format of the experts' weights where the publisher gives them one of their own."""
    weight_group: Count | None = None
    """Number of 4-bit weights that share a scale; None: 128."""
    kv_dtype: str | None = None
    """Format of the KV cache; None: the checkpoint does not specify it."""
    published_parameters: int | None = None
    notes: tuple[str, ...] = ()
    """What was read from the name or left out of the model."""

    @model_validator(mode="after")
    def _consistent(self) -> "Model":
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} attention heads are not divisible by {self.kv_heads} KV heads"
            )
        if self.windowed_layers and self.sliding_window is None:
            raise ValueError("windowed_layers is given, but sliding_window is missing")
        if self.windowed_layers > self.attention_layers:
            raise ValueError("windowed_layers exceeds the number of layers with attention")
        if self.experts is not None and self.experts.layers > self.layers:
            raise ValueError("the number of layers with experts exceeds the number of layers")
        return self

    @property
    def attention_layers(self) -> int:
        """Number of layers with attention, windowed or not."""
        if self.mixer_layers is not None:
            return self.mixer_layers
        return self.layers - (self.recurrent.layers if self.recurrent else 0)

    @property
    def mlp_layers(self) -> int:
        """Number of layers with a dense MLP."""
        if self.dense_layers is not None:
            return self.dense_layers
        return self.layers - (self.experts.layers if self.experts else 0)

    @property
    def attends_latents(self) -> bool:
        """True if attention runs over compressed vectors that all heads share."""
        return self.latent is not None or self.compressed is not None

    @property
    def indexed_latent_layers(self) -> int:
        """Number of layers of latent attention that choose their tokens by an index."""
        if self.compressed is not None:
            return sum(layers for _, layers in self.compressed.ratios)
        if self.latent is not None and self.latent.index_top_k:
            return self.attention_layers
        return 0

    @property
    def kind(self) -> str:
        """What decides which kernels dominate: ``dense``, or what makes it otherwise."""
        if self.recurrent is not None:
            return "hybrid"
        if self.attends_latents:
            return "latent"
        return "mixture" if self.experts is not None else "dense"

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """The kinds of attention and recurrence, each with the number of its layers."""
        found: list[Mixer] = []
        whole = self.attention_layers - self.windowed_layers
        if self.latent is not None:
            sizes = self.latent.model_dump()
            found.append(
                LatentAttention(
                    layers=self.attention_layers, hidden=self.hidden, heads=self.heads, **sizes
                )
            )
        elif self.compressed is not None:
            sizes = self.compressed.model_dump(exclude={"ratios"})
            found += [
                CompressedAttention(
                    layers=count, ratio=ratio, hidden=self.hidden, heads=self.heads,
                    head_dim=self.head_dim, **sizes,
                )
                for ratio, count in self.compressed.ratios
            ]  # fmt: skip
        else:
            blocks = self.sparse.layers if self.sparse is not None else 0
            found += [
                self._grouped(count, window)
                for count, window in (
                    (whole - blocks, None), (self.windowed_layers, self.sliding_window),
                )
                if count
            ]  # fmt: skip
            if self.sparse is not None:
                sizes = self.sparse.model_dump(exclude={"layers"})
                found.append(SparseAttention(self._grouped(blocks, None), **sizes))
        if self.recurrent is not None:
            sizes = self.recurrent.model_dump(exclude={"kind", "heads"})
            found.append(Recurrence(hidden=self.hidden, **sizes))
        return tuple(found)

    def _grouped(self, layers: int, window: int | None) -> Grouped:
        whole = window is None
        return Grouped(
            layers=layers,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=(self.global_kv_heads if whole else None) or self.kv_heads,
            head_dim=(self.global_head_dim if whole else None) or self.head_dim,
            window=window,
            values_are_keys=whole and self.global_values_are_keys,
            output_gate=self.output_gate,
            qkv_bias=self.qkv_bias,
            output_bias=self.output_bias,
            sinks=self.sinks,
            qk_norm=self.qk_norm,
            qk_norm_whole=self.qk_norm_whole,
            layer_norm=self.norm == "layer",
            parallel_block=self.parallel_block,
        )

    @property
    def mlp_width(self) -> int:
        """Number of output columns of the first MLP GEMM: gate and up together."""
        return (2 if self.gated_mlp else 1) * self.intermediate

    @property
    def mlp_parameters(self) -> int:
        """Parameters of one dense MLP."""
        h = self.hidden
        bias = self.mlp_width + h if self.mlp_bias else 0
        return h * self.mlp_width + self.intermediate * h + bias

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert."""
        if self.experts is None:
            return 0
        e = self.experts
        width = e.latent_hidden or self.hidden
        bias = (e.matrices - 1) * e.intermediate + width if e.bias else 0
        return e.matrices * width * e.intermediate + bias

    @property
    def mixture_parameters(self) -> int:
        """Parameters of the experts of one layer, its router and its shared expert."""
        if self.experts is None:
            return 0
        e = self.experts
        router = self.hidden * e.count + (e.count if e.router_bias else 0)
        shared = e.matrices * self.hidden * e.shared_intermediate
        gate = self.hidden if e.shared_gate else 0
        latent = 2 * self.hidden * e.latent_hidden
        return e.count * self.expert_parameters + router + shared + gate + latent

    @property
    def mixer_parameters(self) -> int:
        """Parameters of attention and recurrences of all layers."""
        return sum(mixer.layers * mixer.parameters() for mixer in self.mixers)

    @property
    def norm_width(self) -> int:
        """Parameters of one norm over the hidden size."""
        return self.hidden if self.norm == "rms" else 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding (shared with the LM head if it is tied)."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        head = 0 if self.tied_head else self.embedding_parameters
        bias = self.vocabulary if self.head_bias else 0
        return (
            self.embedding_parameters
            + self.mixer_parameters
            + self.mlp_layers * self.mlp_parameters
            + (self.experts.layers if self.experts else 0) * self.mixture_parameters
            + self.layers * self.norms_per_layer * self.norm_width
            + self.norm_width
            + head
            + bias
        )

    @property
    def active_parameters(self) -> int:
        """Parameters used for one token: of the experts, only the ``top_k`` it is routed to."""
        if self.experts is None:
            return self.parameters
        idle = (self.experts.count - self.experts.top_k) * self.expert_parameters
        return self.parameters - self.experts.layers * idle

    @property
    def streamed_parameters(self) -> int:
        """Parameters that a decode step reads: all except an untied input embedding."""
        return self.parameters - (0 if self.tied_head else self.embedding_parameters)

    @property
    def kv_items_per_token(self) -> int:
        """Number of elements that one token adds to the KV cache while no window is full."""
        return round(sum(mixer.cached_items(1.0) for mixer in self.mixers))
