"""Estimate what a finding costs: predict its deployment with the slow GPU and without it.

The ranks of a tensor-parallel group wait for each other in every layer, so one slow GPU slows the
whole group. The laws of the device are slowed where the finding shows a loss (matrix units, memory,
links, launches). The effect on TTFT, TPOT and tokens/s is the difference of two predictions, in
which the errors of both cancel. The host link is not on the critical path of a decoder; links
between nodes are, once a group spans nodes.

    cost = cost_of(finding, server, Workload(1024, 1024, 32))
"""

from dataclasses import replace

from groundspeed.estimator.hardware.law_lookup import ProfileHardware
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Workload
from groundspeed.fleet.kinds import Kind
from groundspeed.fleet.metrics import facts_of
from groundspeed.fleet.screen.findings import Cost, Finding
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import Coefficient, Law

NOTHING = Cost(ttft_fraction=0.0, tpot_fraction=0.0, tokens_per_s=0.0)

MOST = 0.99
"""[1] Largest loss that is priced; a unit with a larger one is unavailable rather than slow."""


def cost_of(finding: Finding, server: Server, workload: Workload) -> Cost:
    """Return the effect of a finding on a server that contains the slow unit.

    Parameters
    ----------
    finding : Finding
    server : Server
        Server with healthy devices; its hardware must be a profile.
    workload : Workload

    Returns
    -------
    Cost
        Zero if no part of the prediction depends on the slow metrics.

    Raises
    ------
    InputError
        If only a datasheet of the device is known, because it has no laws to slow down.
    """
    hardware = server.hardware
    if not isinstance(hardware, ProfileHardware):
        raise InputError(
            f"the cost of a finding needs a profile, but {hardware.id} has only a datasheet"
        )
    loss = min(finding.loss_fraction or 0.0, MOST)
    kinds: set[Kind] = {facts_of(metric).kind for metric in finding.metrics}
    profiles = []
    for profile in hardware.known.profiles:
        laws = tuple(_slowed(law, kinds, 1.0 - loss) for law in profile.laws)
        profiles.append(profile.model_copy(update={"laws": laws}))
    if all(s.laws == p.laws for s, p in zip(profiles, hardware.known.profiles, strict=True)):
        return NOTHING
    slow = ProfileHardware.of(*profiles)
    before, after = server.predict(workload), replace(server, hardware=slow).predict(workload)
    return Cost(
        ttft_fraction=after.ttft_s / before.ttft_s - 1.0,
        tpot_fraction=(after.tpot_s or 0.0) / (before.tpot_s or 1.0) - 1.0
        if before.tpot_s
        else 0.0,
        tokens_per_s=before.output_tokens_per_s - after.output_tokens_per_s,
    )


def _slowed(law: Law, kinds: set[Kind], left: float) -> Law:
    """Return a law with the rates of the slow kinds multiplied by ``left``, the remaining share."""
    if law.piecewise_linear is not None:
        if "nvlink" not in kinds or law.operation != "collective":
            return law
        first = law.piecewise_linear.time_s[0]
        times = tuple(first + (t - first) / left for t in law.piecewise_linear.time_s)
        return law.model_copy(
            update={"piecewise_linear": law.piecewise_linear.model_copy(update={"time_s": times})}
        )
    coefficients = {
        name: _scaled(name, c, law, kinds, left) for name, c in law.coefficients.items()
    }
    if coefficients == law.coefficients:
        return law
    return law.model_copy(update={"coefficients": coefficients})


def _scaled(name: str, c: Coefficient, law: Law, kinds: set[Kind], left: float) -> Coefficient:
    rate = name.endswith("_per_s")
    hit = (
        ("tensor" in kinds and name == "compute_flops_per_s")
        or ("memory" in kinds and rate and "bytes" in name)
        or ("vector" in kinds and rate and law.operation == "elementwise")
    )
    if hit:
        return Coefficient(value=c.value * left, low=c.low * left, high=c.high * left)
    if "launch" in kinds and name == "startup_s":
        return Coefficient(value=c.value / left, low=c.low / left, high=c.high / left)
    return c
