"""A decoder as numbers: its sizes, its exact parameter count, its cache.

Counts include everything a checkpoint holds: biases, norms, an untied head; not the layers that
only predict further tokens for speculation. What a *decode step streams* is less: the input
embedding is a lookup of a few rows, so for Qwen2.5-32B a step reads (32.76 - 0.78) B parameters,
64.0 GB in bf16; and of a mixture's experts it reads those that some token chose.

A layer has a *mixer* (attention over all of the past, over a window, latent attention, or a
recurrence of fixed size) and a *channel part* (a dense MLP, or experts). Counts of layers say how
many have which.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from groundspeed.profiles.record import Record

Size = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]
Count = Annotated[int, Field(ge=1, le=100_000, strict=True)]
Some = Annotated[int, Field(ge=0, le=10_000_000, strict=True)]


class Latent(Record):
    """Multi-head latent attention (DeepSeek): what is cached is one compressed vector a token."""

    query_rank: Some
    """0: queries are not compressed."""
    kv_rank: Size
    nope_dim: Size
    rope_dim: Size
    value_dim: Size
    index_heads: Some = 0
    index_dim: Some = 0
    index_top_k: Some = 0
    """Of a sparse variant: how many tokens of the past a new one attends to; 0 is all."""

    @property
    def cached(self) -> int:
        """Elements a token adds to a layer's cache; the index has keys of its own."""
        return self.kv_rank + self.rope_dim

    @property
    def query_dim(self) -> int:
        """Elements of a query head."""
        return self.nope_dim + self.rope_dim


class Experts(Record):
    """A mixture: each token is sent to a few of many small MLPs."""

    count: Count
    top_k: Count
    intermediate: Size
    layers: Count
    """How many layers have experts in place of a dense MLP."""
    shared_intermediate: Some = 0
    """Of the expert that every token visits; 0 if there is none."""
    shared_gate: bool = False
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    latent_hidden: Some = 0
    """Width that tokens are projected to before they visit experts; 0 is the model's own."""

    @model_validator(mode="after")
    def _possible(self) -> "Experts":
        if self.top_k > self.count:
            raise ValueError(f"{self.top_k} of {self.count} experts cannot be chosen")
        return self

    @property
    def matrices(self) -> int:
        """Matrices of one expert."""
        return 3 if self.gated else 2


