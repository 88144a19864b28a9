"""Configuration parsers of mixtures of experts, latent attention and hybrid models.

Like those of dense models (:mod:`groundspeed.estimator.model.architectures`), they know the meaning
of the keys, and the properties that the architecture's code fixes without a key.
"""

from groundspeed.estimator.model.hf_config import Facts, HfConfig, llama_like
from groundspeed.profiles.errors import InputError


def mixtral(r: HfConfig) -> Facts:
    """Parse Mixtral: every layer has experts of the size of a dense MLP."""
    facts = llama_like(r)
    return facts | {
        "dense_layers": 0,
        "experts": {
            "count": r.whole("num_local_experts"),
            "top_k": r.whole("num_experts_per_tok"),
            "intermediate": r.whole("intermediate_size"),
            "layers": facts["layers"],
        },
    }


def qwen3_moe(r: HfConfig) -> Facts:
    """Parse Qwen3 MoE: small experts in every ``decoder_sparse_step``-th layer."""
    facts = llama_like(r) | {"qk_norm": True, "windowed_layers": 0, "sliding_window": None}
    return facts | {"experts": _qwen_experts(r, int(facts["layers"]))}


def qwen2_moe(r: HfConfig) -> Facts:
    """Parse Qwen2 MoE: like Qwen3 MoE, with a gated shared expert and biases on Q, K and V."""
    facts = llama_like(r) | {"qkv_bias": True, "windowed_layers": 0, "sliding_window": None}
    return facts | {"experts": _qwen_experts(r, int(facts["layers"]))}


def _qwen_experts(r: HfConfig, layers: int) -> Facts:
    step = r.whole("decoder_sparse_step", default=1)
    shared = r.number("shared_expert_intermediate_size")
    return {
        "count": r.whole("num_experts"),
        "top_k": r.whole("num_experts_per_tok"),
        "intermediate": r.whole("moe_intermediate_size"),
        "layers": layers // step,
        "shared_intermediate": shared,
        "shared_gate": shared > 0,
    }


def qwen3_next(r: HfConfig) -> Facts:
    """Parse Qwen3-Next: three gated delta-rule layers per gated attention layer; shared expert."""
    facts = llama_like(r)
    layers = int(facts["layers"])
    interval = r.whole("full_attention_interval", default=4)
    key_heads, value_heads = r.whole("linear_num_key_heads"), r.whole("linear_num_value_heads")
    key_dim, value_dim = r.whole("linear_key_head_dim"), r.whole("linear_value_head_dim")
    keys, values = key_heads * key_dim, value_heads * value_dim
    recurrent = {
        "kind": "gated_delta",
        "layers": layers - layers // interval,
        # Q, K, V and the gate, plus two scalars per value head.
        "in_width": 2 * keys + 2 * values + 2 * value_heads,
        "inner_width": values,
        "conv_width": 2 * keys + values,
        "conv_kernel": r.whole("linear_conv_kernel_dim", default=4),
        "state_items": value_heads * key_dim * value_dim,
        "heads": value_heads,
        "scalars": 2 * value_heads + value_dim,
    }
    facts |= {
        "qk_norm": True,
        "output_gate": True,
        "recurrent": recurrent,
        "sliding_window": None,
        "windowed_layers": 0,
    }
    if r.number("num_experts"):
        facts["experts"] = _qwen_experts(r, layers)
    return facts


def ernie_moe(r: HfConfig) -> Facts:
    """Parse ERNIE 4.5: a few dense layers first, then experts and shared ones of the same size."""
    facts = llama_like(r)
    size, first = r.whole("moe_intermediate_size"), r.number("moe_layer_start_index")
    return facts | {
        "experts": {
            "count": r.whole("moe_num_experts"),
            "top_k": r.whole("moe_k"),
            "intermediate": size,
            "layers": int(facts["layers"]) - int(first),
            "shared_intermediate": size * r.number("moe_num_shared_experts"),
            "router_bias": True,
        },
    }


