"""Prior distributions of the constants of each model form.

A handful of points cannot determine eight constants. So each constant has a log-normal prior. Its
centre is the constant's typical share of the datasheet value (or of the best measured rate if
there is no datasheet), and its width is the observed variation over devices and libraries. The
shares come from published H200 and H100 timings (cuBLAS, FlashAttention 3). The priors are wide
enough that a point or two can override them.

    model_form, constants = priors("matmul", config_key, roofs(datasheet, ...), time_s)
"""

from dataclasses import dataclass

import numpy as np

from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.laws.work import Work
from groundspeed.profiles.operations import OPERATIONS, Array, ConfigKey


@dataclass(frozen=True)
class Prior:
    """Log-normal prior of one constant."""

    value: float
    """Median of the prior, in the unit of the constant."""
    log_sd: float
    """Standard deviation of the constant's logarithm. 0 fixes the constant at ``value``."""


@dataclass(frozen=True)
class Roofs:
    """Peak rates and sizes of a device, from its datasheet or estimated from the points."""

    flops_per_s: float
    bytes_per_s: float
    cache_bytes: float
    cache_known: bool
    compute_units: float


UNITS_UNKNOWN = 128.0
"""Number of compute units (SMs, CUs) assumed if the datasheet gives none. In attention only the
product with a fitted constant matters. For matmul the number of waves then rests on this guess; if
it is bad, the fitted exponent of the wave term goes to zero."""

CACHE_UNKNOWN = 50e6
"""[bytes] L2 size assumed if the datasheet gives none: that of an H100 and an H200. The prior is
then wide (``UNKNOWN_LOG_SD``)."""

UNKNOWN_LOG_SD = 1.0
BEST_SEEN = 0.85
"""Typical ratio of the best rate among a few points to the datasheet peak."""

EIGHT_BIT = ("fp8", "fp8_row", "fp8_block", "fp8_exact", "fp8_row_exact", "int8")


def roofs(datasheet: DeviceSpec | None, config_key: ConfigKey, work: Work, time_s: Array) -> Roofs:
    """Return the datasheet's peaks, or estimates from the best measured rates where it has none."""
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
    """Return the model form of an operation and the priors of its constants.

    Parameters
    ----------
    operation : str
        Name of an operation, e.g. ``matmul``.
    config_key : mapping of str to str
        Config key of the law; its ``dtype`` selects the priors for 8-bit matmul.
    roof : Roofs
        Peaks of the device, of which most priors are shares.
    time_s : (N,) ndarray
        [s] Measured times. The fastest one is an upper bound of the start-up time's prior.

    Returns
    -------
    (str, dict of str to Prior)
        Name of the model form, and the priors by coefficient.
    """
    fastest, form = float(time_s.min()), OPERATIONS[operation].form
    if form == "gemm":
        return "gemm", _gemm(config_key, roof, fastest)
    if form == "decode_attention":
        return "decode_attention", {
            "startup_s": Prior(min(10e-6, fastest), 0.5),
            "bandwidth_bytes_per_s": Prior(0.9 * roof.bytes_per_s, 0.25),
            "split_s": Prior(1e-6, 0.7),
            "tile_s": Prior(2.2e-6, 0.6),
            "l2_bandwidth_bytes_per_s": Prior(2.1 * roof.bytes_per_s, 0.4),
            "l2_bytes": Prior(0.8 * roof.cache_bytes, 0.3 if roof.cache_known else UNKNOWN_LOG_SD),
            "compute_units": Prior(roof.compute_units, 0.0),
        }
    if form == "prefill_attention":
        return "prefill_attention", {
            "startup_s": Prior(min(13e-6, fastest), 0.4),
            "compute_flops_per_s": Prior(0.62 * roof.flops_per_s, 0.3),
            "bandwidth_bytes_per_s": Prior(0.6 * roof.bytes_per_s, 0.5),
            "ramp_tokens": Prior(350.0, 0.7),
        }
    if form == "experts":
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
        # Quantizing activations adds a kernel launch; the fastest point shows if it is there.
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
    """Return names, log prior medians and prior widths of the constants that are not fixed."""
    free = [name for name, prior in constants.items() if prior.log_sd > 0.0]
    start = np.log([constants[name].value for name in free])
    width = np.array([constants[name].log_sd for name in free])
    return free, start, width
