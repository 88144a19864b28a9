"""NCCL's own words, as people have posted them, and what they mean."""

import os
from pathlib import Path

import pytest

from groundspeed.calibrate.links.nccl_log import capture_nccl_log, parse_nccl_log, read_nccl_log

# nccl issues 892 and 1595; the third in the words of newer versions.
WITHOUT = "host:33347:33366 [6] NCCL INFO 16 coll channels, 0 nvls channels, 16 p2p channels"
NUMBERS = "[0] NCCL INFO 805306368 Bytes -> Algo 1 proto 2 time 3970.683594"
WORDS = "[0] NCCL INFO AllReduce: 1048576 Bytes -> Algo NVLS proto SIMPLE channel{Lo..Hi}={0..15}"
COLLNET = "[0] NCCL INFO 24 coll channels, 24 collnet channels, 16 nvls channels, 32 p2p channels"
BOTH = f"{WITHOUT}\n{COLLNET}"


@pytest.mark.parametrize(
    ("text", "switched"), [(WITHOUT, False), (COLLNET, True), ("", None), (BOTH, True)]
)
def test_whether_a_switch_adds_up(text: str, switched: bool | None) -> None:
    assert parse_nccl_log(text).in_network_reduction is switched


def test_algorithms_by_number_and_by_name() -> None:
    log = parse_nccl_log(f"{NUMBERS}\n{WORDS}\nnoise")
    assert log.algorithms == {
        "collective 805306368": "RING SIMPLE",
        "AllReduce 1048576": "NVLS SIMPLE",
    }


def test_a_user_s_own_logging_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "mine"
    log.write_text(COLLNET)
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("NCCL_DEBUG_FILE", str(log))
    with capture_nccl_log() as path:
        assert read_nccl_log(path).in_network_reduction is True
    monkeypatch.setenv("NCCL_DEBUG_FILE", "nccl.%h.%p")
    with capture_nccl_log() as path:
        assert path is None
    assert log.exists()


def test_otherwise_it_listens_only_while_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCCL_DEBUG", raising=False)
    with capture_nccl_log() as path:
        assert path is not None and os.environ["NCCL_DEBUG_SUBSYS"] == "INIT"
        path.write_text(WITHOUT)
        assert read_nccl_log(path).in_network_reduction is False
    assert "NCCL_DEBUG" not in os.environ
    assert read_nccl_log(path).in_network_reduction is None
