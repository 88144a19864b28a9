"""Utilization of a device by the GEMMs of real models, to replace the rule of thumb "about 60 %".

Only one shape reaches the peak rate, but a model runs many. This module therefore evaluates the
GEMM laws of a profile for the layers of real models: with the rows (m) of a prefill, which is
compute-bound, and with those of a decode step, which is memory-bound. Utilization is the rate of
all these GEMMs together, divided by the rate in the datasheet. Its interval is that of the laws
with fully correlated errors, because they are errors of one library on one device.

    [(u.phase, u.rows, u.share) for u in utilization(load_profile(path))]
"""

from dataclasses import dataclass

import numpy as np

from groundspeed.profiles.laws import law_time
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.schema import Profile

LAYERS: dict[str, tuple[int, int, int, int]] = {
    "llama-3.1-8b": (4096, 6144, 4096, 14336),
    "llama-3.1-70b": (8192, 10240, 8192, 28672),
    "qwen2.5-7b": (3584, 4608, 3584, 18944),
    "qwen2.5-32b": (5120, 7168, 5120, 27648),
}
"""Hidden size, QKV width, attention width and MLP size of models, from their config.json."""

PREFILL_ROWS = (512, 2048, 8192)
"""Tokens in a prefill."""

DECODE_ROWS = (1, 8, 32)
"""Sequences in a decode step."""


@dataclass(frozen=True)
class Utilization:
    """Rate of the GEMMs of several models together, and its share of the datasheet's rate."""

    dtype: str
    config_key: str
    """Data type and other entries that select the law, such as the library."""
    phase: str
    """``prefill`` (share of the peak FLOP/s) or ``decode`` (share of the memory bandwidth)."""
    rows: int
    """Number of tokens in the prefill, or of sequences in the decode step."""
    rate: float
    """[FLOP/s or bytes/s] Achieved rate: FLOP/s in prefill, bytes/s in decode."""
    share: float | None
    """[1] Share of the datasheet's rate; None if the datasheet does not give that rate."""
    low: float | None
    """[1] Lower limit of the 90 % interval of the share."""
    high: float | None
    """[1] Upper limit of the 90 % interval of the share."""
    extrapolated: bool
    """Whether any of the GEMMs is outside the fit range of the law."""


def model_products() -> list[tuple[float, float]]:
    """Return the sizes (n, k) of every GEMM in a layer of each model."""
    products = []
    for hidden, qkv, attention, mlp in LAYERS.values():
        products += [(qkv, hidden), (hidden, attention), (2 * mlp, hidden), (hidden, mlp)]
    return [(float(n), float(k)) for n, k in products]


def utilization(profile: Profile) -> list[Utilization]:
    """Compute the utilization for each GEMM law of a profile.

    Parameters
    ----------
    profile : Profile

    Returns
    -------
    list of Utilization
        Grouped by law, prefill before decode, in increasing order of rows.
    """
    datasheet = profile.datasheet
    n, k = (np.array(v) for v in zip(*model_products(), strict=True))
    results = []
    for law in profile.laws:
        if law.operation != "matmul":
            continue
        dtype = law.config_key["dtype"]
        peak = datasheet.peak(dtype) if datasheet else None
        bandwidth = datasheet.memory_bandwidth_bytes_per_s if datasheet else None
        for phase, counts, roof in (
            ("prefill", PREFILL_ROWS, peak),
            ("decode", DECODE_ROWS, bandwidth),
        ):
            for rows in counts:
                columns = {"m": np.full_like(n, float(rows)), "n": n, "k": k}
                prediction = law_time(law, columns)
                spec = OPERATIONS["matmul"]
                count = spec.flops if phase == "prefill" else spec.bytes
                work = float(count(columns, law.config_key).sum())
                times = [
                    float(t.sum()) for t in (prediction.time_s, prediction.high_s, prediction.low_s)
                ]
                shares = [work / t / roof.value if roof else None for t in times]
                results.append(
                    Utilization(
                        dtype=dtype,
                        config_key=" ".join(law.config_key.values()),
                        phase=phase,
                        rows=rows,
                        rate=work / times[0],
                        share=shares[0],
                        low=shares[1],
                        high=shares[2],
                        extrapolated=bool(prediction.extrapolated.any()),
                    )
                )
    return results