def gpt_oss(r: HfConfig) -> Facts:
    """Parse gpt-oss: a window in every second layer, experts with biases, attention sinks."""
    facts = llama_like(r)
    layers = int(facts["layers"])
    return facts | {
        "qkv_bias": True,
        "output_bias": True,
        "sinks": True,
        "dense_layers": 0,
        "windowed_layers": r.layers_of("sliding_attention", (layers + 1) // 2),
        "experts": {
            "count": r.whole("num_local_experts"),
            "top_k": r.whole("num_experts_per_tok", "experts_per_token"),
            "intermediate": r.whole("intermediate_size"),
            "layers": layers,
            "bias": True,
            "router_bias": True,
        },
    }


def deepseek(r: HfConfig) -> Facts:
    """Parse DeepSeek: latent attention; the first layers are dense, the others have experts."""
    heads = r.whole("num_attention_heads")
    layers = r.whole("num_hidden_layers")
    nope, rope = r.whole("qk_nope_head_dim"), r.whole("qk_rope_head_dim")
    facts: Facts = {
        "hidden": r.whole("hidden_size"),
        "intermediate": r.whole("intermediate_size"),
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": nope + rope,
        "vocabulary": r.whole("vocab_size"),
        "tied_head": r.flag("tie_word_embeddings", default=False),
        "max_context": r.optional("max_position_embeddings"),
        "latent": {
            "query_rank": r.number("q_lora_rank"),
            "kv_rank": r.whole("kv_lora_rank"),
            "nope_dim": nope,
            "rope_dim": rope,
            "value_dim": r.whole("v_head_dim"),
            "index_heads": r.number("index_n_heads"),
            "index_dim": r.number("index_head_dim"),
            "index_top_k": r.number("index_topk"),
        },
    }
    count = r.number("n_routed_experts")
    if count:
        facts["experts"] = _routed(r, count, layers)
    return facts


def _routed(r: HfConfig, count: int, layers: int) -> Facts:
    first = r.config.get("first_k_dense_replace", 0)
    dense = first if isinstance(first, int) and 0 <= first < layers else 0
    size = r.whole("moe_intermediate_size")
    # "noaux_tc" balances the experts with a router bias instead of an auxiliary loss.
    free = r.text("topk_method", "noaux_tc") == "noaux_tc"
    return {
        "count": count,
        "top_k": r.whole("num_experts_per_tok"),
        "intermediate": size,
        "layers": layers - dense,
        "shared_intermediate": size * (r.number("n_shared_experts")),
        "router_bias": free,
    }


def deepseek_v4(r: HfConfig) -> Facts:
    """Parse DeepSeek-V4: compressed attention, wide residuals, 4-bit experts in every layer."""
    layers, heads = r.whole("num_hidden_layers"), r.whole("num_attention_heads")
    # One ratio a layer; a last one belongs to the layer for speculation.
    ratios = r.config.get("compress_ratios")
    if (
        not isinstance(ratios, list)
        or len(ratios) < layers
        or not all(isinstance(n, int) and n >= 0 for n in ratios)
    ):
        raise InputError("needs 'compress_ratios', a number for each layer", where=r.where)
    experts = _routed(r, r.whole("n_routed_experts"), layers) | {"layers": layers}
    return {
        "hidden": r.whole("hidden_size"),
        "intermediate": r.whole("moe_intermediate_size"),
        "layers": layers,
        "heads": heads,
        "kv_heads": r.whole("num_key_value_heads", default=1),
        "head_dim": r.whole("head_dim"),
        "vocabulary": r.whole("vocab_size"),
        "tied_head": r.flag("tie_word_embeddings", default=False),
        "max_context": r.optional("max_position_embeddings"),
        "dense_layers": 0,
        "compressed": {
            "ratios": tuple((n, ratios[:layers].count(n)) for n in sorted(set(ratios[:layers]))),
            "query_rank": r.whole("q_lora_rank"),
            "output_rank": r.whole("o_lora_rank"),
            "output_groups": r.whole("o_groups"),
            "window": r.whole("sliding_window"),
            "index_heads": r.whole("index_n_heads"),
            "index_dim": r.whole("index_head_dim"),
            "index_top_k": r.whole("index_topk"),
            "streams": r.whole("hc_mult", default=1),
        },
        "experts": experts,
        # The cache holds the vectors in 8 bits, which is the only format of its kernels.
        "kv_dtype": "fp8",
        **({"expert_weights": "w4a8_mxfp4_mxfp8"} if r.text("expert_dtype", "") == "fp4" else {}),
    }


def minimax_m3(r: HfConfig) -> Facts:
    """Parse MiniMax-M3: attention over chosen blocks, a shared expert, three dense layers."""
    facts = llama_like(r)
    layers = int(facts["layers"])
    sparse = r.config.get("sparse_attention_config")
    sparse = sparse if isinstance(sparse, dict) else {}
    inner = HfConfig(sparse, r.where)
    frequency = r.config.get("moe_layer_freq")
    mixed = sum(map(bool, frequency)) if isinstance(frequency, list) else layers
    chosen = sparse.get("sparse_attention_freq")
    return facts | {
        "intermediate": r.whole("dense_intermediate_size", default=facts["intermediate"]),
        "qk_norm": r.flag("use_qk_norm", default=True),
        "experts": {
            "count": r.whole("num_local_experts"),
            "top_k": r.whole("num_experts_per_tok"),
            "intermediate": r.whole("moe_intermediate_size", "intermediate_size"),
            "layers": mixed,
            "shared_intermediate": r.number("shared_intermediate_size"),
            "router_bias": r.flag("use_routing_bias", default=True),
        },
        **(
            {
                "sparse": {
                    "layers": sum(map(bool, chosen)),
                    "index_heads": inner.whole("sparse_num_index_heads"),
                    "index_dim": inner.whole("sparse_index_dim"),
                    "seen": inner.whole("sparse_topk_blocks") * inner.whole("sparse_block_size"),
                }
            }
            if isinstance(chosen, list) and any(chosen)
            else {}
        ),
    }


def glm4_moe(r: HfConfig) -> Facts:
    """Parse GLM-4 MoE: grouped-query attention, and experts like those of DeepSeek."""
    facts = llama_like(r)
    bias = r.flag("attention_bias", default=False)
    return facts | {
        "qk_norm": r.flag("use_qk_norm", default=False),
        "qkv_bias": bias,
        "output_bias": False,
        "experts": _routed(r, r.whole("n_routed_experts"), int(facts["layers"])),
    }


def minimax_m2(r: HfConfig) -> Facts:
    """Parse MiniMax-M2: grouped-query attention, QK norms over all heads, experts in all layers."""
    facts = llama_like(r)
    return facts | {
        "qk_norm_whole": r.flag("use_qk_norm", default=True),
        "dense_layers": 0,
        "experts": {
            "count": r.whole("num_local_experts"),
            "top_k": r.whole("num_experts_per_tok"),
            "intermediate": r.whole("intermediate_size"),
            "layers": facts["layers"],
            "router_bias": r.flag("use_routing_bias", default=True),
        },
    }


def llama4(r: HfConfig) -> Facts:
    """Parse Llama 4: experts in every n-th layer, a shared expert; 3 of 4 layers are chunked."""
    facts = llama_like(r)
    layers = int(facts["layers"])
    step = r.whole("interleave_moe_layer_step", default=1)
    chunk = r.optional("attention_chunk_size")
    return facts | {
        "intermediate": r.whole("intermediate_size_mlp", default=r.whole("intermediate_size")),
        "sliding_window": chunk,
        "windowed_layers": layers - layers // 4 if chunk else 0,
        "experts": {
            "count": r.whole("num_local_experts"),
            "top_k": r.whole("num_experts_per_tok"),
            "intermediate": r.whole("intermediate_size"),
            "layers": layers // step,
            "shared_intermediate": r.whole("intermediate_size"),
        },
    }


BLOCK_TYPES = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}
"""Letter of ``hybrid_override_pattern`` for each word of ``layers_block_type``."""


