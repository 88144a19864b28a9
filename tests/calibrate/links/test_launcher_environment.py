"""A process finds its rank in the environment variables of torchrun, srun or mpirun."""

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from groundspeed.calibrate.links.launcher_environment import RankInfo, find_rank_info, first_node
from groundspeed.calibrate.links.rank_main import gpu_of
from groundspeed.profiles import InputError

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NNODES": "2",
    "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[017-018]",
}  # fmt: skip
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "MASTER_ADDR": "head",
}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "launcher", "rank", "local", "address", "port"),
    [
        (TORCHRUN, "torchrun", (3, 8), (1, 2), "10.0.0.1", 1234),
        (SRUN, "srun", (5, 8), (1, 4), "gpu017", 29500),
        (MPIRUN, "mpirun", (0, 2), (0, 1), "head", 29500),
    ],
)
def test_rank_address_and_port_are_read_from_each_launcher(
    variables: dict[str, str],
    launcher: str,
    rank: tuple[int, int],
    local: tuple[int, int],
    address: str,
    port: int,
) -> None:
    rank_info = find_rank_info(variables)
    assert rank_info is not None
    assert rank_info.launcher == launcher
    assert (rank_info.rank, rank_info.world_size) == rank
    assert (rank_info.local_rank, rank_info.local_size) == local
    assert (rank_info.address, rank_info.port) == (address, port)


def test_batch_script_of_a_job_with_eight_tasks_is_not_a_rank() -> None:
    """What Slurm 22.05 sets in a script that ``sbatch --ntasks=8`` starts."""
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_NNODES": "1",
             "SLURM_NTASKS_PER_NODE": "8", "SLURM_JOB_NODELIST": "gpu017"}  # fmt: skip
    assert find_rank_info(batch) is None


@pytest.mark.parametrize(("local_rank", "visible", "gpu"), [(3, 1, 0), (3, 8, 3), (0, 8, 0)])
def test_rank_takes_its_own_gpu_or_the_only_one_that_it_sees(
    local_rank: int, visible: int, gpu: int
) -> None:
    rank_info = RankInfo(local_rank, 8, local_rank, 8, "localhost", 29500, "srun")
    assert gpu_of(rank_info, visible) == gpu


def test_rank_without_a_gpu_of_its_own_is_refused() -> None:
    rank_info = RankInfo(3, 8, 3, 8, "localhost", 29500, "srun")
    with pytest.raises(InputError, match="sees only 2 GPUs"):
        gpu_of(rank_info, 2)


def test_torchrun_variables_take_precedence_inside_a_slurm_job() -> None:
    rank_info = find_rank_info(SRUN | TORCHRUN)
    assert rank_info is not None and rank_info.launcher == "torchrun"


@pytest.mark.parametrize("variables", [{}, {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}])
def test_single_process_has_no_rank(variables: dict[str, str]) -> None:
    assert find_rank_info(variables) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"RANK": "8"}, "rank 8 of 8 does not exist"),
        ({"RANK": "x"}, "'x' is not a whole number"),
        ({"MASTER_PORT": ""}, "'' is not a whole number"),
        ({"MASTER_ADDR": ""}, "does not set the host of rank 0"),
    ],
)
def test_invalid_launcher_variables_are_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_rank_info(TORCHRUN | change)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1,n2", "n1"), ("n[1-3]", "n1"), ("a[02,07-09]b", "a02b"), ("x,y[1-2]", "x")],
)
def test_first_node_of_a_slurm_node_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
