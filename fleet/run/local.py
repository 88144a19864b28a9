"""Local launcher: measure only the node that it runs on, without a scheduler."""

import sys
from collections.abc import Sequence

from groundspeed.fleet.run.launcher import Event, OnEvent
from groundspeed.fleet.run.worker import DEVICE_TIMEOUT_S, Work, node_name, run_all


class LocalLauncher:
    """Launcher that measures only the machine that it runs on."""

    name = "local"

    def nodes(self) -> tuple[str, ...]:
        """Return the name of this machine."""
        return (node_name(),)

    def run(self, work: Work, nodes: Sequence[str], on_event: OnEvent) -> None:
        """Measure this node in a separate process."""
        for node in nodes:
            on_event(Event(node, "started"))
            command = [sys.executable, *work.command(node)]
            (answer,) = run_all([command], 2.0 * DEVICE_TIMEOUT_S[work.level])
            done = answer.document is not None
            on_event(Event(node, "done" if done else "lost", answer.reason))
