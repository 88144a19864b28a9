"""What is believed about a law's constants before the first point: wide, and from where.

A handful of points cannot tell eight constants apart. So each has a prior: its typical share of
the datasheet (or of the best rate seen, where there is no sheet), and how far devices and
libraries have been seen to differ from it. The shares are those of published H200 and H100
timings (cuBLAS, FlashAttention 3); the widths let a point or two overrule them.
"""

from dataclasses import dataclass

import numpy as np

from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.laws.work import Work
from groundspeed.profiles.operations import Array, ConfigKey


@dataclass(frozen=True)
class Prior:
    """A constant before it is fitted: log-normal."""

    value: float
    log_sd: float
    """0 fixes it."""


@dataclass(frozen=True)
class Roofs:
    """What the device could do at best."""

    flops_per_s: float
    bytes_per_s: float
    cache_bytes: float
    cache_known: bool
    compute_units: float


UNITS_UNKNOWN = 128.0
"""Where no sheet says. In attention only its product with a fitted constant counts; the waves of
products are then counted from a guess, and their fitted power goes to zero if it is bad."""

CACHE_UNKNOWN = 50e6
"""[bytes] That of an H100 and an H200; where no sheet says, the prior is wide."""

UNKNOWN_LOG_SD = 1.0
BEST_SEEN = 0.85
"""The best rate among a few points is about this share of the datasheet's."""

EIGHT_BIT = ("fp8", "fp8_row", "fp8_block", "int8")


def roofs(datasheet: DeviceSpec | None, config_key: ConfigKey, work: Work, time_s: Array) -> Roofs:
    """The datasheet's roofs; where it has none, from the best rates among the points."""
    peak = datasheet.peak(config_key.get("dtype", "")) if datasheet else None
    bandwidth = datasheet.memory_bandwidth_bytes_per_s if datasheet else None
    l2 = (datasheet.l2_bytes or datasheet.last_level_cache_bytes) if datasheet else None
    best_flops = float((work.flops / time_s).max()) / BEST_SEEN
    best_bytes = float((work.bytes / time_s).max()) / BEST_SEEN
    units = datasheet.compute_units if datasheet else None
    return Roofs(
        peak.value if peak else max(best_flops, 1.0),
        bandwidth.value if bandwidth else best_bytes,
        l2.value if l2 else CACHE_UNKNOWN,
        l2 is not None,
        units.value if units else UNITS_UNKNOWN,
    )


def priors(
    operation: str, config_key: ConfigKey, roof: Roofs, time_s: Array
) -> tuple[str, dict[str, Prior]]:
    """The form of an operation's law, and the priors of its constants.

    Parameters
    ----------
    operation : str
    config_key : mapping of str to str
    roof : Roofs
    time_s : (N,) ndarray
        [s] Measured; the fastest bounds the start-up.

    Returns
    -------
    (str, dict of str to Prior)
    """
    fastest = float(time_s.min())
    if operation == "matmul":
        return "gemm", _gemm(config_key, roof, fastest)
    if operation == "attention_decode":
        return "decode_attention", {
            "startup_s": Prior(min(10e-6, fastest), 0.5),
            "bandwidth_bytes_per_s": Prior(0.9 * roof.bytes_per_s, 0.25),
            "split_s": Prior(1e-6, 0.7),
            "tile_s": Prior(2.2e-6, 0.6),
            "l2_bandwidth_bytes_per_s": Prior(2.1 * roof.bytes_per_s, 0.4),
            "l2_bytes": Prior(0.8 * roof.cache_bytes, 0.3 if roof.cache_known else UNKNOWN_LOG_SD),
            "compute_units": Prior(roof.compute_units, 0.0),
        }
    if operation in ("attention_prefill", "mla_prefill"):
        return "prefill_attention", {
            "startup_s": Prior(min(13e-6, fastest), 0.4),
            "compute_flops_per_s": Prior(0.62 * roof.flops_per_s, 0.3),
            "bandwidth_bytes_per_s": Prior(0.6 * roof.bytes_per_s, 0.5),
            "ramp_tokens": Prior(350.0, 0.7),
        }
    if operation == "experts":
        return "experts", {
            "startup_s": Prior(min(30e-6, fastest), 0.4),
            "compute_flops_per_s": Prior(0.6 * roof.flops_per_s, 0.3),
            "bandwidth_bytes_per_s": Prior(0.9 * roof.bytes_per_s, 0.2),
            "activation_bytes_per_s": Prior(0.4 * roof.bytes_per_s, 0.6),
            "tile_rows": Prior(80.0, 0.6),
            "imbalance_power": Prior(0.3, 0.6),
        }
    constants = {
        "startup_s": Prior(0.7 * fastest, 0.5),
        "bandwidth_bytes_per_s": Prior(0.8 * roof.bytes_per_s, 0.5),
    }
    if roof.flops_per_s > 1.0:
        constants["compute_flops_per_s"] = Prior(0.6 * roof.flops_per_s, 0.5)
        constants["sharpness"] = Prior(2.5, 0.4)
    return "soft_roofline", constants


def _gemm(config_key: ConfigKey, roof: Roofs, fastest: float) -> dict[str, Prior]:
    eight_bit = config_key.get("dtype") in EIGHT_BIT
    constants = {
        # Rounding activations on the way adds a launch; the fastest point tells if it is there.
        "startup_s": Prior(min(8e-6 if eight_bit else 2.8e-6, fastest), 0.5),
        "compute_flops_per_s": Prior(0.8 * roof.flops_per_s, 0.25),
        "bandwidth_bytes_per_s": Prior(0.9 * roof.bytes_per_s, 0.2),
        "sharpness": Prior(3.0, 0.15),
        "per_k_s": Prior(1.2e-9, 0.5),
        "split_k": Prior(3000.0, 0.4),
        "ramp_k": Prior(300.0 if eight_bit else 100.0, 1.0),
        "rounding_power": Prior(0.1, 1.0),
        "wave_power": Prior(0.15, 1.0),
        "compute_units": Prior(roof.compute_units, 0.0),
    }
    if eight_bit:
        constants["quantize_bytes_per_s"] = Prior(0.3 * roof.bytes_per_s, 0.5)
    return constants


def starting_point(constants: dict[str, Prior]) -> tuple[list[str], Array, Array]:
    """Names, logarithms and widths of the constants that are fitted."""
    free = [name for name, prior in constants.items() if prior.log_sd > 0.0]
    start = np.log([constants[name].value for name in free])
    width = np.array([constants[name].log_sd for name in free])
    return free, start, width
