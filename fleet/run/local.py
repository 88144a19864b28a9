"""No engine: this node, now."""

import sys
from collections.abc import Sequence

from groundspeed.fleet.run.launcher import Event, Tell
from groundspeed.fleet.run.worker import DEVICE_TIMEOUT_S, Work, node_name, run_all


class LocalEngine:
    """Measures the machine it runs on."""

    name = "local"

    def nodes(self) -> tuple[str, ...]:
        """The machine it runs on."""
        return (node_name(),)

    def run(self, work: Work, nodes: Sequence[str], tell: Tell) -> None:
        """Measure this node, in a process of its own."""
        for node in nodes:
            tell(Event(node, "started"))
            command = [sys.executable, *work.command(node)]
            (answer,) = run_all([command], 2.0 * DEVICE_TIMEOUT_S[work.level])
            done = answer.document is not None
            tell(Event(node, "done" if done else "lost", answer.why))
