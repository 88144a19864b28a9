"""Drain a slow node in Slurm, and resume it when it is healthy again.

A node is drained with a reason that begins with ``groundspeed:``. Only a node with such a reason is
ever resumed, so a node that a person drained stays drained.
"""

import subprocess

from groundspeed.fleet.health.node_health import Health
from groundspeed.profiles.errors import InputError

PREFIX = "groundspeed:"
REASON_CHARACTERS = 200
TIMEOUT_S = 20.0

AWAY = ("DRAIN", "DOWN", "FAIL", "MAINT")


def drain_or_resume(health: Health) -> str:
    """Drain a node that failed its check, or resume a node that groundspeed drained and is healthy.

    Returns
    -------
    str
        Message that says what was done; empty if nothing was.

    Raises
    ------
    InputError
        If Slurm does not answer or refuses the change.
    """
    state, reason = node_state(health.node)
    ours = reason.startswith(PREFIX)
    drained = "DRAIN" in state
    if health.state == "FAIL" and (ours or not any(word in state for word in AWAY)):
        new_reason = f"{PREFIX} {health.summary}"[:REASON_CHARACTERS]
        if drained and reason == new_reason:
            return ""
        _scontrol("update", f"NodeName={health.node}", "State=DRAIN", f"Reason={new_reason}")
        return f"drained {health.node}"
    if health.state == "OK" and ours and drained:
        _scontrol("update", f"NodeName={health.node}", "State=RESUME")
        return f"resumed {health.node}"
    return ""


def node_state(node: str) -> tuple[str, str]:
    """Return the state of a node and its drain reason, from ``scontrol show node``."""
    output = _scontrol("--oneliner", "show", "node", node)
    facts = output.split(" Reason=", 1)
    state = next((w.removeprefix("State=") for w in output.split() if w.startswith("State=")), "")
    reason = facts[1].rsplit(" [", 1)[0].strip() if len(facts) == 2 else ""
    return state, reason


def _scontrol(*arguments: str) -> str:
    try:
        finished = subprocess.run(
            ["scontrol", *arguments],
            capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise InputError("scontrol is not installed here", remedy="leave out --drain") from error
    except subprocess.TimeoutExpired as error:
        raise InputError("scontrol does not answer", remedy="check slurmctld") from error
    if finished.returncode:
        reason = (finished.stderr.strip() or finished.stdout.strip()).splitlines() or [
            "no reason given"
        ]
        raise InputError(f"scontrol failed ({reason[-1]})")
    return finished.stdout
