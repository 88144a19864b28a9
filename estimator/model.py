"""A dense decoder as numbers: its sizes, its exact parameter count, its KV cache.

Counts include everything a checkpoint holds: biases, norms, an untied head. What a *decode step
streams* is less: the input embedding is a lookup of a few rows, so for Qwen2.5-32B a step reads
(32.76 - 0.78) B parameters, 64.0 GB in bf16.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from groundspeed.profiles.record import Record

Size = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]
Count = Annotated[int, Field(ge=1, le=100_000, strict=True)]


class Model(Record):
    """The shape of a dense decoder-only transformer."""

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
    norms_per_layer: Literal[1, 2] = 2
    qk_norm: bool = False
    parallel_block: bool = False
    """Attention and MLP read the same normalized input, added together (GPT-J, Falcon)."""
    max_context: int | None = None
    sliding_window: int | None = None
    dtype: str = "bfloat16"
    """In which the weights are published."""
    published_parameters: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Model":
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} attention heads do not divide into {self.kv_heads} KV heads"
            )
        return self

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
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        h = self.hidden
        qkv_width = self.attention_width + 2 * self.kv_width
        norm = h if self.norm == "rms" else 2 * h
        return (
            h * qkv_width
            + (qkv_width if self.qkv_bias else 0)
            + self.attention_width * h
            + (h if self.output_bias else 0)
            + h * self.mlp_width
            + self.intermediate * h
            + (self.mlp_width + h if self.mlp_bias else 0)
            + self.norms_per_layer * norm
            + (2 * self.head_dim if self.qk_norm else 0)
        )

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding (and of the head, where it is tied)."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        head = 0 if self.tied_head else self.embedding_parameters
        bias = self.vocabulary if self.head_bias else 0
        final_norm = self.hidden if self.norm == "rms" else 2 * self.hidden
        return (
            self.embedding_parameters
            + self.layers * self.layer_parameters
            + final_norm
            + head
            + bias
        )

    @property
    def streamed_parameters(self) -> int:
        """Parameters a decode step reads: all, but of the input embedding only a few rows."""
        return self.parameters - (0 if self.tied_head else self.embedding_parameters)

    @property
    def kv_items_per_token(self) -> int:
        """Elements of keys and values that one token adds to the cache."""
        return 2 * self.layers * self.kv_width