def nemotron_h(r: HfConfig) -> Facts:
    """Parse Nemotron-H: each layer is either Mamba-2 (M), attention (*), MLP (-) or experts (E)."""
    pattern = r.text("hybrid_override_pattern", "") or "".join(
        BLOCK_TYPES.get(kind, "?") for kind in r.texts("layers_block_type")
    )
    if not pattern or set(pattern) - set("M*-E"):
        raise InputError(
            "'hybrid_override_pattern' must be a string of M, *, - and E, or 'layers_block_type' "
            "a list of mamba, attention, mlp and moe",
            where=r.where,
        )
    hidden, heads = r.whole("hidden_size"), r.whole("mamba_num_heads")
    inner, groups = heads * r.whole("mamba_head_dim"), r.whole("n_groups")
    state = r.whole("ssm_state_size")
    facts: Facts = {
        "hidden": hidden,
        "intermediate": r.whole("intermediate_size"),
        "layers": len(pattern),
        "heads": r.whole("num_attention_heads"),
        "kv_heads": r.whole("num_key_value_heads"),
        "head_dim": r.whole("head_dim", "attention_head_dim"),
        "vocabulary": r.whole("vocab_size"),
        "tied_head": r.flag("tie_word_embeddings", default=False),
        "gated_mlp": False,
        "norms_per_layer": 1,
        "max_context": r.optional("max_position_embeddings"),
        "mixer_layers": pattern.count("*"),
        "dense_layers": pattern.count("-"),
        "recurrent": {
            "kind": "mamba2",
            "layers": pattern.count("M"),
            "in_width": 2 * inner + 2 * groups * state + heads,
            "inner_width": inner,
            "conv_width": inner + 2 * groups * state,
            "conv_kernel": r.whole("conv_kernel", default=4),
            "conv_bias": r.flag("use_conv_bias", default=True),
            "state_items": inner * state,
            "heads": heads,
            "scalars": 3 * heads + inner,
        },
    }
    if "E" in pattern:
        facts["experts"] = {
            "count": r.whole("n_routed_experts"),
            "top_k": r.whole("num_experts_per_tok"),
            "intermediate": r.whole("moe_intermediate_size"),
            "layers": pattern.count("E"),
            "shared_intermediate": (r.number("moe_shared_expert_intermediate_size"))
            * (r.number("n_shared_experts")),
            "gated": False,
            "router_bias": True,
            "latent_hidden": r.number("moe_latent_size"),
        }
    return facts


