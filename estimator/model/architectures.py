"""Read a Hugging Face ``config.json``, which may come from anywhere.

Each architecture has a dialect: which key holds what, and the facts that its code fixes and its
configuration does not say (Qwen2 has biases on Q, K and V and no key for it). An unknown
architecture is refused: a wrong parameter count would look just like a right one.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from groundspeed.estimator.model.hf_config import Config, Facts, HfConfig, llama_like
from groundspeed.estimator.model.moe_config import MIXTURES
from groundspeed.estimator.model.quantization import fp8_facts, quantization_facts
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.files import parse_json_object, read_text
from groundspeed.profiles.record import describe


def _qwen2(r: HfConfig) -> Facts:
    # Biases on Q, K and V are fixed by the architecture; its window is off unless asked for.
    return llama_like(r) | {"qkv_bias": True, "output_bias": False} | _window_if_asked(r)


def _qwen3(r: HfConfig) -> Facts:
    return llama_like(r) | {"qk_norm": True} | _window_if_asked(r)


def _window_if_asked(r: HfConfig) -> Facts:
    window = r.optional("sliding_window") if r.flag("use_sliding_window", default=False) else None
    layers = r.whole("num_hidden_layers")
    windowed = r.layers_of("sliding_attention", layers) if window else 0
    return {"sliding_window": window, "windowed_layers": windowed}


def _phi3(r: HfConfig) -> Facts:
    # Its window of 2047 tokens is part of the published configuration of the 4k model, but the
    # attention of its reference code sees the whole context.
    return llama_like(r) | {"sliding_window": None, "windowed_layers": 0}


def _phi(r: HfConfig) -> Facts:
    return llama_like(r) | {
        "gated_mlp": False,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "head_bias": True,
        "norm": "layer",
        "norms_per_layer": 1,
        "parallel_block": True,
    }


def _gemma2(r: HfConfig) -> Facts:
    """Norms before and after attention and MLP; every second layer has a window."""
    facts = llama_like(r)
    layers = int(facts["layers"])
    windowed = r.layers_of("sliding_attention", (layers + 1) // 2)
    return facts | {
        "head_dim": r.whole("head_dim", default=256),
        "tied_head": r.flag("tie_word_embeddings", default=True),
        "norms_per_layer": 4,
        "windowed_layers": windowed if facts["sliding_window"] else 0,
    }


def _gemma3(r: HfConfig) -> Facts:
    """As Gemma 2, with norms of queries and keys, and five windowed layers to one."""
    facts = _gemma2(r)
    layers = int(facts["layers"])
    pattern = r.whole("sliding_window_pattern", default=6)
    windowed = r.layers_of("sliding_attention", layers - layers // pattern)
    return facts | {
        "qk_norm": True,
        "windowed_layers": windowed if facts["sliding_window"] else 0,
    }


def _gpt_j(r: HfConfig) -> Facts:
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


def _gpt_neox(r: HfConfig) -> Facts:
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


def _falcon(r: HfConfig) -> Facts:
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


def _divided(hidden: int, heads: int, r: HfConfig) -> int:
    if hidden % heads:
        raise InputError(f"hidden size {hidden} does not divide into {heads} heads", where=r.where)
    return hidden // heads


EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")

ARCHITECTURE_PARSERS: dict[str, Callable[[HfConfig], Facts]] = {
    "LlamaForCausalLM": llama_like,
    "MistralForCausalLM": llama_like,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "Phi3ForCausalLM": _phi3,
    "GPTJForCausalLM": _gpt_j,
    "GPTNeoXForCausalLM": _gpt_neox,
    "FalconForCausalLM": _falcon,
    "PhiForCausalLM": _phi,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "Gemma3ForConditionalGeneration": _gemma3,
    **MIXTURES,
}
"""Decoders whose count of parameters follows from their configuration."""


def parse_config(config: Config, *, name: str, where: str, assume: str | None = None) -> Model:
    """Turn a configuration into a model.

    Parameters
    ----------
    config : mapping
        The parsed ``config.json``.
    name : str
        What to call the model.
    where : str
        Where the configuration came from, for messages.
    assume : {'dense'}, optional
        Read an unknown architecture as a plain dense decoder.

    Raises
    ------
    InputError
        If it is incomplete, impossible, or of an architecture that is not modelled.
    """
    reader = HfConfig(config, where)
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
    if assume not in (None, "dense"):
        raise InputError(f"cannot assume '{assume}'", where="--assume", remedy="dense is known")
    dialect = ARCHITECTURE_PARSERS.get(architecture)
    if dialect is None and assume == "dense":
        dialect = llama_like
    if dialect is None:
        raise InputError(
            f"architecture '{architecture}' is not modelled",
            where=where,
            remedy=f"{did_you_mean(architecture, ARCHITECTURE_PARSERS)}; --assume dense reads it "
            "as a plain decoder",
        )
    experts = [key for key in EXPERT_KEYS if config.get(key)]
    if experts and architecture not in MIXTURES:
        raise InputError(
            f"says '{experts[0]}', and '{architecture}' is no mixture of experts", where=where
        )
    text = config.get("text_config")
    if isinstance(text, dict):  # a model of images and text: what decodes is the text part
        tied = {"tie_word_embeddings": config.get("tie_word_embeddings", False)}
        reader = HfConfig(tied | text, where)
    facts = dialect(reader) | fp8_facts(architecture) | quantization_facts(config, text, where)
    dtype = reader.text("torch_dtype", reader.text("dtype", "bfloat16"))
    try:
        return Model.model_validate(
            {"id": name, "architecture": architecture, "dtype": dtype, **facts}
        )
    except ValidationError as error:
        raise InputError(describe(error), where=where) from error


def read_config(path: Path, *, assume: str | None = None) -> Model:
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
    return parse_config(document, name=name or "model", where=str(file), assume=assume)
