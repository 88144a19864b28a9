"""Read and validate the values of a Hugging Face configuration, with one-line error messages."""

from collections.abc import Mapping
from typing import Any

from groundspeed.profiles.errors import InputError

Facts = dict[str, Any]
Config = Mapping[str, Any]


class HfConfig:
    """Typed access to a configuration; raises a one-line error for a missing or invalid value."""

    def __init__(self, config: Config, where: str) -> None:
        self.config = config
        self.where = where

    def whole(self, *names: str, default: int | None = None) -> int:
        """Return the positive whole number under the first of these keys that exists."""
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
            f"lacks '{names[0]}'", where=self.where, remedy="give the config.json of a model"
        )

    def optional(self, name: str) -> int | None:
        """Return a positive whole number, or None if the key is absent or null."""
        return self.whole(name) if self.config.get(name) is not None else None

    def number(self, name: str) -> int:
        """Return a whole number; 0 if the key is absent or null."""
        value = self.config.get(name)
        return 0 if value in (None, 0) else self.whole(name)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a boolean, or the default if the key is absent or null."""
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(
                f"'{name}' must be true or false, not {_show(value)}", where=self.where
            )
        return value

    def text(self, name: str, default: str) -> str:
        """Return a string, or the default if the key is absent or null."""
        value = self.config.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InputError(f"'{name}' must be a string, not {_show(value)}", where=self.where)
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of strings; empty if the key is absent or no list."""
        value = self.config.get(name)
        return [str(v) for v in value] if isinstance(value, list) else []

    def layers_of(self, kind: str, default: int) -> int:
        """Count the entries of ``layer_types`` of this kind; the default if there is no list."""
        kinds = self.config.get("layer_types")
        if not isinstance(kinds, list):
            return default
        return sum(1 for entry in kinds if entry == kind)


def llama_like(r: HfConfig) -> Facts:
    """Parse the sizes from the keys that most architectures share."""
    heads = r.whole("num_attention_heads")
    hidden = r.whole("hidden_size")
    attention_bias = r.flag("attention_bias", default=False)
    mlp_bias = r.flag("mlp_bias", default=False)
    layers = r.whole("num_hidden_layers")
    used = r.flag("use_sliding_window", default=True)
    window = r.optional("sliding_window") if used else None
    head_dim = r.optional("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise InputError(
                f"hidden_size {hidden} is not divisible by {heads} heads, and head_dim is missing",
                where=r.where,
            )
        head_dim = hidden // heads
    return {
        "hidden": hidden,
        "intermediate": r.whole("intermediate_size", "moe_intermediate_size"),
        "layers": layers,
        "heads": heads,
        "kv_heads": r.whole("num_key_value_heads", default=heads),
        "head_dim": head_dim,
        "vocabulary": r.whole("vocab_size"),
        "tied_head": r.flag("tie_word_embeddings", default=False),
        "qkv_bias": attention_bias,
        "output_bias": attention_bias,
        "mlp_bias": mlp_bias,
        "max_context": r.optional("max_position_embeddings"),
        "sliding_window": window,
        "windowed_layers": r.layers_of("sliding_attention", layers) if window else 0,
    }


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
