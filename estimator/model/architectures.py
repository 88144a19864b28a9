"""Parse a Hugging Face ``config.json`` from any source into a :class:`Model`.

Each architecture has its own parser: it knows the meaning of the keys, and the properties that are
fixed in the architecture's code but absent from its configuration (Qwen2 has biases on Q, K and V,
and no key for them). An unknown architecture is rejected, because a wrong parameter count could not
be told from a correct one.
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
    # The architecture fixes biases on Q, K and V; the window needs use_sliding_window = true.
    return llama_like(r) | {"qkv_bias": True, "output_bias": False} | _window_if_enabled(r)


def _qwen3(r: HfConfig) -> Facts:
    return llama_like(r) | {"qk_norm": True} | _window_if_enabled(r)


def _window_if_enabled(r: HfConfig) -> Facts:
    window = r.optional("sliding_window") if r.flag("use_sliding_window", default=False) else None
    layers = r.whole("num_hidden_layers")
    windowed = r.layers_of("sliding_attention", layers) if window else 0
    return {"sliding_window": window, "windowed_layers": windowed}


def _phi3(r: HfConfig) -> Facts:
    # The published configuration of the 4k model has a window of 2047 tokens, but the attention in
    # its reference code uses the whole context.
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
    """Parse Gemma 2: norms before and after attention and MLP; every second layer has a window."""
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
    """Parse Gemma 3: like Gemma 2, with QK norms and five windowed layers per full one."""
    facts = _gemma2(r)
    layers = int(facts["layers"])
    pattern = r.whole("sliding_window_pattern", default=6)
    windowed = r.layers_of("sliding_attention", layers - layers // pattern)
    return facts | {
        "qk_norm": True,
        "windowed_layers": windowed if facts["sliding_window"] else 0,
    }


def _gemma4(r: HfConfig) -> Facts:
    """Parse Gemma 4: full layers have wider heads and one projection for keys and values.

    Every layer of a mixture has a dense MLP beside its experts, which is a shared expert by another
    name. Inputs of each layer and layers that share a cache (E2B, E4B) are not modelled.
    """
    for key in ("hidden_size_per_layer_input", "num_kv_shared_layers"):
        if r.number(key):
            raise InputError(
                f"a Gemma 4 with {key} is not modelled", where=r.where,
                remedy="those of 26B-A4B and 31B are",
            )  # fmt: skip
    facts = _gemma3(r)
    layers = int(facts["layers"])
    facts |= {
        "global_head_dim": r.optional("global_head_dim"),
        "global_kv_heads": r.optional("num_global_key_value_heads"),
        "global_values_are_keys": r.flag("attention_k_eq_v", default=False),
    }
    if not r.flag("enable_moe_block", default=False):
        return facts
    experts = {
        "count": r.whole("num_experts"),
        "top_k": r.whole("top_k_experts"),
        "intermediate": r.whole("moe_intermediate_size"),
        "layers": layers,
        "shared_intermediate": r.whole("intermediate_size"),
    }
    return facts | {"experts": experts, "dense_layers": 0}


def _gpt_j(r: HfConfig) -> Facts:
    hidden, heads = r.whole("n_embd"), r.whole("n_head")
    return {
        "hidden": hidden,
        "intermediate": r.optional("n_inner") or 4 * hidden,
        "layers": r.whole("n_layer"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": _head_dim(hidden, heads, r),
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
        "head_dim": _head_dim(hidden, heads, r),
        "vocabulary": r.whole("vocab_size"),
        "tied_head": r.flag("tie_word_embeddings", default=False),
        "gated_mlp": False,
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": True,
        "norm": "layer",
        # Attention and MLP run in parallel, but each has its own norm.
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
    else:  # the old decoder ignores num_kv_heads and uses only multi_query
        kv_heads = 1 if r.flag("multi_query", default=True) else heads
    bias = r.flag("bias", default=False)
    parallel = new or r.flag("parallel_attn", default=True)
    if new:  # attention and MLP have one norm each, unless num_ln_in_parallel_attn is 1
        norms = 1 if r.optional("num_ln_in_parallel_attn") == 1 else 2
    else:
        norms = 1 if parallel else 2
    return {
        "hidden": hidden,
        "intermediate": r.optional("ffn_hidden_size") or 4 * hidden,
        "layers": r.whole("num_hidden_layers", "n_layer"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": _head_dim(hidden, heads, r),
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


def _head_dim(hidden: int, heads: int, r: HfConfig) -> int:
    if hidden % heads:
        raise InputError(
            f"hidden size {hidden} is not divisible by the {heads} attention heads", where=r.where
        )
    return hidden // heads


EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")

ARCHITECTURE_PARSERS: dict[str, Callable[[HfConfig], Facts]] = {
    "LlamaForCausalLM": llama_like,
    "MistralForCausalLM": llama_like,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "Qwen3VLForConditionalGeneration": _qwen3,
    "MiMoForCausalLM": _qwen2,
    "Mistral3ForConditionalGeneration": llama_like,
    "Phi3ForCausalLM": _phi3,
    "GPTJForCausalLM": _gpt_j,
    "GPTNeoXForCausalLM": _gpt_neox,
    "FalconForCausalLM": _falcon,
    "PhiForCausalLM": _phi,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "Gemma3ForConditionalGeneration": _gemma3,
    "Gemma4ForConditionalGeneration": _gemma4,
    "Gemma4ForCausalLM": _gemma4,
    **MIXTURES,
}
"""Parser of each supported architecture; unlisted architectures are rejected."""


def parse_config(
    config: Config,
    *,
    name: str,
    where: str,
    assume: str | None = None,
    quantization: Config | None = None,
) -> Model:
    """Convert a configuration to a model.

    Parameters
    ----------
    config : mapping
        The parsed ``config.json``.
    name : str
        Id of the resulting model.
    where : str
        Origin of the configuration, for error messages.
    assume : {'dense'}, optional
        Read an unknown architecture as a plain dense decoder. Not given: it is rejected.
    quantization : mapping, optional
        The parsed ``hf_quant_config.json`` beside it. Default: none.

    Raises
    ------
    InputError
        If the configuration is incomplete or inconsistent, or its architecture is not modelled.
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
            remedy="give a config.json as written by transformers, which contains it",
        )
    architecture = architectures[0]
    if assume not in (None, "dense"):
        raise InputError(f"cannot assume '{assume}'", where="--assume", remedy="use: dense")
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
    inner = config.get("text_config")
    inner = inner if isinstance(inner, dict) else {}
    experts = [key for key in EXPERT_KEYS if config.get(key) or inner.get(key)]
    if experts and architecture not in MIXTURES and dialect is not _gemma4:
        raise InputError(
            f"has the key '{experts[0]}', but '{architecture}' is not a mixture of experts",
            where=where,
        )
    text = config.get("text_config")
    if isinstance(text, dict):  # a vision-language model: only its text decoder is modelled
        tied = {"tie_word_embeddings": config.get("tie_word_embeddings", False)}
        reader = HfConfig(tied | text, where)
    facts = (
        dialect(reader)
        | fp8_facts(architecture)
        | quantization_facts(config, text, where, quantization)
    )
    if isinstance(text, dict) and "vision_config" in config:
        facts["notes"] = (f"{name}: only the text decoder is modelled, without the vision tower",)
    dtype = reader.text("torch_dtype", reader.text("dtype", "bfloat16"))
    try:
        return Model.model_validate(
            {"id": name, "architecture": architecture, "dtype": dtype, **facts}
        )
    except ValidationError as error:
        raise InputError(describe(error), where=where) from error


def read_config(path: Path, *, assume: str | None = None) -> Model:
    """Read a ``config.json``, given its path or the path of its folder.

    Raises
    ------
    InputError
        If the file does not exist, cannot be parsed or is not supported.
    """
    file = path / "config.json" if path.is_dir() and (path / "config.json").exists() else path
    document = parse_json_object(
        read_text(file, "model configuration"), "model configuration", str(file), infinity=True
    )
    beside = file.with_name("hf_quant_config.json")
    quantization = None
    if file.name == "config.json" and beside.is_file():
        text = read_text(beside, "quantization configuration")
        quantization = parse_json_object(text, "quantization configuration", str(beside))
    name = file.parent.name if file.name == "config.json" else file.stem
    return parse_config(
        document, name=name or "model", where=str(file), assume=assume, quantization=quantization
    )
