"""Read a Hugging Face ``config.json``, which may come from anywhere.

Each architecture has a dialect: which key holds what, and the facts that its code fixes and its
configuration does not say (Qwen2 has biases on Q, K and V and no key for it). An unknown
architecture is refused: a wrong parameter count would look just like a right one.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from groundspeed.estimator.model import Model
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.files import parse_json_object, read_text
from groundspeed.profiles.record import describe

Facts = dict[str, Any]
Config = Mapping[str, Any]

EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


class _Reader:
    """Looks keys up in a configuration and complains in one line."""

    def __init__(self, config: Config, where: str) -> None:
        self.config = config
        self.where = where

    def whole(self, *names: str, default: int | None = None) -> int:
        """A positive whole number under the first of these keys that is there."""
        for name in names:
            value = self.config.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(
                    f"'{name}' must be a whole number, not {_show(value)}", where=self.where
                )
            if value < 1:
                raise InputError(f"'{name}' must be positive, not {value}", where=self.where)
            return value
        if default is not None:
            return default
        raise InputError(
            f"lacks '{names[0]}'", where=self.where, remedy="is it the config.json of a model?"
        )

    def optional(self, name: str) -> int | None:
        """A positive whole number, or None where the key is absent or null."""
        return self.whole(name) if self.config.get(name) is not None else None

    def flag(self, name: str, *, default: bool) -> bool:
        """A true or false."""
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(
                f"'{name}' must be true or false, not {_show(value)}", where=self.where
            )
        return value

    def text(self, name: str, default: str) -> str:
        """A string."""
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InputError(f"'{name}' must be a string, not {_show(value)}", where=self.where)
        return value


def _llama_like(r: _Reader) -> Facts:
    heads = r.whole("num_attention_heads")
    hidden = r.whole("hidden_size")
    attention_bias = r.flag("attention_bias", default=False)
    mlp_bias = r.flag("mlp_bias", default=False)
    head_dim = r.optional("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise InputError(
                f"hidden_size {hidden} does not divide into {heads} heads and there is no head_dim",
                where=r.where,
            )
        head_dim = hidden // heads
    return {
        "hidden": hidden,
        "intermediate": r.whole("intermediate_size"),
        "layers": r.whole("num_hidden_layers"),
        "heads": heads,
        "kv_heads": r.whole("num_key_value_heads", default=heads),
        "head_dim": head_dim,
        "vocabulary": r.whole("vocab_size"),
        "tied_head": r.flag("tie_word_embeddings", default=False),
        "qkv_bias": attention_bias,
        "output_bias": attention_bias,
        "mlp_bias": mlp_bias,
        "max_context": r.optional("max_position_embeddings"),
        "sliding_window": r.optional("sliding_window")
        if r.flag("use_sliding_window", default=True)
        else None,
    }


def _qwen2(r: _Reader) -> Facts:
    # Biases on Q, K and V are fixed by the architecture; its window is off unless asked for.
    window = r.optional("sliding_window") if r.flag("use_sliding_window", default=False) else None
    return _llama_like(r) | {"qkv_bias": True, "output_bias": False, "sliding_window": window}


def _qwen3(r: _Reader) -> Facts:
    window = r.optional("sliding_window") if r.flag("use_sliding_window", default=False) else None
    return _llama_like(r) | {"qk_norm": True, "sliding_window": window}


def _phi3(r: _Reader) -> Facts:
    # Its window of 2047 tokens is part of the published configuration of the 4k model, but the
    # attention of its reference code sees the whole context.
    return _llama_like(r) | {"sliding_window": None}


def _gpt_j(r: _Reader) -> Facts:
    hidden, heads = r.whole("n_embd"), r.whole("n_head")
    return {
        "hidden": hidden,
        "intermediate": r.optional("n_inner") or 4 * hidden,
        "layers": r.whole("n_layer"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": _divided(hidden, heads, r),
        "vocabulary": r.whole("vocab_size"),
        "tied_head": r.flag("tie_word_embeddings", default=False),
        "gated_mlp": False,
        "mlp_bias": True,
        "head_bias": True,
        "norm": "layer",
        "norms_per_layer": 1,
        "parallel_block": True,
        "max_context": r.optional("n_positions"),
    }


def _gpt_neox(r: _Reader) -> Facts:
    hidden, heads = r.whole("hidden_size"), r.whole("num_attention_heads")
    bias = r.flag("attention_bias", default=True)
    return {
        "hidden": hidden,
        "intermediate": r.whole("intermediate_size"),
        "layers": r.whole("num_hidden_layers"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": _divided(hidden, heads, r),
        "vocabulary": r.whole("vocab_size"),
        "tied_head": r.flag("tie_word_embeddings", default=False),
        "gated_mlp": False,
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": True,
        "norm": "layer",
        # Attention and MLP run side by side, but each has a norm of its own.
        "parallel_block": False,
        "max_context": r.optional("max_position_embeddings"),
    }


def _falcon(r: _Reader) -> Facts:
    if r.flag("alibi", default=False):
        raise InputError("Falcon with ALiBi is not modelled", where=r.where)
    hidden = r.whole("hidden_size", "n_embed")
    heads = r.whole("num_attention_heads", "n_head")
    new = r.flag("new_decoder_architecture", default=False)
    if new:
        kv_heads = r.whole("num_kv_heads", "n_head_kv", default=heads)
    else:  # num_kv_heads is not used by this form; multi_query alone decides
        kv_heads = 1 if r.flag("multi_query", default=True) else heads
    bias = r.flag("bias", default=False)
    parallel = new or r.flag("parallel_attn", default=True)
    if new:  # one norm for each of attention and MLP, unless the configuration says one for both
        norms = 1 if r.optional("num_ln_in_parallel_attn") == 1 else 2
    else:
        norms = 1 if parallel else 2
    return {
        "hidden": hidden,
        "intermediate": r.optional("ffn_hidden_size") or 4 * hidden,
        "layers": r.whole("num_hidden_layers", "n_layer"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": _divided(hidden, heads, r),
        "vocabulary": r.whole("vocab_size"),
        "tied_head": r.flag("tie_word_embeddings", default=True),
        "gated_mlp": False,
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": bias,
        "norm": "layer",
        "norms_per_layer": norms,
        "parallel_block": parallel and norms == 1,
        "max_context": r.optional("max_position_embeddings"),
    }


def _divided(hidden: int, heads: int, r: _Reader) -> int:
    if hidden % heads:
        raise InputError(f"hidden size {hidden} does not divide into {heads} heads", where=r.where)
    return hidden // heads


DIALECTS: dict[str, Callable[[_Reader], Facts]] = {
    "LlamaForCausalLM": _llama_like,
    "MistralForCausalLM": _llama_like,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "Phi3ForCausalLM": _phi3,
    "GPTJForCausalLM": _gpt_j,
    "GPTNeoXForCausalLM": _gpt_neox,
    "FalconForCausalLM": _falcon,
}
"""Dense decoders whose count of parameters follows from their configuration."""


def parse_config(config: Config, *, name: str, where: str) -> Model:
    """Turn a configuration into a model.

    Parameters
    ----------
    config : mapping
        The parsed ``config.json``.
    name : str
        What to call the model.
    where : str
        Where the configuration came from, for messages.

    Raises
    ------
    InputError
        If it is incomplete, impossible, or of an architecture that is not modelled.
    """
    reader = _Reader(config, where)
    architectures = config.get("architectures")
    if (
        not isinstance(architectures, list)
        or not architectures
        or not isinstance(architectures[0], str)
    ):
        raise InputError(
            "lacks 'architectures', a list of names",
            where=where,
            remedy="it is in every config.json that transformers writes",
        )
    architecture = architectures[0]
    experts = [key for key in EXPERT_KEYS if config.get(key)]
    if experts:
        raise InputError(
            f"is a mixture of experts ('{experts[0]}'), which is not modelled yet", where=where
        )
    dialect = DIALECTS.get(architecture)
    if dialect is None:
        raise InputError(
            f"architecture '{architecture}' is not modelled",
            where=where,
            remedy=did_you_mean(architecture, DIALECTS),
        )
    if config.get("quantization_config") is not None:
        raise InputError("quantized weights are not modelled yet", where=where)
    facts = dialect(reader)
    dtype = reader.text("torch_dtype", reader.text("dtype", "bfloat16"))
    try:
        return Model.model_validate(
            {"id": name, "architecture": architecture, "dtype": dtype, **facts}
        )
    except ValidationError as error:
        raise InputError(describe(error), where=where) from error


def read_config(path: Path) -> Model:
    """Read a ``config.json``, or that of a folder that holds one.

    Raises
    ------
    InputError
        If there is none, or it cannot be used.
    """
    file = path / "config.json" if path.is_dir() and (path / "config.json").exists() else path
    document = parse_json_object(
        read_text(file, "model configuration"), "model configuration", str(file)
    )
    name = file.parent.name if file.name == "config.json" else file.stem
    return parse_config(document, name=name or "model", where=str(file))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
