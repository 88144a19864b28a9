"""Interface of a launcher: list the nodes, run the node's program on them, report each outcome.

A launcher keeps no state: the results of a node are in the store before it is reported as done. So
the process that started a run may die and be started again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from groundspeed.fleet.run.worker import Work


@dataclass(frozen=True)
class Event:
    """Change in the state of one node during a run."""

    node: str
    kind: Literal["started", "done", "lost"]
    reason: str = ""
    """Why the node was lost; empty for other kinds."""


OnEvent = Callable[[Event], None]


class Launcher(Protocol):
    """Runs the node's program on many nodes."""

    @property
    def name(self) -> str:
        """Name of the launcher, as ``--launcher`` takes it."""
        ...

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes that can be measured now.

        Raises
        ------
        InputError
            If the launcher does not answer.
        """
        ...

    def run(self, work: Work, nodes: Sequence[str], on_event: OnEvent) -> None:
        """Measure nodes and report each event; return when every node is done or lost."""
        ...


"""A node that ends without a result is reported as lost, with a reason; the other nodes go on."""
