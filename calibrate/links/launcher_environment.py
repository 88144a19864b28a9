"""Find out from the environment variables of a launcher which rank this process is.

On one node ``groundspeed calibrate --ranks 8`` starts eight processes itself, through torchrun's
API. On several nodes an existing launcher starts the ranks: the same command under ``torchrun``,
``srun`` or ``mpirun`` reads its rank from the launcher's environment variables.

    rank_info = find_rank_info(os.environ)   # None if no launcher started this process
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from groundspeed.profiles.errors import InputError

DEFAULT_PORT = 29500
"""Rendezvous port if the launcher sets none; the default of torchrun."""


@dataclass(frozen=True)
class RankInfo:
    """Rank of this process, and the rendezvous address of all ranks."""

    rank: int
    world_size: int
    local_rank: int
    """Index of this rank among the ranks on its node."""
    local_size: int
    """Number of ranks on this node."""
    address: str
    """Host of rank 0."""
    port: int
    """Rendezvous port on the host of rank 0."""
    launcher: str
    """``torchrun``, ``srun``, ``mpirun`` or ``mpiexec``."""

    @property
    def host(self) -> str:
        """Name of this machine."""
        return socket.gethostname()


LAUNCHERS: dict[str, tuple[str, str, str, str]] = {
    # rank, world size, local rank, ranks on this node
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    # Variables of a job step. A batch script has SLURM_PROCID and SLURM_NTASKS of its job too, but
    # is one process: it would wait for ranks that nobody starts.
    "srun": (
        "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE",
    ),
    "mpirun": (
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}  # fmt: skip
"""Names of the environment variables by launcher: torchrun, Slurm, Open MPI, MPICH and Intel
MPI."""


def find_rank_info(variables: Mapping[str, str]) -> RankInfo | None:
    """Read the rank of this process from the variables of its launcher.

    Parameters
    ----------
    variables : mapping of str to str
        Environment variables.

    Returns
    -------
    RankInfo or None
        None if no launcher started this process, or if the launcher started only one rank.

    Raises
    ------
    InputError
        If the variables contradict each other, or do not give the host of rank 0.
    """
    for launcher, (rank, size, local_rank, local_size) in LAUNCHERS.items():
        if rank not in variables or size not in variables:
            continue
        rank_info = RankInfo(
            rank=_whole(variables, rank),
            world_size=_whole(variables, size),
            local_rank=_whole(variables, local_rank, 0),
            local_size=_whole(variables, local_size, 1),
            address=_address(variables, launcher),
            port=_whole(variables, "MASTER_PORT", DEFAULT_PORT),
            launcher=launcher,
        )
        if rank_info.world_size < 2:
            return None
        if not 0 <= rank_info.rank < rank_info.world_size:
            raise InputError(
                f"rank {rank_info.rank} of {rank_info.world_size} does not exist: ranks go from 0 "
                f"to {rank_info.world_size - 1}",
                where=f"environment variables {rank}, {size}",
            )
        return rank_info
    return None


def _whole(variables: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = variables.get(name, "" if default is None else str(default))
    # Slurm writes "4(x2)" for four tasks on each of two nodes.
    digits = text.split("(")[0].split(",")[0].strip()
    if not digits.isdigit():
        raise InputError(f"'{text}' is not a whole number", where=f"environment variable {name}")
    return int(digits)


def _address(variables: Mapping[str, str], launcher: str) -> str:
    """Return the host of rank 0."""
    if variables.get("MASTER_ADDR"):
        return variables["MASTER_ADDR"]
    if launcher == "srun":
        nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST", "")
        if nodes:
            return first_node(nodes)
    if variables.get("SLURM_NNODES", "1") == "1" and launcher == "srun":
        return "localhost"
    raise InputError(
        f"{launcher} does not set the host of rank 0",
        where="environment variable MASTER_ADDR",
        remedy="export MASTER_ADDR=<host of rank 0>; if port 29500 is in use, also MASTER_PORT",
    )


def first_node(nodes: str) -> str:
    """Return the first host of a Slurm node list.

    >>> first_node("gpu[003-005,9],login1")
    'gpu003'
    >>> first_node("alone")
    'alone'
    """
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return head.split(",")[0]
    inside, _, after = rest.partition("]")
    return head + inside.split(",")[0].split("-")[0] + after.split(",")[0]
