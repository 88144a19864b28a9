"""Causal attention over a prompt: arithmetic that short prompts cannot keep busy, and traffic.

    t = startup + F (1 + ramp / seq_len) / compute + B / bandwidth

Blocks on the diagonal compute twice what they keep, which is most of the work of a short prompt:
the ramp.
"""

from groundspeed.profiles.laws.work import Values, Work
from groundspeed.profiles.operations import Array

COEFFICIENTS = ("startup_s", "compute_flops_per_s", "bandwidth_bytes_per_s", "ramp_tokens")


def time_s(work: Work, values: Values) -> Array:
    """Time of prefill attention; column ``seq_len``."""
    ramp = 1.0 + values["ramp_tokens"] / work.columns["seq_len"]
    compute_s = work.flops * ramp / values["compute_flops_per_s"]
    result: Array = values["startup_s"] + compute_s + work.bytes / values["bandwidth_bytes_per_s"]
    return result
