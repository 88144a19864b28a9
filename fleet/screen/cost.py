"""What a finding costs: the deployment it is part of, predicted with one slow GPU and without.

The ranks of a tensor-parallel group wait for each other in every layer, so one slow GPU is a slow
group. Its laws are slowed where it fell (matrix units, memory, links, launches); what that does to
TTFT, TPOT and tokens a second is the difference of two predictions, in which the errors of both
cancel. The host link is not on the path of a decoder; links between nodes are, once a group spans
nodes.
"""

from dataclasses import replace

from groundspeed.estimator.hardware.law_lookup import ProfileHardware
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import ServingWorkload
from groundspeed.fleet.metrics import Kind, facts_of
from groundspeed.fleet.screen.findings import Cost, Finding
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.laws import Coefficient, Law

NOTHING = Cost(ttft_fraction=0.0, tpot_fraction=0.0, tokens_per_s=0.0)

MOST = 0.99
"""Loss beyond which a unit is away rather than slow."""


def cost_of(finding: Finding, server: Server, workload: ServingWorkload) -> Cost:
    """What a finding does to a server that its unit is part of.

    Parameters
    ----------
    finding : Finding
    server : Server
        Of healthy devices, from a profile.
    workload : ServingWorkload

    Returns
    -------
    Cost
        Zero where nothing of the model depends on what is slow.

    Raises
    ------
    InputError
        If nothing but a datasheet is known of the device: it has no laws to slow.
    """
    hardware = server.hardware
    if not isinstance(hardware, ProfileHardware):
        raise InputError(
            f"the cost of a finding needs a profile, of {hardware.id} there is a datasheet only"
        )
    loss = min(finding.loss_fraction or 0.0, MOST)
    kinds: set[Kind] = {facts_of(metric).kind for metric in finding.metrics}
    laws = tuple(_slowed(law, kinds, 1.0 - loss) for law in hardware.profile.laws)
    if laws == hardware.profile.laws:
        return NOTHING
    slow = ProfileHardware(hardware.profile.model_copy(update={"laws": laws}))
    before, after = server.predict(workload), replace(server, hardware=slow).predict(workload)
    return Cost(
        ttft_fraction=after.ttft_s / before.ttft_s - 1.0,
        tpot_fraction=after.tpot_s / before.tpot_s - 1.0,
        tokens_per_s=before.output_tokens_per_s - after.output_tokens_per_s,
    )


def _slowed(law: Law, kinds: set[Kind], left: float) -> Law:
    """A law with the rates of what is slow times what is left of them."""
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