class Recurrent(Record):
    """Linear attention or a state-space mixer: a state of fixed size in place of a cache."""

    kind: Literal["gated_delta", "mamba2"]
    layers: Count
    in_width: Size
    """Columns of the projections of the input, all together."""
    inner_width: Size
    """What goes into the projection of the output."""
    conv_width: Size
    conv_kernel: Count
    conv_bias: bool = False
    state_items: Size
    """Elements of the recurrent state of one sequence in one layer."""
    heads: Count
    scalars: Some
    """Small parameters of a layer: decay, step, norms."""


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
    """The norm of queries and keys is over all heads together (MiniMax), not each."""
    output_gate: bool = False
    """Queries come with a gate of the same size (Qwen3-Next)."""
    sinks: bool = False
    """A learned logit for each head that attends to nothing (gpt-oss)."""
    parallel_block: bool = False
    """Attention and MLP read the same normalized input, added together (GPT-J, Falcon)."""
    max_context: int | None = None
    sliding_window: int | None = None
    windowed_layers: Some = 0
    """Layers whose attention sees the last ``sliding_window`` tokens only."""
    latent: Latent | None = None
    experts: Experts | None = None
    recurrent: Recurrent | None = None
    mixer_layers: Some | None = None
    """Layers with attention; None is all that are not recurrent."""
    dense_layers: Some | None = None
    """Layers with a dense MLP; None is all that have no experts."""
    dtype: str = "bfloat16"
    """In which the weights are published, or computed where they are quantized."""
    weights: str | None = None
    """Format of quantized weights (``fp8_block``, ``w4a16_mxfp4``, ...); None if they are not."""
    fp8_format: Literal["fp8", "fp8_block"] = "fp8"
    """How its publisher scales 8-bit weights; what ``--dtype fp8`` means for it."""
    quantized_part: Literal["linear", "experts"] = "linear"
    """What is quantized: every product of the layers, or the experts alone."""
    kv_dtype: str | None = None
    """Of the cache, where the checkpoint says so."""
    published_parameters: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Model":
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} attention heads do not divide into {self.kv_heads} KV heads"
            )
        if self.windowed_layers and self.sliding_window is None:
            raise ValueError("layers with a window need its size")
        if self.windowed_layers > self.attention_layers:
            raise ValueError("more layers have a window than have attention")
        if self.experts is not None and self.experts.layers > self.layers:
            raise ValueError("more layers have experts than there are")
        return self

    @property
    def attention_layers(self) -> int:
        """Layers with attention, windowed or not."""
        if self.mixer_layers is not None:
            return self.mixer_layers
        return self.layers - (self.recurrent.layers if self.recurrent else 0)

    @property
    def mlp_layers(self) -> int:
        """Layers with a dense MLP."""
        if self.dense_layers is not None:
            return self.dense_layers
        return self.layers - (self.experts.layers if self.experts else 0)

    @property
    def attention_width(self) -> int:
        """Elements of all query heads of a token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of all key heads of a token (values have as many)."""
        return self.kv_heads * self.head_dim

    @property
    def mlp_width(self) -> int:
        """Columns of the first MLP product: gate and up together."""
        return (2 if self.gated_mlp else 1) * self.intermediate

    @property
    def attention_parameters(self) -> int:
        """Parameters of the attention of one layer."""
        h = self.hidden
        if self.latent is not None:
            t = self.latent
            queries = self.heads * t.query_dim
            compressed = t.query_rank * (h + 1 + queries) if t.query_rank else h * queries
            cache = h * t.cached + t.kv_rank
            up = t.kv_rank * self.heads * (t.nope_dim + t.value_dim)
            index = 0
            if t.index_heads:
                # Queries from the compressed ones, one key, a weight for each head, a norm.
                index = t.index_heads * t.index_dim * t.query_rank + h * t.index_dim
                index += h * t.index_heads + 2 * t.index_dim
            return compressed + cache + up + self.heads * t.value_dim * h + index
        queries = self.attention_width * (2 if self.output_gate else 1)
        qkv_width = queries + 2 * self.kv_width
        normed = 2 * self.head_dim if self.qk_norm else 0
        normed += self.attention_width + self.kv_width if self.qk_norm_whole else 0
        return (
            h * qkv_width
            + (qkv_width if self.qkv_bias else 0)
            + self.attention_width * h
            + (h if self.output_bias else 0)
            + normed
            + (self.heads if self.sinks else 0)
        )

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
    def recurrent_parameters(self) -> int:
        """Parameters of one recurrent mixer."""
        if self.recurrent is None:
            return 0
        r = self.recurrent
        conv = r.conv_width * (r.conv_kernel + (1 if r.conv_bias else 0))
        return self.hidden * r.in_width + r.inner_width * self.hidden + conv + r.scalars

    @property
    def norm_width(self) -> int:
        """Parameters of one norm over the hidden size."""
        return self.hidden if self.norm == "rms" else 2 * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Parameters of one dense layer."""
        norms = self.norms_per_layer * self.norm_width
        return self.attention_parameters + self.mlp_parameters + norms

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding (and of the head, where it is tied)."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        head = 0 if self.tied_head else self.embedding_parameters
        bias = self.vocabulary if self.head_bias else 0
        return (
            self.embedding_parameters
            + self.attention_layers * self.attention_parameters
            + self.mlp_layers * self.mlp_parameters
            + (self.experts.layers if self.experts else 0) * self.mixture_parameters
            + (self.recurrent.layers if self.recurrent else 0) * self.recurrent_parameters
            + self.layers * self.norms_per_layer * self.norm_width
            + self.norm_width
            + head
            + bias
        )

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets: of the experts, those it visits."""
        if self.experts is None:
            return self.parameters
        idle = (self.experts.count - self.experts.top_k) * self.expert_parameters
        return self.parameters - self.experts.layers * idle

    @property
    def streamed_parameters(self) -> int:
        """Parameters a decode step reads: all, but of the input embedding only a few rows."""
        return self.parameters - (0 if self.tied_head else self.embedding_parameters)

    @property
    def kv_items_per_token(self) -> int:
        """Elements that one token adds to the cache, while no window is full."""
        if self.latent is not None:
            return self.attention_layers * (self.latent.cached + self.latent.index_dim)
        return 2 * self.attention_layers * self.kv_width
