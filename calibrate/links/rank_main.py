"""Run one rank, from the rendezvous to the profile that rank 0 returns.

All ranks measure collectives and point-to-point transfers. If a rank is lost, one surviving rank
reports which one and during which operation.

    profile = measure_links(rank_info, request, progress)   # None on all ranks but rank 0
"""

import logging
import os
import socket
import subprocess
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.cuda import nccl

from groundspeed.calibrate.links.collective_timing import LinkRun
from groundspeed.calibrate.links.device_wait import WATCHDOG_MARGIN_S, HungDeviceError
from groundspeed.calibrate.links.launcher_environment import RankInfo
from groundspeed.calibrate.links.link_cases import CPU_SETTINGS, GPU_SETTINGS, Settings
from groundspeed.calibrate.links.nccl_log import NcclLog, capture_nccl_log, read_nccl_log
from groundspeed.calibrate.links.p2p import measure_p2p
from groundspeed.calibrate.links.rendezvous import Rendezvous, own_versions
from groundspeed.calibrate.run.build_profile import link_profile
from groundspeed.calibrate.run.device import RunningDevice, open_device
from groundspeed.calibrate.run.journal import Journal
from groundspeed.calibrate.run.runner import Progress
from groundspeed.calibrate.timing.telemetry import open_telemetry
from groundspeed.calibrate.version import METHOD_VERSION, tool_version
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.schema import Interconnect, Profile

VARIABLES = ("NCCL_", "RCCL_", "GLOO_", "TORCH_NCCL_", "HSA_", "UCX_")
"""Prefixes of the environment variables that configure communication; the profile stores them."""


@dataclass(frozen=True)
class LinkRequest:
    """Settings of a link measurement; all ranks get the same."""

    device_kind: str
    """``cpu`` or ``cuda``."""
    journal: Path
    """Path of the journal, which rank 0 writes."""
    command: str
    """Command that started the run, stored in the profile."""
    seed: int
    """Random seed of the order of the cases."""
    timeout_s: float
    """[s] Time after which a missing rank or a hanging operation ends the run."""
    settings: Settings | None = None
    """Message sizes and number of samples. Default: those for the kind of device."""
    folder: Path | None = None
    """Folder where ranks write their heartbeats. None if the ranks were started by a launcher."""


class ReportedElsewhereError(Exception):
    """Raised on a rank that failed if another rank reports the cause."""


def measure_links(rank_info: RankInfo, request: LinkRequest, progress: Progress) -> Profile | None:
    """Run one rank of a link measurement.

    Parameters
    ----------
    rank_info : RankInfo
        Rank of this process and rendezvous address.
    request : LinkRequest
        Device, journal, command, seed and timeout.
    progress : callable
        Called before each case; used on rank 0 only.

    Returns
    -------
    Profile or None
        The profile on rank 0, None on the other ranks.

    Raises
    ------
    InputError
        If a rank is lost. The message names the rank, its host and the operation; completed
        measurements are in the journal.
    ReportedElsewhereError
        If a rank is lost and another surviving rank reports it.
    """
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    running = _open(request.device_kind, rank_info)
    backend = "gloo" if running.device.kind == "cpu" else "nccl"
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    rendezvous = Rendezvous(
        rank_info,
        backend,
        timeout_s=request.timeout_s,
        folder=request.folder,
        agent_has_store=agent,
    )
    hosts = rendezvous.agree(own_versions(backend))
    first = rank_info.rank == 0
    kept = (
        Journal(request.journal, _fingerprint(running, rank_info, hosts, request))
        if first
        else nullcontext()
    )
    try:
        with kept as journal, capture_nccl_log() as log:
            rendezvous.heartbeat("connection setup")
            dist.init_process_group(
                backend,
                store=PrefixStore("torch", rendezvous.store),
                rank=rank_info.rank,
                world_size=rank_info.world_size,
                timeout=timedelta(
                    seconds=request.timeout_s + (WATCHDOG_MARGIN_S if backend == "nccl" else 0.0)
                ),
            )
            usual = CPU_SETTINGS if backend == "gloo" else GPU_SETTINGS
            run = LinkRun(
                rendezvous,
                hosts,
                running.torch_device,
                request.settings or usual,
                journal,
                progress if first else silent,
            )
            result = run.measure(request.seed)
            pairs = measure_p2p(run)
            rendezvous.heartbeat("shutdown")
            dist.barrier(group=run.control)
            dist.destroy_process_group()
            nccl_log = read_nccl_log(log)
    except (dist.DistError, HungDeviceError, RuntimeError, OSError) as error:
        reason = rendezvous.diagnose(error, hosts)
        if rendezvous.speaker != rank_info.rank:
            raise ReportedElsewhereError(reason.what) from error
        raise reason from error
    finally:
        rendezvous.close()
    if not first:
        return None
    with open_telemetry(running.device.kind, running.torch_device.index or 0) as telemetry:
        return link_profile(
            running,
            telemetry,
            result,
            pairs,
            read_interconnect(backend, rank_info, hosts, nccl_log),
            command=request.command,
            seed=request.seed,
        )


