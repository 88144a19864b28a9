"""Rendezvous of ranks, their heartbeats, and the diagnosis of a lost rank.

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

from groundspeed.calibrate.links.launcher_environment import RankInfo
from groundspeed.calibrate.version import METHOD_VERSION, tool_version
from groundspeed.profiles.errors import InputError

GRACE_S = 3.0
"""Time that ranks are given to report in after a failure."""


POLL_S = 0.05


@dataclass(frozen=True)
class Versions:
    """Versions that must agree between ranks for their timings to be comparable."""

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


class Rendezvous:
    """Rendezvous of all ranks over a store that every rank can read.

    Parameters
    ----------
    rank_info : RankInfo
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
        rank_info: RankInfo,
        backend: str,
        *,
        timeout_s: float,
        folder: Path | None,
        agent_has_store: bool,
    ) -> None:
        self.rank_info = rank_info
        self.backend = backend
        self.timeout_s = timeout_s
        self.folder = folder
        self.holds_store = rank_info.rank == 0 and not agent_has_store
        self.doing = "meeting the others"
        self.speaker = rank_info.rank
        """Which of the ranks that are left says what happened."""
        at = f"{rank_info.address}:{rank_info.port}"
        try:
            store = TCPStore(
                rank_info.address,
                rank_info.port,
                rank_info.world_size,
                is_master=self.holds_store,
                timeout=timedelta(seconds=timeout_s),
                wait_for_workers=False,
            )
        except (dist.DistError, RuntimeError, ValueError) as error:
            taken = "EADDRINUSE" in str(error) or "in use" in str(error)
            raise InputError(
                f"port {rank_info.port} is in use by another program"
                if taken
                else f"rank {rank_info.rank} on {rank_info.host} finds nobody there within "
                f"{timeout_s:g} s",
                where=at,
                remedy="export MASTER_PORT=<a free port>"
                if taken
                else "check MASTER_ADDR and MASTER_PORT, and that rank 0 runs there",
            ) from error
        self.store = PrefixStore("groundspeed", store)
        self.heartbeat(self.doing)

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
        own = {"host": self.rank_info.host, **asdict(versions)}
        self.store.set(f"here/{self.rank_info.rank}", json.dumps(own))
        missing = self._absent("here", self.timeout_s)
        if missing:
            raise InputError(
                f"rank {', '.join(map(str, missing))} of {self.rank_info.world_size} did not come "
                f"within {self.timeout_s:g} s",
                where=f"{self.rank_info.address}:{self.rank_info.port}",
                remedy="look at the output of those ranks; --timeout waits longer",
            )
        everybody: list[dict[str, str]] = [
            json.loads(self.store.get(f"here/{rank}")) for rank in range(self.rank_info.world_size)
        ]
        first = everybody[0]
        for rank, theirs in enumerate(everybody):
            for name in asdict(versions):
                if theirs[name] != first[name]:
                    raise InputError(
                        f"rank {rank} (host {theirs['host']}) runs {name} {theirs[name]}, rank 0 "
                        f"(host {first['host']}) runs {first[name]}: timings cannot be compared",
                        remedy="install one version everywhere",
                    )
        return [theirs["host"] for theirs in everybody]

    def _absent(self, what: str, patience_s: float) -> list[int]:
        """Ranks that have not written something down after a while."""
        deadline = time.monotonic() + patience_s
        absent = list(range(self.rank_info.world_size))
        while absent and time.monotonic() < deadline:
            absent = [rank for rank in absent if not self.store.check([f"{what}/{rank}"])]
            if absent:
                time.sleep(POLL_S)
        return absent

    def heartbeat(self, doing: str) -> None:
        """Write down what this rank is about to do."""
        self.doing = doing
        if self.folder is not None:
            note = {"rank": self.rank_info.rank, "host": self.rank_info.host, "doing": doing}
            (self.folder / f"rank{self.rank_info.rank}.json").write_text(json.dumps(note))

    def diagnose(self, error: Exception, hosts: list[str]) -> InputError:
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
            self.store.set(f"failed/{self.rank_info.rank}", message)
            gone = self._absent("failed", GRACE_S)
        except (dist.DistError, RuntimeError):
            gone = [0]  # rank 0 holds the store: without it nobody answers
        if self.holds_store:
            time.sleep(GRACE_S)  # the others still ask
        left_over = [r for r in range(self.rank_info.world_size) if r not in gone]
        self.speaker = min(left_over, default=self.rank_info.rank)
        who = ", ".join(f"rank {r} on {hosts[r]}" for r in gone) or f"an unknown rank ({message})"
        return InputError(
            f"{who} was lost in {self.doing}",
            remedy="what was measured is kept; look at that rank, then run the same command again",
        )
