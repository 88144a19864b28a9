"""Select the law of a profile for an operation, or a substitute law of a similar data type.

A profile contains laws for the formats that its device runs natively. A format that only stores
weights differently uses the law of the type it is computed in: 4-bit weights take half a byte in
memory and are multiplied in 16 bit, so the 16-bit GEMM law applies with a quarter of the weight
bytes. Such a law has the origin ``transferred`` and a wider interval. No law is substituted across
a difference that would change the compute rate.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from groundspeed.profiles.laws import Law
from groundspeed.profiles.profile_set import ProfileSet
from groundspeed.profiles.schema import Profile

COMPUTED_AS: dict[str, tuple[str, ...]] = {
    "float16": ("bfloat16",),
    "bfloat16": ("float16",),
    "fp8": ("fp8_row", "fp8_block"),
    "fp8_row": ("fp8", "fp8_block"),
    "fp8_block": ("fp8",),
    "int8": ("fp8",),
    "int4_wo": ("w4a16_mxfp4", "bfloat16"),
    "w4a16_mxfp4": ("int4_wo", "bfloat16"),
    "w4a8_mxfp4_mxfp8": ("w4a16_mxfp4", "fp8", "bfloat16"),
    "nvfp4": ("w4a16_mxfp4", "bfloat16"),
}
"""Formats whose law may be used as a substitute, most similar first."""

SUBSTITUTE_SPREAD = 0.12
"""Standard deviation of log(time) that a substitute law adds: block-scaled and per-tensor GEMMs on
one H200 differ by about this much (aiconfigurator's tables)."""

HALF_OF_90 = 1.645

ATTENTION = ("attention_prefill", "attention_decode", "mla_prefill", "mla_decode")


@dataclass(frozen=True)
class Found:
    """A law and the profile that it comes from."""

    law: Law
    profile: Profile


def find_law(known: ProfileSet, operation: str, config_key: dict[str, str]) -> Found | None:
    """Return the law for an operation, or None if no profile has a suitable law.

    A law of a less believed profile comes before a substitute of a similar data type.

    Parameters
    ----------
    known : ProfileSet
        The profiles to search.
    operation : str
        Name of the operation, e.g. ``matmul``.
    config_key : dict of str to str
        ``dtype``; attention: also ``kv_dtype``; collectives: ``op``, ``world_size``, ``mode``;
        ``library``: whose kernels are preferred.
    """
    for substitute in (False, True):
        for profile in known.profiles:
            law = _law_of(profile, operation, config_key, substitute=substitute)
            if law is not None:
                return Found(law, profile)
    return None


def _law_of(
    profile: Profile, operation: str, config_key: dict[str, str], *, substitute: bool
) -> Law | None:
    own = [law for law in profile.laws if law.operation == operation]
    library = config_key.get("library")
    if library is None:
        return _among(own, profile, operation, config_key, substitute=substitute)
    # Kernels of the engine's own library first; laws that name none hold for all of them.
    key = {k: v for k, v in config_key.items() if k != "library"}
    same = [law for law in own if law.config_key.get("library", library) == library]
    return _among(same, profile, operation, key, substitute=substitute) or _among(
        own, profile, operation, key, substitute=substitute
    )


def _among(
    own: list[Law],
    profile: Profile,
    operation: str,
    config_key: dict[str, str],
    *,
    substitute: bool,
) -> Law | None:
    """Select among laws of one operation, whose library has been chosen."""
    if not own:
        return None
    if operation in ATTENTION:
        return _attention(own, config_key, substitute=substitute)
    if config_key.get("quantize") == "fused":
        key = {k: v for k, v in config_key.items() if k != "quantize"}
        return _fused(own, profile, key, substitute=substitute)
    exact = [law for law in own if config_key.items() <= law.config_key.items()]
    if exact:
        return exact[0]
    if "distribution" in config_key:  # published tables hold one distribution and do not name it
        unnamed = {k: v for k, v in config_key.items() if k != "distribution"}
        return _among(own, profile, operation, unnamed, substitute=substitute)
    dtype = config_key.get("dtype", "")
    for other in COMPUTED_AS.get(dtype, ()):
        wanted = config_key | {"dtype": other}
        for law in own:
            if wanted.items() <= law.config_key.items():
                # Elementwise operations move 16-bit activations in either format.
                same = operation == "elementwise" or {dtype, other} == {"float16", "bfloat16"}
                if same:
                    return law
                if substitute:
                    return substitute_law(law, law.config_key | {"dtype": dtype})
    return None


def whole_dtypes(laws: Iterable[Law]) -> str:
    """List the data types that have GEMM, attention and elementwise laws."""
    have: dict[str, set[str]] = {}
    for law in laws:
        if "dtype" in law.config_key:
            have.setdefault(law.config_key["dtype"], set()).add(law.operation)
    needed = {"matmul", "attention_prefill", "attention_decode", "elementwise"}
    return ", ".join(sorted(d for d, o in have.items() if needed <= o)) or "none"


def _fused(
    own: list[Law], profile: Profile, config_key: dict[str, str], *, substitute: bool
) -> Law | None:
    """Return the law of GEMMs whose activations were quantized by the preceding operation.

    Tables of 8-bit GEMMs include a separate quantization kernel: its launch and its memory traffic.
    Without that kernel the launch latency is that of a 16-bit GEMM.
    """
    law = _among(own, profile, "matmul", config_key, substitute=substitute)
    plain = _law_of(profile, "matmul", {"dtype": "bfloat16"}, substitute=False)
    if law is None or "quantize_bytes_per_s" not in law.coefficients:
        return law
    kept = dict(law.coefficients)
    if plain is not None and "startup_s" in plain.coefficients:
        kept["startup_s"] = min(
            kept["startup_s"], plain.coefficients["startup_s"], key=lambda c: c.value
        )
    return law.model_copy(update={"coefficients": kept})


def _attention(laws: list[Law], config_key: dict[str, str], *, substitute: bool) -> Law | None:
    """Select an attention law by KV cache format first; all 16-bit query types are equivalent."""
    dtype = config_key["dtype"]
    cache = config_key.get("kv_dtype", dtype)
    names = (dtype, *COMPUTED_AS.get(dtype, ()))

    def of_cache(law: Law) -> str:
        return law.config_key.get("kv_dtype", law.config_key["dtype"])

    caches = [cache, *(("bfloat16", "float16") if cache in ("bfloat16", "float16") else ())]
    for wanted in caches:
        fitting = [
            law for law in laws if of_cache(law) == wanted and "window" not in law.config_key
        ]
        for name in (*names, "fp8"):
            for law in fitting:
                if law.config_key["dtype"] == name:
                    return law
    for law in laws if substitute else ():
        if law.config_key["dtype"] in names and of_cache(law) in names:
            return substitute_law(law, law.config_key | {"kv_dtype": cache})
    return None


def substitute_law(law: Law, config_key: dict[str, str]) -> Law:
    """Copy a law for another format, with origin ``transferred`` and a wider interval."""
    wider = HALF_OF_90 * SUBSTITUTE_SPREAD
    update: dict[str, object] = {
        "config_key": config_key,
        "origin": "transferred",
        "source": f"{law.source}, measured with {law.config_key['dtype']}",
        "held_out": law.held_out.model_copy(
            update={
                "log_q05": -float(np.hypot(law.held_out.log_q05, wider)),
                "log_q95": float(np.hypot(law.held_out.log_q95, wider)),
            }
        ),
    }
    if law.residual_gp is not None:
        extra = float(np.hypot(law.residual_gp.extra_noise, SUBSTITUTE_SPREAD))
        update["residual_gp"] = law.residual_gp.model_copy(update={"extra_noise": extra})
    return law.model_copy(update=update)