def silent(done: int, total: int, name: str) -> None:
    """Ignore progress; all ranks but rank 0 use this."""


def _open(kind: str, rank_info: RankInfo) -> RunningDevice:
    if kind == "cpu":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // max(1, rank_info.local_size)))
        return open_device("cpu")
    return open_device(f"cuda:{gpu_of(rank_info, torch.cuda.device_count())}")


def gpu_of(rank_info: RankInfo, visible: int) -> int:
    """Return the index of the GPU of a rank among those that it sees.

    A launcher shows each rank all GPUs of the node, or (``srun --gpus-per-task=1``) its own only.

    Raises
    ------
    InputError
        If it sees some GPUs, but fewer than there are ranks on its node.
    """
    if visible == 1 and rank_info.local_size > 1:
        return 0
    if rank_info.local_rank >= visible > 0:
        raise InputError(
            f"rank {rank_info.rank} is number {rank_info.local_rank} on {rank_info.host}, but sees "
            f"only {visible} GPUs",
            remedy="start one rank for each GPU, or show each rank its own GPU "
            "(srun --gpus-per-task=1)",
        )
    return rank_info.local_rank


def _fingerprint(
    running: RunningDevice, rank_info: RankInfo, hosts: list[str], request: LinkRequest
) -> dict[str, object]:
    device = running.device
    return {
        "links of": device.name,
        "ranks": rank_info.world_size,
        "hosts": hosts,
        "seed": request.seed,
        "tool": tool_version(),
        "method": METHOD_VERSION,
        "torch": torch.__version__,
    }


def read_interconnect(
    backend: str, rank_info: RankInfo, hosts: list[str], nccl_log: NcclLog
) -> Interconnect:
    """Describe the interconnect: library, ranks, hosts, launcher, topology and NCCL settings."""
    version = None
    library: Literal["gloo", "nccl", "rccl"] = "gloo"
    if backend == "nccl":
        version = ".".join(map(str, nccl.version()))
        library = "rccl" if torch.version.hip else "nccl"
    return Interconnect(
        backend=library,
        version=version,
        ranks=rank_info.world_size,
        hosts=tuple(dict.fromkeys(hosts)),
        launcher=rank_info.launcher,
        topology=_topology(backend),
        algorithms=nccl_log.algorithms,
        in_network_reduction=nccl_log.in_network_reduction,
        variables={k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
    )


TOPOLOGY_TOOLS = (("nvidia-smi", "topo", "-m"), ("rocm-smi", "--showtopo"))


def _topology(backend: str) -> tuple[str, ...]:
    """Return the topology of links, switches and NUMA nodes as text lines of the vendor's tool."""
    if backend == "gloo":
        nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
        return (f"processes on {socket.gethostname()}, {nodes or 1} NUMA node(s)",)
    for command in TOPOLOGY_TOOLS:
        try:
            finished = subprocess.run(
                command, capture_output=True, text=True, timeout=20.0, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if finished.returncode == 0 and finished.stdout.strip():
            return tuple(line.rstrip() for line in finished.stdout.splitlines() if line.strip())
    return ("unknown: neither nvidia-smi nor rocm-smi shows the topology",)


def failed(error: Exception) -> str:
    """Return the one-line message of a rank's failure."""
    return error.what if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
