"""Weight formats: map the names used by checkpoints and users to the formats in profiles.

``quantization_config`` of a checkpoint names a quantization method and its details. They are mapped
to one of the formats that laws are fitted for: ``fp8`` (one scale per tensor), ``fp8_block`` (one
scale per 128 x 128 block), ``int8``, ``int4_wo`` (weight-only, in groups), ``w4a16_mxfp4``,
``nvfp4``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundspeed.estimator.model.hf_config import Facts
from groundspeed.profiles.errors import InputError, did_you_mean

SIXTEEN_BIT = ("bfloat16", "float16")


@dataclass(frozen=True)
class Formats:
    """Number format of each part of the model."""

    linear: str
    """Format of the weights of attention projections and dense MLPs."""
    experts: str
    rest: str
    """Format of router, LM head, embedding and elementwise operations."""
    cache: str

    @property
    def activations(self) -> str:
        """Format in which attention computes."""
        return self.rest


STORED_BYTES: dict[str, float] = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "fp8_row": 1.0,
    "fp8_block": 1.0 + 4.0 / (128 * 128),
    "int8": 1.0,
    "int4_wo": 0.5 + 2.5 / 128,
    "w4a16_mxfp4": 0.5 + 1.0 / 32,
    "w4a8_mxfp4_mxfp8": 0.5 + 1.0 / 32,
    "nvfp4": 0.5 + 1.0 / 16,
}
"""Bytes per weight including scales: a 32-bit scale per 128 x 128 block (fp8_block), a 16-bit scale
and a zero point per 128 weights (int4), an 8-bit scale per 32 (mxfp4) or 16 weights (nvfp4)."""


def stored_bytes(name: str, group: int | None = None) -> float:
    """Return the bytes per weight of a format, with scales.

    Parameters
    ----------
    name : str
        A key of :data:`STORED_BYTES`.
    group : int, optional
        Number of weights with one scale, for 4-bit integers. Not given: 128.

    Examples
    --------
    >>> stored_bytes("int4_wo", 32)
    0.5625
    """
    if name == "int4_wo" and group is not None and group != 128:
        return 0.5 + 2.0 / group
    return STORED_BYTES[name]


def _is_group(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


NAMES: dict[str, str] = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "half": "float16",
    "mixed": "float16",
    "fp8": "fp8",
    "fp8_e4m3": "fp8",
    "float8": "fp8",
    "fp8-block": "fp8_block",
    "awq": "int4_wo",
    "gptq": "int4_wo",
    "int4": "int4_wo",
    "w4a16": "int4_wo",
    "w8a8": "int8",
    "mxfp4": "w4a16_mxfp4",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
}
"""Common names of formats, and the formats they mean."""


def weight_format(name: str) -> str:
    """Return the format with this name or alias.

    Raises
    ------
    InputError
        If the name is not known.
    """
    lowered = name.strip().lower()
    name_of_format = NAMES.get(lowered, lowered)
    if name_of_format not in STORED_BYTES:
        raise InputError(
            f"unknown data type '{name}'", remedy=did_you_mean(name, [*NAMES, *STORED_BYTES])
        )
    return name_of_format


BLOCK_SCALED = ("Qwen3", "Deepseek", "Kimi", "MiniMax", "GlmMoeDsa")
"""Name prefixes of architectures whose published 8-bit checkpoints have one scale per 128 x 128
block (``weight_block_size``)."""


def fp8_facts(architecture: str) -> Facts:
    """Return the format of 8-bit checkpoints of an architecture: per tensor or per block."""
    return {"fp8_format": "fp8_block" if architecture.startswith(BLOCK_SCALED) else "fp8"}


def quantization_facts(
    config: Mapping[str, Any],
    text: Mapping[str, Any] | None,
    where: str,
    beside: Mapping[str, Any] | None = None,
) -> Facts:
    """Return the formats that a configuration's ``quantization_config`` specifies.

    Parameters
    ----------
    config : mapping
        The parsed ``config.json``.
    text : mapping or None
        Its ``text_config``, which may hold the quantization instead.
    where : str
        Origin of the configuration, for error messages.
    beside : mapping, optional
        The parsed ``hf_quant_config.json`` beside it, which NVIDIA's older checkpoints have
        instead. Default: none.

    Raises
    ------
    InputError
        If the quantization method is not modelled.
    """
    stated = config.get("quantization_config") or (text or {}).get("quantization_config")
    if stated is None and beside is not None:
        inner = beside.get("quantization")
        stated = {"quant_method": "modelopt", **(inner if isinstance(inner, dict) else beside)}
    if stated is None:
        return {}
    if not isinstance(stated, dict):
        raise InputError("'quantization_config' must be an object", where=where)
    facts = _weight_facts(stated, where) | _cache_facts(stated)
    layers = (text or config).get("num_hidden_layers", 0)
    if str(stated.get("moe_quant_algo", "")).upper() == "NVFP4":
        # Experts in another format than the rest, which "quant_method" names.
        facts["expert_weights"] = "nvfp4"
    elif "quantized_part" not in facts and _keeps_attention(stated, layers):
        facts["quantized_part"] = "experts"
    return facts


def _weight_facts(stated: Mapping[str, Any], where: str) -> Facts:
    method = str(stated.get("quant_method", stated.get("quant_algo", ""))).lower()
    if method == "fp8":
        block = stated.get("weight_block_size")
        return {"weights": "fp8_block" if block else "fp8"}
    if method == "mxfp4":
        return {"weights": "w4a16_mxfp4", "quantized_part": "experts"}
    if method in ("awq", "gptq"):
        bits = stated.get("bits", 4)
        if bits not in (4, 8):
            raise InputError(f"{method} with {bits} bits is not modelled", where=where)
        group = (
            {"weight_group": stated["group_size"]} if _is_group(stated.get("group_size")) else {}
        )
        return {"weights": "int4_wo", **group} if bits == 4 else {"weights": "int8"}
    if method in ("modelopt", "nvfp4", "modelopt_fp4"):
        algorithm = str(stated.get("quant_algo", "NVFP4")).upper()
        known = {"FP8": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8_row", "FP8_PB_WO": "fp8_block",
                 "NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4", "W4A16_AWQ": "int4_wo",
                 "MIXED_PRECISION": "nvfp4", "W4A16": "int4_wo"}  # fmt: skip
        if algorithm not in known:
            raise InputError(f"quantization '{algorithm}' is not modelled", where=where)
        return {"weights": known[algorithm]}
    if method == "compressed-tensors":
        return _compressed(stated, where)
    raise InputError(
        f"quantization '{method}' is not modelled",
        where=where,
        remedy="supported are fp8, mxfp4, awq, gptq, modelopt (nvfp4) and compressed-tensors",
    )


def _compressed(stated: Mapping[str, Any], where: str) -> Facts:
    groups = stated.get("config_groups")
    first: object = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    weights = first.get("weights") if isinstance(first, dict) else None
    bits = weights.get("num_bits") if isinstance(weights, dict) else None
    kind = weights.get("type", "int") if isinstance(weights, dict) else "int"
    if bits == 8:
        return {"weights": "fp8" if kind == "float" else "int8"}
    if bits == 4:
        group = weights.get("group_size") if isinstance(weights, dict) else None
        if kind == "float":
            return {"weights": "nvfp4"}
        return {"weights": "int4_wo", **({"weight_group": group} if _is_group(group) else {})}
    raise InputError(
        f"compressed-tensors is modelled only for 4 or 8 bit weights, not {bits}", where=where
    )


def _cache_facts(stated: Mapping[str, Any]) -> Facts:
    """Return the format of the cache, if the checkpoint has scales for an 8-bit one."""
    scheme = stated.get("kv_cache_scheme") or stated.get("kv_cache_quant_algo")
    eight = (isinstance(scheme, dict) and scheme.get("num_bits") == 8) or (
        isinstance(scheme, str) and scheme.upper() == "FP8"
    )
    return {"kv_dtype": "fp8"} if eight else {}


def _keeps_attention(stated: Mapping[str, Any], layers: object) -> bool:
    """Return whether the attention of most layers is left in 16 bits: only experts are quantized.

    Checkpoints list what they leave out by pattern (``re:.*self_attn.*``) or layer by layer.
    """
    left = stated.get("ignore") or stated.get("exclude_modules") or ()
    names = [str(n) for n in left] if isinstance(left, list) else []
    attention = [n for n in names if "attn" in n or "attention" in n]
    if any(not re.search(r"layers?\.\d+", n) for n in attention):
        return True
    numbers = {m[1] for n in attention if (m := re.search(r"layers?\.(\d+)", n))}
    return isinstance(layers, int) and layers > 0 and len(numbers) >= layers / 2


FORMAT_OF_SUFFIX: dict[str, str] = {
    "-fp8": "fp8", "-fp8-dynamic": "fp8", "-nvfp4": "nvfp4", "-fp4": "nvfp4",
    "-mxfp4": "w4a16_mxfp4", "-awq": "int4_wo", "-gptq": "int4_wo", "-int4": "int4_wo",
    "-w4a16": "int4_wo", "-int8": "int8", "-w8a8": "int8", "-bf16": "bfloat16",
}  # fmt: skip
"""Format of the weights that the end of a checkpoint's name says."""
