"""The whole walk of a new cluster: calibrate, predict every model, run the fleet, screen, report.

A node with two simulated H200, of which one has slower memory, is calibrated together with its
links. All files of it stand behind every prediction, and what was never measured comes from the
shipped profile, labelled. Then three such nodes are measured through a real Slurm cluster; one GPU
is sick, and must be the only one that is accused.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from groundspeed.estimator import Prediction, Workload
from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
from groundspeed.estimator.graph.operator import collective, matmul
from groundspeed.estimator.hardware.find_hardware import HardwareChoice, find_hardware
from groundspeed.estimator.hardware.law_lookup import ProfileHardware
from groundspeed.estimator.model.catalog import shipped_models
from groundspeed.estimator.serving.step_time import step_graph
from groundspeed.profiles import InputError
from program import groundspeed
from simulation import Chip, Machine, simulate, variables
from slurm_cluster import SlurmCluster, missing

pytestmark = pytest.mark.slow

CHIP = Chip(
    name="NVIDIA H200", memory_bytes=150_754_000_000, l2_bytes=6 * 2**20,
    memory_bytes_per_s=4.3e12, power_cap_w=2000.0,
)  # fmt: skip
"""The cache is small, so that few operand sets make operands cold and the test is fast."""
SLOWER = {"kind": "slow", "device": 1, "memory_bytes_per_s": 3.6e12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrate both GPUs and their links."""
    made = tmp_path_factory.mktemp("walk")
    ran = simulate(
        Machine(gpus=2, chip=CHIP, faults=(SLOWER,)), "calibrate", "--quick", "--device", "all",
        "--json", "--profile-dir", str(made / "profiles"), folder=made,
    )  # fmt: skip
    assert ran.code == 0, ran.err[-3000:]
    return made


@pytest.fixture(scope="module")
def known(folder: Path) -> HardwareChoice:
    return find_hardware("h200", profile_dir=folder / "profiles")


def predict(known: HardwareChoice, model: str, **options: object) -> Prediction:
    server = build_server(model, known, ServerOptions(**options))  # type: ignore[arg-type]
    return server.predict(Workload(1024, 128, kind="static"))


def test_all_files_of_the_node_are_joined_and_named(known: HardwareChoice) -> None:
    assert known.known is not None
    own = [p for p in known.known.profiles if p.mode != "imported"]
    assert sorted(p.mode for p in own) == ["links", "quick", "quick"]
    assert all(p.id in known.reason for p in own)
    assert len(known.known.units()) == 2


def test_every_shipped_model_is_predicted_or_refused_for_a_named_reason(
    known: HardwareChoice,
) -> None:
    predicted = 0
    for model in shipped_models():
        for tp in (1, 2, 4, 8):
            for engine in ("bare", "vllm"):
                try:
                    p = predict(known, model, tp=tp, engine=engine)
                except InputError as refused:
                    reason = str(refused)
                    named = ("does not fit", "does not divide", "neither divides")
                    assert any(name in reason for name in named), reason
                    continue
                predicted += 1
                assert any("(measured)" in line for line in p.answered_by)
                measured_links = any(
                    "collective" in line and "links-" in line for line in p.answered_by
                )
                assert measured_links == (tp == 2), p.answered_by
    assert predicted > 400


def test_what_was_never_measured_is_labelled_with_its_origin(known: HardwareChoice) -> None:
    answered = " ".join(predict(known, "deepseek-r1", tp=8).answered_by)
    assert "h200-sxm-imported (imported): " in answered
    for operation in ("experts", "mla_decode", "mla_prefill", "collective"):
        assert operation in answered.split("h200-sxm-imported (imported): ")[1]


def test_products_of_models_have_the_time_of_the_simulated_chip(known: HardwareChoice) -> None:
    """Median below 8 % on the products of models, whose shapes the calibration never saw."""
    hardware = known.best
    assert isinstance(hardware, ProfileHardware)
    chip = CHIP  # both GPUs were measured at the same time: either may have ended last
    if hardware.profile.environment.device_index == SLOWER["device"]:
        chip = replace(CHIP, memory_bytes_per_s=SLOWER["memory_bytes_per_s"])
    errors = []
    for model in ("llama-3.1-8b", "qwen2.5-32b", "qwen3-4b"):
        server = build_server(model, known, ServerOptions(engine="bare"))
        graph = step_graph(server.model, server.deployment, server.engine)
        for rows in (1.0, 24.0, 300.0):
            for operator in graph.decode_step(np.array([rows]), np.array([900.0]), 1.0):
                if operator.operation != "matmul":
                    continue
                once_s = float(hardware.time(operator).time_s[0]) / operator.count
                flops, moved = (
                    float(x[0]) / operator.count for x in (operator.flops, operator.bytes)
                )
                true_s = chip.kernel_s(flops=flops, cold_bytes=moved) + chip.graph_gap_s
                errors.append(abs(once_s / true_s - 1.0))
    assert len(errors) >= 45
    assert np.median(errors) < 0.08


def test_group_is_as_fast_as_its_slowest_gpu(known: HardwareChoice, folder: Path) -> None:
    hardware = known.best
    assert isinstance(hardware, ProfileHardware)
    units = hardware.known.units()
    operator = matmul("mlp", np.array([1.0]), 14336.0, 4096.0, 1, "bfloat16")
    alone = [float(ProfileHardware.of(u).time(operator).time_s[0]) for u in units]
    group = float(hardware.for_devices(2).time(operator).time_s[0])
    assert max(alone) > 1.1 * min(alone)
    assert group == pytest.approx(max(alone))


def test_links_are_those_measured_here_and_not_a_published_faster_kernel(
    known: HardwareChoice,
) -> None:
    operator = collective("all_reduce", np.array([2.0**20]), 2, 1)
    assert known.known is not None
    modes = known.best.modes(operator)
    assert set(modes[0]) == {"graph", "eager"}
    assert "custom" in modes[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if missing():
        pytest.skip(f"not installed: {', '.join(missing())}")
    made = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_fleet_of_three_nodes_is_measured_screened_and_reported(
    cluster: SlurmCluster, folder: Path
) -> None:
    """The sick GPU is accused, and no other; its cost is predicted from the node's own profiles."""
    sick = {"kind": "slow", "node": "n2", "device": 1, "memory_bytes_per_s": 2.5e12}
    machine = Machine(gpus=2, chip=CHIP, faults=(sick,))
    store = str(folder / "store")
    own = variables(machine, folder / "fleet", **{
        name: cluster.environment[name] for name in ("PATH", "SLURM_CONF")
    })  # fmt: skip
    ran = simulate(
        machine, "fleet", "run", "--store", store, "--launcher", "slurm", folder=folder / "fleet",
        **{name: own[name] for name in ("PATH", "SLURM_CONF")},
    )  # fmt: skip
    assert ran.code == 0, ran.err[-3000:]
    screened = groundspeed(
        "fleet", "screen", store, "--json", "--model", "llama-3.1-8b", "--gpu", "h200", "--tp", "2",
        "--profile-dir", str(folder / "profiles"),
    )  # fmt: skip
    assert screened.code == 2, screened.err + screened.out[-2000:]
    found = json.loads(screened.out)
    accused = {(f["node"], f["gpu"]) for f in found["findings"] if f["verdict"] == "FAIL"}
    assert accused == {("n2", 1)}
    page = folder / "fleet.html"
    reported = groundspeed("report", store, "--output", str(page))
    assert reported.code == 0, reported.err
    assert "n2" in page.read_text()