MIXTURES = {
    "MixtralForCausalLM": mixtral,
    "Qwen2MoeForCausalLM": qwen2_moe,
    "Qwen3MoeForCausalLM": qwen3_moe,
    "Qwen3VLMoeForConditionalGeneration": qwen3_moe,
    "Qwen3NextForCausalLM": qwen3_next,
    "Qwen3_5MoeForConditionalGeneration": qwen3_next,
    "Qwen3_5MoeForCausalLM": qwen3_next,
    "Qwen3_5ForCausalLM": qwen3_next,
    "Glm4MoeLiteForCausalLM": deepseek,
    "Ernie4_5_MoeForCausalLM": ernie_moe,
    "Qwen3_5ForConditionalGeneration": qwen3_next,
    "GptOssForCausalLM": gpt_oss,
    "DeepseekV2ForCausalLM": deepseek,
    "DeepseekV3ForCausalLM": deepseek,
    "DeepseekV32ForCausalLM": deepseek,
    "GlmMoeDsaForCausalLM": deepseek,
    "KimiK2ForCausalLM": deepseek,
    "KimiK25ForConditionalGeneration": deepseek,
    "Glm4MoeForCausalLM": glm4_moe,
    "MiniMaxM2ForCausalLM": minimax_m2,
    "MiniMaxM3ForCausalLM": minimax_m3,
    "MiniMaxM3SparseForConditionalGeneration": minimax_m3,
    "DeepseekV4ForCausalLM": deepseek_v4,
    "Llama4ForConditionalGeneration": llama4,
    "Llama4ForCausalLM": llama4,
    "NemotronHForCausalLM": nemotron_h,
}
"""Parser of each supported architecture in this module."""
