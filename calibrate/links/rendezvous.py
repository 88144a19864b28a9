"""How ranks meet, say what they are doing, and find out who is missing.

A collective fails on everybody when it fails on one, with a message about a socket that names
nobody. So each rank writes down what it is about to do, in a store that all can read and in a file
beside the results. When something breaks, those that are left report in; who does not is the one.
"""

import json
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.cuda import nccl

from groundspeed.calibrate.links.launcher_environment import Place
from groundspeed.calibrate.version import METHOD_VERSION, tool_version
from groundspeed.profiles.errors import InputError

GRACE_S = 3.0
"""Time that ranks are given to report in after a failure."""


POLL_S = 0.05


@dataclass(frozen=True)
class Versions:
    """What must agree between ranks for their times to be of one thing."""

    groundspeed: str
    method: int
    torch: str
    communication: str


def own_versions(backend: str) -> Versions:
    """Versions of this process."""
    library = backend
    if backend == "nccl":
        library = ".".join(map(str, nccl.version()))
    return Versions(tool_version(), METHOD_VERSION, torch.__version__, library)


class Meeting:
    """The place where ranks meet.

    Parameters
    ----------
    place : Place
    backend : {'gloo', 'nccl'}
    timeout_s : float
        [s] After which a rank that does not come, or an operation that does not end, is given up.
    folder : Path or None
        Where each rank also writes what it is doing, for the process that started it.
    agent_has_store : bool
        Whether the launcher opened the port already (torchrun does).

    Raises
    ------
    InputError
        If the port is taken, nobody answers at the address, or a rank does not come.
    """

    def __init__(
        self,
        place: Place,
        backend: str,
        *,
        timeout_s: float,
        folder: Path | None,
        agent_has_store: bool,
    ) -> None:
        self.place = place
        self.backend = backend
        self.timeout_s = timeout_s
        self.folder = folder
        self.holds_store = place.rank == 0 and not agent_has_store
        self.doing = "meeting the others"
        self.speaker = place.rank
        """Which of the ranks that are left says what happened."""
        at = f"{place.address}:{place.port}"
        try:
            store = TCPStore(
                place.address,
                place.port,
                place.world_size,
                is_master=self.holds_store,
                timeout=timedelta(seconds=timeout_s),
                wait_for_workers=False,
            )
        except (dist.DistError, RuntimeError, ValueError) as error:
            taken = "EADDRINUSE" in str(error) or "in use" in str(error)
            raise InputError(
                f"port {place.port} is in use by another program"
                if taken
                else f"rank {place.rank} on {place.host} finds nobody there within {timeout_s:g} s",
                where=at,
                remedy="export MASTER_PORT=<a free port>"
                if taken
                else "check MASTER_ADDR and MASTER_PORT, and that rank 0 runs there",
            ) from error
        self.store = PrefixStore("groundspeed", store)
        self.say(self.doing)

    def agree(self, versions: Versions) -> list[str]:
        """Wait for all ranks and compare versions.

        Returns
        -------
        list of str
            Host of each rank.

        Raises
        ------
        InputError
            If a rank does not come in time, or has other versions.
        """
        own = {"host": self.place.host, **asdict(versions)}
        self.store.set(f"here/{self.place.rank}", json.dumps(own))
        missing = self._absent("here", self.timeout_s)
        if missing:
            raise InputError(
                f"rank {', '.join(map(str, missing))} of {self.place.world_size} did not come "
                f"within {self.timeout_s:g} s",
                where=f"{self.place.address}:{self.place.port}",
                remedy="look at the output of those ranks; --timeout waits longer",
            )
        everybody: list[dict[str, str]] = [
            json.loads(self.store.get(f"here/{rank}")) for rank in range(self.place.world_size)
        ]
        first = everybody[0]
        for rank, theirs in enumerate(everybody):
            for name in asdict(versions):
                if theirs[name] != first[name]:
                    raise InputError(
                        f"rank {rank} on {theirs['host']} runs {name} {theirs[name]}, rank 0 on "
                        f"{first['host']} {first[name]}: their times are not of one thing",
                        remedy="install the same version everywhere",
                    )
        return [theirs["host"] for theirs in everybody]

    def _absent(self, what: str, patience_s: float) -> list[int]:
        """Ranks that have not written something down after a while."""
        deadline = time.monotonic() + patience_s
        absent = list(range(self.place.world_size))
        while absent and time.monotonic() < deadline:
            absent = [rank for rank in absent if not self.store.check([f"{what}/{rank}"])]
            if absent:
                time.sleep(POLL_S)
        return absent

    def say(self, doing: str) -> None:
        """Write down what this rank is about to do."""
        self.doing = doing
        if self.folder is not None:
            note = {"rank": self.place.rank, "host": self.place.host, "doing": doing}
            (self.folder / f"rank{self.place.rank}.json").write_text(json.dumps(note))

    def why(self, error: Exception, hosts: list[str]) -> InputError:
        """Find out, after an error in a collective, who is missing.

        Parameters
        ----------
        error : Exception
            As this rank saw it.
        hosts : list of str
            Of each rank.

        Returns
        -------
        InputError
            Names rank, host and operation.
        """
        message = str(error).split("\n")[0][:160]
        try:
            self.store.set(f"failed/{self.place.rank}", message)
            gone = self._absent("failed", GRACE_S)
        except (dist.DistError, RuntimeError):
            gone = [0]  # rank 0 holds the store: without it nobody answers
        if self.holds_store:
            time.sleep(GRACE_S)  # the others still ask
        left_over = [r for r in range(self.place.world_size) if r not in gone]
        self.speaker = min(left_over, default=self.place.rank)
        who = ", ".join(f"rank {r} on {hosts[r]}" for r in gone) or f"an unknown rank ({message})"
        return InputError(
            f"{who} was lost in {self.doing}",
            remedy="what was measured is kept; look at that rank, then run the same command again",
        )
