"""Build a small, consistent profile of a made-up H200.

Tests change one number of it and check that exactly this inconsistency is reported.
"""

from typing import Any

import numpy as np

from groundspeed.profiles import OPERATIONS, Profile, load_datasheets
from groundspeed.profiles.schema import SCHEMA_VERSION, Curve
from groundspeed.profiles.summary import derive_rates

RATE_FLOPS_PER_S = 700e12
BANDWIDTH_BYTES_PER_S = 4.0e12


def point(
    operation: str, config_key: dict[str, str], case: dict[str, float], **more: Any
) -> dict[str, Any]:
    """Return a measured point whose time follows a roofline with the two rates above."""
    columns = {k: np.array([v]) for k, v in case.items()}
    spec = OPERATIONS[operation]
    flops = float(spec.flops(columns, config_key)[0])
    moved = float(spec.bytes(columns, config_key)[0])
    time = 3e-6 + max(flops / RATE_FLOPS_PER_S, moved / BANDWIDTH_BYTES_PER_S)
    return {
        "case": case,
        "time_s": time,
        "q10_s": 0.98 * time,
        "q90_s": 1.05 * time,
        "low_s": 0.99 * time,
        "high_s": 1.01 * time,
        "samples": 30,
        "flops": flops,
        "bytes": moved,
        "stop": "precise",
    } | more


def document() -> dict[str, Any]:
    """Return a complete profile without laws, as a JSON document."""
    matmul = {"dtype": "bfloat16"}
    copy = {"mode": "copy", "dtype": "float32"}
    curves: list[dict[str, Any]] = [
        {
            "operation": "matmul",
            "config_key": matmul,
            "backend": "torch",
            "cache": "cold",
            "origin": "measured",
            "source": "a test",
            "points": [
                point("matmul", matmul, {"m": float(m), "n": 4096.0, "k": 4096.0})
                for m in (1, 2, 4, 64, 128, 1024, 2048, 4096, 8192)
            ],
        },
        {
            "operation": "stream",
            "config_key": copy,
            "backend": "torch",
            "cache": "cold",
            "origin": "measured",
            "source": "a test",
            "points": [point("stream", copy, {"bytes": float(2**i)}) for i in range(20, 33, 2)],
        },
    ]
    datasheet = load_datasheets()["h200-sxm"]
    rates = derive_rates(tuple(Curve.model_validate(c) for c in curves), datasheet, (), 62914560.0)
    return {
        "schema_version": SCHEMA_VERSION,
        "id": "h200-sxm-test",
        "device": {
            "name": "NVIDIA H200",
            "kind": "cuda",
            "vendor": "nvidia",
            "architecture": "sm_90",
            "compute_units": 132,
            "memory_bytes": 141e9,
            "last_level_cache_bytes": 62914560.0,
        },
        "datasheet": datasheet.model_dump(mode="json"),
        "environment": {
            "date_utc": "2026-11-21T12:00:00Z",
            "host": "test",
            "operating_system": "Linux",
            "python": "3.11",
            "tool_version": "0.1.0",
            "method_version": 1,
            "command": "groundspeed calibrate",
            "libraries": {"torch": "2.13.0"},
            "telemetry": "none",
        },
        "mode": "quick",
        "seed": 0,
        "curves": curves,
        "laws": [],
        "rates": [r.model_dump(mode="json") for r in rates],
    }


def profile() -> Profile:
    """Return the profile of ``document()`` as a validated object."""
    return Profile.model_validate(document())


GLUE = ("embed", "rms_norm", "rotary", "kv_write", "residual_add", "silu_mul", "argmax")


def law(
    operation: str, config_key: dict[str, str], box: dict[str, tuple[float, float]]
) -> dict[str, Any]:
    """Return a soft-roofline law with the rates above and a P90 held-out error of 10 %."""
    values = {"startup_s": 3e-6, "bandwidth_bytes_per_s": BANDWIDTH_BYTES_PER_S}
    if operation in ("matmul", "attention_prefill", "attention_decode"):
        values |= {"compute_flops_per_s": RATE_FLOPS_PER_S, "sharpness": 8.0}
    return {
        "operation": operation,
        "config_key": config_key,
        "model_form": "soft_roofline",
        "coefficients": {k: {"value": v, "low": v, "high": v} for k, v in values.items()},
        "fit_range": box,
        "points": 20,
        "held_out": {
            "points": 20,
            "method": "leave one out",
            "median_fraction": 0.05,
            "q90_fraction": 0.1,
            "log_q05": -0.1,
            "log_q50": 0.0,
            "log_q95": 0.1,
        },
        "origin": "measured",
        "source": "a test",
    }


def document_with_laws() -> dict[str, Any]:
    """Return the profile with every law that an estimate needs.

    The vocabulary sizes of real models are outside the fit range (n up to 65536), so that a model's
    head is extrapolated.
    """
    bf16 = {"dtype": "bfloat16"}
    wide = (1.0, 1e6)
    heads = {"batch": wide, "heads": wide, "kv_heads": wide, "head_dim": wide}
    laws = [
        law("matmul", bf16, {"m": wide, "n": (64.0, 65536.0), "k": (64.0, 65536.0)}),
        law("attention_prefill", bf16, heads | {"seq_len": wide}),
        law("attention_decode", bf16, heads | {"kv_len": wide}),
        *(law("elementwise", {"op": op, **bf16}, {"rows": wide, "width": wide}) for op in GLUE),
    ]
    return document() | {"laws": laws}
