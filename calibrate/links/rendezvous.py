"""Rendezvous of the ranks, their heartbeats, and the search for a lost rank.

A collective that fails on one rank fails on all, with a socket error that does not name the rank.
Each rank therefore records the operation that it starts, and writes it to a file for the process
that started the ranks. A thread of each rank also counts up in a store that all ranks can read, as
long as its process lives and runs. After an error, a rank whose count stands still is the lost one.
If every count moves, the processes are well and a device or a link hangs.

    rendezvous = Rendezvous(
        rank_info, "nccl", timeout_s=60.0, folder=None, agent_has_store=False
    )
    hosts = rendezvous.agree(own_versions("nccl"))
"""

import json
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.cuda import nccl

from groundspeed.calibrate.links.device_wait import HungDeviceError
from groundspeed.calibrate.links.launcher_environment import RankInfo
from groundspeed.calibrate.version import METHOD_VERSION, tool_version
from groundspeed.profiles.errors import InputError

PULSE_S = 0.5
"""[s] Time between two counts of a rank that is alive."""

GRACE_S = 5.0
"""[s] Time in which the count of a rank must move: many times the pulse, for busy hosts."""


POLL_S = 0.05
"""[s] Time between two looks at the store."""


@dataclass(frozen=True)
class Versions:
    """Versions that must agree between ranks for their timings to be comparable."""

    groundspeed: str
    method: int
    torch: str
    communication: str


def own_versions(backend: str) -> Versions:
    """Return the versions that this process runs."""
    library = backend
    if backend == "nccl":
        library = ".".join(map(str, nccl.version()))
    return Versions(tool_version(), METHOD_VERSION, torch.__version__, library)


class Rendezvous:
    """Rendezvous of all ranks, with a store that they share.

    Parameters
    ----------
    rank_info : RankInfo
        Rank of this process and rendezvous address.
    backend : {'gloo', 'nccl'}
        Communication backend of torch.distributed.
    timeout_s : float
        [s] Time after which a missing rank or a hanging operation ends the run.
    folder : Path or None
        Folder for heartbeat files, which the process that started the ranks reads. None: no files.
    agent_has_store : bool
        Whether the launcher already hosts the store on this port, as torchrun does.

    Raises
    ------
    InputError
        If the port is in use, no store answers at the address, or a rank does not join in time.
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
        self.doing = "rendezvous"
        self.speaker = rank_info.rank
        """Surviving rank that reports the failure."""
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
                else f"rank {rank_info.rank} on {rank_info.host} did not reach rank 0 within "
                f"{timeout_s:g} s",
                where=at,
                remedy="export MASTER_PORT=<a free port>"
                if taken
                else "check MASTER_ADDR and MASTER_PORT, and that rank 0 runs at this address",
            ) from error
        self.store = PrefixStore("groundspeed", store)
        self.heartbeat(self.doing)
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._count_up, name="pulse", daemon=True)
        self._pulse.start()

    def close(self) -> None:
        """End the thread that counts: it must not use the store while the interpreter ends."""
        self._ended.set()
        self._pulse.join(timeout=10.0 * PULSE_S)

    def _count_up(self) -> None:
        """Count up in the store while this process runs, over a connection of its own."""
        try:
            own = PrefixStore(
                "groundspeed",
                TCPStore(
                    self.rank_info.address,
                    self.rank_info.port,
                    is_master=False,
                    timeout=timedelta(seconds=self.timeout_s),
                    wait_for_workers=False,
                ),
            )
            while not self._ended.wait(PULSE_S):
                own.add(f"pulse/{self.rank_info.rank}", 1)
        except (dist.DistError, RuntimeError, ValueError):
            return  # the process that holds the store has ended

    def agree(self, versions: Versions) -> list[str]:
        """Wait for all ranks and check that they run the same versions.

        Returns
        -------
        list of str
            Host of each rank.

        Raises
        ------
        InputError
            If a rank does not join in time, or runs another version.
        """
        own = {"host": self.rank_info.host, **asdict(versions)}
        self.store.set(f"here/{self.rank_info.rank}", json.dumps(own))
        missing = self._absent("here", self.timeout_s)
        if missing:
            raise InputError(
                f"rank {', '.join(map(str, missing))} of {self.rank_info.world_size} did not join "
                f"within {self.timeout_s:g} s",
                where=f"{self.rank_info.address}:{self.rank_info.port}",
                remedy="check the output of these ranks, or wait longer with --timeout",
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
        """Wait for an entry of each rank in the store, and return the ranks without one.

        Parameters
        ----------
        what : {'here'}
            Kind of entry.
        patience_s : float
            [s] Longest time to wait.
        """
        deadline = time.monotonic() + patience_s
        absent = list(range(self.rank_info.world_size))
        while absent and time.monotonic() < deadline:
            absent = [rank for rank in absent if not self.store.check([f"{what}/{rank}"])]
            if absent:
                time.sleep(POLL_S)
        return absent

    def heartbeat(self, doing: str) -> None:
        """Record the operation that this rank starts, also in the folder if there is one."""
        self.doing = doing
        if self.folder is not None:
            note = {"rank": self.rank_info.rank, "host": self.rank_info.host, "doing": doing}
            (self.folder / f"rank{self.rank_info.rank}.json").write_text(json.dumps(note))

    def diagnose(self, error: Exception, hosts: list[str]) -> InputError:
        """Find out which rank is lost after an error in a collective.

        Parameters
        ----------
        error : Exception
            Error that this rank got.
        hosts : list of str
            Host of each rank.

        Returns
        -------
        InputError
            Error whose message names the lost rank, its host and the operation.
        """
        message = str(error).split("\n")[0][:160]
        try:
            gone = self._without_pulse()
        except (dist.DistError, RuntimeError):
            gone = [0]  # rank 0 hosts the store, so without an answer rank 0 is lost
        if self.holds_store:
            time.sleep(GRACE_S)  # the other ranks still read the store
        left_over = [r for r in range(self.rank_info.world_size) if r not in gone]
        self.speaker = min(left_over, default=self.rank_info.rank)
        if self.speaker != self.rank_info.rank:
            time.sleep(PULSE_S)  # the launcher ends all ranks as soon as one of them exits
        kept = "completed measurements are kept"
        if not gone and isinstance(error, HungDeviceError):
            return InputError(
                f"{self.doing} did not finish on the device within {self.timeout_s:g} s, although "
                "all ranks are alive: a GPU or a link between them hangs",
                remedy=f"{kept}: check the driver's log, then run the command again",
            )
        who = ", ".join(f"rank {r} on {hosts[r]}" for r in gone) or f"an unknown rank ({message})"
        return InputError(
            f"{who} was lost during {self.doing}",
            remedy=f"{kept}: check that rank, then run the command again",
        )

    def _without_pulse(self) -> list[int]:
        """Return the ranks whose count stands still, after waiting for each to move."""
        ranks = range(self.rank_info.world_size)

        def counts() -> dict[int, int]:
            known = [r for r in ranks if self.store.check([f"pulse/{r}"])]
            return {r: int(self.store.get(f"pulse/{r}")) for r in known}

        before, deadline = counts(), time.monotonic() + GRACE_S
        still = list(ranks)
        while still and time.monotonic() < deadline:
            now = counts()
            still = [r for r in ranks if now.get(r, 0) == before.get(r, 0)]
            time.sleep(POLL_S)
        return still
