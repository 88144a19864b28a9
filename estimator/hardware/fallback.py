"""Which law of a profile serves an operation: its own, or one of a format that runs alike.

A profile measures what its device runs natively. A format that differs in how weights are stored
borrows the law of the type it is computed in: 4-bit weights are read as half a byte and multiplied
in 16 bit, so the law of 16-bit products holds with a quarter of the weight's bytes. Such a law says
``transferred`` and its interval is wider; nothing is borrowed across what would change the rate.
"""

import numpy as np

from groundspeed.profiles.laws import Law
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
"""Formats whose law may serve, nearest first."""

SUBSTITUTE_SPREAD = 0.12
"""Standard deviation, in log time, of what borrowing misses: block-scaled against per-tensor
products of one H200 differ by about as much (aiconfigurator's tables)."""

HALF_OF_90 = 1.645

ATTENTION = ("attention_prefill", "attention_decode", "mla_prefill", "mla_decode")


def find_law(profile: Profile, operation: str, config_key: dict[str, str]) -> Law | None:
    """The law that serves an operation, if there is one.

    Parameters
    ----------
    profile : Profile
    operation : str
    config_key : dict of str to str
        ``dtype``; attention: also ``kv_dtype``; collectives: ``op``, ``world_size``, ``mode``.
    """
    own = [law for law in profile.laws if law.operation == operation]
    if operation in ATTENTION:
        return _attention(own, config_key)
    if config_key.get("quantize") == "fused":
        return _fused(profile, {k: v for k, v in config_key.items() if k != "quantize"})
    exact = [law for law in own if config_key.items() <= law.config_key.items()]
    if exact:
        return exact[0]
    dtype = config_key.get("dtype", "")
    for other in COMPUTED_AS.get(dtype, ()):
        wanted = config_key | {"dtype": other}
        for law in own:
            if wanted.items() <= law.config_key.items():
                # Small operations move 16 bit either way.
                same = operation == "elementwise" or {dtype, other} == {"float16", "bfloat16"}
                return law if same else substitute_law(law, law.config_key | {"dtype": dtype})
    return None


def _fused(profile: Profile, config_key: dict[str, str]) -> Law | None:
    """The law of products whose activations the operation before has rounded already.

    Tables of 8-bit products include the rounding: a launch of its own and the traffic. Without it
    a product starts as fast as one of 16 bit.
    """
    law = find_law(profile, "matmul", config_key)
    plain = find_law(profile, "matmul", {"dtype": "bfloat16"})
    if law is None or "quantize_bytes_per_s" not in law.coefficients:
        return law
    kept = dict(law.coefficients)
    if plain is not None and "startup_s" in plain.coefficients:
        kept["startup_s"] = min(
            kept["startup_s"], plain.coefficients["startup_s"], key=lambda c: c.value
        )
    return law.model_copy(update={"coefficients": kept})


def _attention(laws: list[Law], config_key: dict[str, str]) -> Law | None:
    """By the cache's format first; queries of 16 bit are all alike."""
    library = config_key.get("library")
    if any(law.config_key.get("library") == library for law in laws):
        laws = [law for law in laws if law.config_key.get("library") == library]
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
    for law in laws:
        if law.config_key["dtype"] in names and of_cache(law) in names:
            return substitute_law(law, law.config_key | {"kv_dtype": cache})
    return None


def substitute_law(law: Law, config_key: dict[str, str]) -> Law:
    """A law that counts another format's bytes, and says so."""
    wider = HALF_OF_90 * SUBSTITUTE_SPREAD
    update: dict[str, object] = {
        "config_key": config_key,
        "origin": "transferred",
        "source": f"{law.source}, of {law.config_key['dtype']}",
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
