"""Model form of prefill attention: compute time, less efficient for short prompts, plus traffic.

    t = startup + F (1 + ramp / seq_len) / compute + B / bandwidth

``F`` is FLOPs, ``B`` bytes. Blocks on the diagonal of the causal mask compute twice as much as they
keep. In a short prompt these blocks are most of the work; the ramp models this.
"""

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = ("startup_s", "compute_flops_per_s", "bandwidth_bytes_per_s", "ramp_tokens")


def time_s(work: Work, values: Values) -> Array:
    """Return the time [s] from FLOPs, bytes and the column ``seq_len``."""
    ramp = 1.0 + values["ramp_tokens"] / work.columns["seq_len"]
    compute_s = work.flops * ramp / values["compute_flops_per_s"]
    result: Array = values["startup_s"] + compute_s + work.bytes / values["bandwidth_bytes_per_s"]
    return result
