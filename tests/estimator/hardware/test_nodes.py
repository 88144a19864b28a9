"""Collectives over several nodes: physics of the links, what is measured, given or assumed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundspeed.estimating.parsing import parse_rate
from groundspeed.estimator.deployment.deployment import Network
from groundspeed.estimator.graph.operator import collective
from groundspeed.estimator.hardware.datasheet_hardware import DatasheetHardware
from groundspeed.estimator.hardware.find_hardware import find_hardware, shipped_profile
from groundspeed.estimator.hardware.law_lookup import ProfileHardware
from groundspeed.estimator.hardware.nodes import Nodes, in_nodes
from groundspeed.profiles import InputError
from groundspeed.profiles.busbw import bus_factor
from program import groundspeed
from repository import TEST_DATA

SIZES = 2.0 ** np.arange(10.0, 31.0)


def device(gpu: str) -> ProfileHardware:
    profile = shipped_profile(gpu)
    assert profile is not None
    return ProfileHardware.of(profile)


H200 = device("h200-sxm")
NODES = in_nodes(H200, Network())


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter"])
def test_nodes_are_slower_than_one_and_never_faster_than_the_network(op: str) -> None:
    one = NODES.time(collective(op, SIZES, 8, 1.0)).time_s
    before = one
    for nodes in (2, 4, 16):
        found = NODES.time(collective(op, SIZES, 8 * nodes, 1.0))
        assert (found.low_s < found.time_s).all() and (found.time_s < found.high_s).all()
        assert (found.time_s > before).all()
        line = SIZES / 8 * bus_factor(op, nodes) / 50e9
        assert (found.low_s > line).all()
        before = found.time_s


def test_two_nodes_of_400_gb_reach_what_operators_measure() -> None:
    """Well-set clusters of H100 and H200: 350 to 480 GB/s of busbw at 8 GB, 20 to 60 us at 8 kB."""
    large, small = np.array([2.0**33]), np.array([8192.0])
    time = NODES.time(collective("all_reduce", large, 16, 1.0))
    fastest, slowest = (2**33 * bus_factor("all_reduce", 16) / t[0] / 1e9
                        for t in (time.low_s, time.high_s))  # fmt: skip
    assert fastest > 300 and slowest < 350
    start = NODES.time(collective("all_reduce", small, 16, 1.0))
    assert start.low_s[0] < 40e-6 < start.high_s[0]


@given(st.floats(1e9, 1e12), st.integers(2, 8))
def test_a_faster_network_is_never_slower(rate: float, nodes: int) -> None:
    op = collective("all_reduce", SIZES, 8 * nodes, 1.0)
    slow, fast = (
        in_nodes(H200, Network(inter_node_bytes_per_s=r)).time(op).time_s for r in (rate, 2 * rate)
    )
    assert (fast <= slow).all()


def test_imported_log_of_several_nodes_comes_before_the_composition(tmp_path: Path) -> None:
    """A law of sixteen ranks on two hosts answers, and the network is not asked."""
    profile = shipped_profile("h200-sxm")
    assert profile is not None
    law = next(
        law for law in profile.laws
        if law.operation == "collective" and law.config_key["world_size"] == "8"
        and law.config_key["op"] == "all_reduce"
    )  # fmt: skip
    key = {"op": "all_reduce", "world_size": "16", "hosts": "2", "mode": "nccl"}
    over = law.model_copy(update={"config_key": key})
    known = profile.model_copy(update={"laws": (*profile.laws, over)})
    nodes = in_nodes(ProfileHardware.of(known), Network())
    op = collective("all_reduce", SIZES, 16, 1.0)
    assert "network" not in nodes.source(op)
    assert "network" in NODES.source(op)


def test_what_the_network_is_must_be_said_where_nothing_knows_it() -> None:
    nodes = in_nodes(device("l40s"), Network())
    with pytest.raises(InputError, match="--inter-node 400Gb/s"):
        nodes.time(collective("all_reduce", SIZES, 16, 1.0))
    given_rate = in_nodes(device("l40s"), Network(inter_node_bytes_per_s=12.5e9))
    assert "100 Gb/s for each device, as given" in given_rate.source(
        collective("all_reduce", SIZES, 16, 1.0)
    )


def test_a_measured_link_comes_before_that_of_the_reference_system(tmp_path: Path) -> None:
    log = TEST_DATA / "tools" / "ib_write_bw.log"
    profile = tmp_path / "network.json"
    imported = groundspeed("profile", "import", "perftest", str(log), "--device", "h200-sxm", "-o",
                           str(profile))  # fmt: skip
    assert imported.code == 0, imported.err
    ran = groundspeed("estimate", "llama-3.1-405b", "--gpu", str(profile), "--tp", "16",
                      "--concurrency", "4")  # fmt: skip
    assert "202 Gb/s for each device, as measured" in " ".join(ran.out.split())


def test_nvl72_is_one_node_of_72() -> None:
    nodes = in_nodes(device("gb200"), Network())
    assert nodes.per_node == 72
    op = collective("all_reduce", SIZES, 64, 1.0)
    assert "network" not in nodes.source(op)
    assert nodes.time(op).extrapolated  # more ranks than were measured


def test_datasheet_stays_a_bound_over_nodes() -> None:
    sheet = H200.datasheet
    assert sheet is not None
    bound = in_nodes(DatasheetHardware(sheet), Network())
    for ranks in (8, 16, 64):
        op = collective("all_reduce", SIZES, ranks, 1.0)
        # Switches that sum data (NVLS) beat the wire a little.
        assert (0.9 * bound.time(op).time_s <= NODES.time(op).low_s).all()
        assert (bound.time(op).low_s == bound.time(op).high_s).all()


def test_gpus_without_a_known_link_use_pcie_or_what_is_given() -> None:
    plain = find_hardware("rtx-4090").best
    nodes = in_nodes(plain, Network())
    op = collective("all_reduce", np.array([2.0**30]), 2, 1.0)
    assert nodes.time(op).time_s[0] == pytest.approx(2**30 / 31.5e9, rel=0.01)  # PCIe gen 4 x16
    faster = replace(nodes, device_link_bytes_per_s=63e9)
    assert faster.time(op).time_s[0] == pytest.approx(2**30 / 63e9, rel=0.01)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("400Gb/s", 50e9), ("400Gbps", 50e9), ("50GB/s", 50e9), ("1.6 Tb/s", 200e9),
     ("100 Gbit/s", 12.5e9)],
)  # fmt: skip
def test_rates_say_bits_or_bytes(text: str, bytes_per_s: float) -> None:
    assert parse_rate(text, "") == pytest.approx(bytes_per_s)


@pytest.mark.parametrize("text", ["400", "400G", "fast", "-1Gb/s", "GB/s"])
def test_rates_without_unit_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="needs a unit"):
        parse_rate(text, "--inter-node")


@pytest.mark.parametrize(
    "options",
    [
        ("kimi-k2", "--gpu", "h200", "--tp", "16", "--dtype", "fp8"),
        ("deepseek-r1", "--gpu", "h100", "--tp", "16"),
        ("deepseek-r1", "--gpu", "h100", "--tp", "8", "--pp", "2"),
        ("deepseek-r1", "--gpu", "gb200", "--dp", "64", "--ep", "64"),
        ("deepseek-r1", "--gpu", "h200", "--dp", "16", "--ep", "16"),
    ],
)
def test_deployments_over_nodes_have_an_interval_and_the_origin_of_their_link(
    options: tuple[str, ...],
) -> None:
    ran = groundspeed("estimate", *options, "--concurrency", "64", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)["predictions"][-1]
    assert found["tpot_low_s"] < found["tpot_s"] < found["tpot_high_s"]
    assert found["ttft_low_s"] < found["ttft_s"] < found["ttft_high_s"]
    text = json.dumps(found)
    assert "reference system" in text or "all-to-all" in text, text


def test_topology_that_cannot_be_is_one_line() -> None:
    for options, said in (
        (("--tp", "7"), "does not divide"),
        (("--tp", "2", "--inter-node", "400"), "needs a unit"),
        (("--tp", "2", "--gpus-per-node", "0"), "--gpus-per-node: must lie between 1 and 4096"),
    ):
        ran = groundspeed("estimate", "llama-3.1-8b", "--gpu", "h100", *options,
                          "--concurrency", "1")  # fmt: skip
        assert ran.code == 2 and said in ran.err, ran.err


def test_nodes_tell_what_they_are() -> None:
    assert isinstance(NODES, Nodes) and NODES.per_node == 8
    assert NODES.memory_bytes == H200.memory_bytes and NODES.id == H200.id
