"""What a launcher does: name the nodes, run the node's program on them, say how each went.

A launcher keeps nothing: results are in the store when a node says it is done, so the one that
started a run may die and be started again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from groundspeed.fleet.run.worker import Work


@dataclass(frozen=True)
class Event:
    """Something happened to a node."""

    node: str
    kind: Literal["started", "done", "lost"]
    reason: str = ""
    """Why the node was lost; empty for other kinds."""


OnEvent = Callable[[Event], None]


class Launcher(Protocol):
    """Runs a program on many nodes."""

    @property
    def name(self) -> str:
        """Name of the launcher, as ``--launcher`` takes it."""
        ...

    def nodes(self) -> tuple[str, ...]:
        """Nodes that could be measured now.

        Raises
        ------
        InputError
            If the launcher does not answer.
        """
        ...

    def run(self, work: Work, nodes: Sequence[str], on_event: OnEvent) -> None:
        """Measure nodes, telling each event; returns when every node is done or lost."""
        ...


"""A node that ends without a result is lost, with the reason; it never ends the others."""
