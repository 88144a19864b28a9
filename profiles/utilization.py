"""What a model will see of a device: the number that replaces "about 60 %".

A peak is reached by one shape; a model is made of many. So the laws of a profile are asked for the
products of real models' layers: with the rows of a prefill, where arithmetic limits, and with the
rows of a decode step, where the memory does. Utilization is what all of them together achieve,
over what the datasheet claims; its interval is that of the laws, as if their errors went together
(they are the errors of one library on one device).
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
"""Hidden size, width of QKV, width of attention, MLP size; from each model's config.json."""

PREFILL_ROWS = (512, 2048, 8192)
DECODE_ROWS = (1, 8, 32)


@dataclass(frozen=True)
class Utilization:
    """A share of the datasheet, as models of several sizes see it."""

    dtype: str
    config_key: str
    """Data type, and what else tells its law from another: the library."""
    phase: str
    """``prefill`` (of the matrix rate) or ``decode`` (of the memory bandwidth)."""
    rows: int
    """Tokens in a prefill, sequences in a decode step."""
    rate: float
    """[FLOP/s] in prefill, [bytes/s] in decode."""
    share: float | None
    """[1] Share of the datasheet's rate; None if it has no such rate."""
    low: float | None
    """90 % interval of the share."""
    high: float | None
    extrapolated: bool
    """Whether a product lies outside what was measured."""


def model_products() -> list[tuple[float, float]]:
    """Width and depth (n, k) of every product of a layer of each model."""
    products = []
    for hidden, qkv, attention, mlp in LAYERS.values():
        products += [(qkv, hidden), (hidden, attention), (2 * mlp, hidden), (hidden, mlp)]
    return [(float(n), float(k)) for n, k in products]


def utilization(profile: Profile) -> list[Utilization]:
    """Utilization of each data type with a law of products.

    Parameters
    ----------
    profile : Profile

    Returns
    -------
    list of Utilization
        By data type, prefill before decode, few rows before many.
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
