"""Links among simulated GPUs, in real processes, with communication that works like NCCL's."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from program import Ran, slowness
from simulation import Chip, Machine, simulate_program

pytestmark = pytest.mark.slow

CHIP = Chip()
SCRIPT = Path(__file__).parent / "sim_links.py"


def links(ranks: int, folder: Path, *faults: dict[str, Any], timeout_s: float = 60.0) -> Ran:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", str(SCRIPT), str(folder), str(ranks), str(timeout_s)]
    return simulate_program(Machine(gpus=ranks, faults=faults), command, folder)


def curves(ran: Ran) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    assert ran.code == 0, ran.err
    return {
        (c["operation"], *c["config_key"].values()): c["points"]
        for c in json.loads(ran.out)["curves"]
    }


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return links(3, tmp_path_factory.mktemp("three"))


def test_three_gpus_do_not_wait_for_each_other_for_ever(three: Ran) -> None:
    """The first transfer between two of three ranks would build the communicator of all three."""
    found = curves(three)
    pairs = {(p["case"]["from"], p["case"]["to"]) for p in found["p2p", "one-way"]}
    assert pairs == {(1.0, 2.0), (0.0, 2.0), (0.0, 1.0)}
    assert json.loads(three.out)["warnings"] == []


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("world", [2, 3])
def test_collectives_have_the_simulated_time_at_small_and_large_messages(
    three: Ran, mode: str, world: int
) -> None:
    for point in curves(three)["collective", "all_reduce", str(world), mode]:
        moved = 2.0 * (world - 1) / world * point["bytes"]
        truth = CHIP.peer_latency_s + moved / CHIP.peer_bytes_per_s
        assert point["time_s"] == pytest.approx(truth, rel=0.02)


def test_transfers_between_two_gpus_have_the_simulated_time(three: Ran) -> None:
    for direction in ("one-way", "both-ways", "all-at-once"):
        for point in curves(three)["p2p", direction]:
            truth = CHIP.peer_latency_s + point["case"]["bytes"] / CHIP.peer_bytes_per_s
            assert point["time_s"] == pytest.approx(truth, rel=0.02)


def test_slow_link_is_seen_in_its_pair_alone(tmp_path: Path) -> None:
    slow = {"kind": "slow_link", "pair": [0, 2], "bytes_per_s": 100e9}
    found = {
        (p["case"]["from"], p["case"]["to"]): p["case"]["bytes"] / p["time_s"]
        for p in curves(links(3, tmp_path, slow))["p2p", "one-way"]
    }
    assert found[0.0, 2.0] == pytest.approx(100e9, rel=0.1)
    assert found[0.0, 1.0] == pytest.approx(CHIP.peer_bytes_per_s, rel=0.1)


def test_rank_whose_gpu_is_slow_is_named_and_no_other(tmp_path: Path) -> None:
    slow = {"kind": "slow", "device": 1, "memory_bytes_per_s": 5e11}
    ran = links(3, tmp_path, slow)
    assert ran.code == 0, ran.err
    (warning,) = json.loads(ran.out)["warnings"]
    assert warning.startswith("rank 1 on ") and "is slow" in warning


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_operation_that_hangs_on_the_device_ends_with_its_name(tmp_path: Path, mode: str) -> None:
    """In a graph no watchdog sees it; in eager mode the watchdog would kill the healthy ranks."""
    fault = {"kind": "hang", "rank": 1, "op": "all_reduce", "bytes": float(2**20)}
    if mode == "graph":
        fault["watched"] = False
    ran = links(3, tmp_path, fault, timeout_s=8.0 * slowness())
    assert ran.code == 2
    assert "all_reduce of 1048576 bytes among 2 ranks did not finish on the device" in ran.err
    assert "all ranks are alive" in ran.err


def test_killed_rank_is_named_with_its_signal(tmp_path: Path) -> None:
    ran = links(3, tmp_path, {"kind": "dies", "rank": 2, "op": "broadcast"})
    assert ran.code == 2
    assert "rank 2 on " in ran.err and "was killed by SIGKILL during broadcast" in ran.err


def test_eight_gpus(tmp_path: Path) -> None:
    found = curves(links(8, tmp_path))
    assert {key[2] for key in found if key[0] == "collective"} == {"2", "4", "8"}
    assert len(found["p2p", "one-way"]) == 28
