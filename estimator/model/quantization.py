"""Weight formats: map the names used by checkpoints and users to the formats in profiles.

``quantization_config`` of a checkpoint names a quantization method and its details. They are mapped
to one of the formats that laws are fitted for: ``fp8`` (one scale per tensor), ``fp8_block`` (one
scale per 128 x 128 block), ``int8``, ``int4_wo`` (weight-only, in groups), ``w4a16_mxfp4``,
``nvfp4``.
"""

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
    config: Mapping[str, Any], text: Mapping[str, Any] | None, where: str
) -> Facts:
    """Return the weight format that a configuration's ``quantization_config`` specifies.

    Raises
    ------
    InputError
        If the quantization method is not modelled.
    """
    stated = config.get("quantization_config") or (text or {}).get("quantization_config")
    if stated is None:
        return {}
    if not isinstance(stated, dict):
        raise InputError("'quantization_config' must be an object", where=where)
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
        return {"weights": "int4_wo" if bits == 4 else "int8"}
    if method in ("modelopt", "nvfp4", "modelopt_fp4"):
        algorithm = str(stated.get("quant_algo", "NVFP4")).upper()
        return {"weights": "fp8" if algorithm == "FP8" else "nvfp4"}
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
    if bits == 8:
        kind = weights.get("type") if isinstance(weights, dict) else "float"
        return {"weights": "fp8" if kind == "float" else "int8"}
    if bits == 4:
        return {"weights": "int4_wo", "quantized_part": "linear"}
    raise InputError(
        f"compressed-tensors is modelled only for 4 or 8 bit weights, not {bits}", where=where
    )
