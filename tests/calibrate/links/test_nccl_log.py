"""Parsing NCCL log lines, as posted in issues: in-network reduction and chosen algorithms."""

import os
from pathlib import Path

import pytest

from groundspeed.calibrate.links.nccl_log import capture_nccl_log, parse_nccl_log, read_nccl_log

# WITHOUT and NUMBERS are from NCCL issues 892 and 1595; WORDS has the format of newer versions.
WITHOUT = "host:33347:33366 [6] NCCL INFO 16 coll channels, 0 nvls channels, 16 p2p channels"
NUMBERS = "[0] NCCL INFO 805306368 Bytes -> Algo 1 proto 2 time 3970.683594"
WORDS = "[0] NCCL INFO AllReduce: 1048576 Bytes -> Algo NVLS proto SIMPLE channel{Lo..Hi}={0..15}"
COLLNET = "[0] NCCL INFO 24 coll channels, 24 collnet channels, 16 nvls channels, 32 p2p channels"
BOTH = f"{WITHOUT}\n{COLLNET}"


@pytest.mark.parametrize(
    ("text", "switched"), [(WITHOUT, False), (COLLNET, True), ("", None), (BOTH, True)]
)
def test_in_network_reduction_is_read_from_the_channel_counts(
    text: str, switched: bool | None
) -> None:
    assert parse_nccl_log(text).in_network_reduction is switched


def test_algorithm_and_protocol_are_read_by_number_and_by_name() -> None:
    log = parse_nccl_log(f"{NUMBERS}\n{WORDS}\nnoise")
    assert log.algorithms == {
        "collective 805306368": "RING SIMPLE",
        "AllReduce 1048576": "NVLS SIMPLE",
    }


def test_log_settings_of_the_user_are_not_changed(
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


def test_nccl_logging_is_on_only_during_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCCL_DEBUG", raising=False)
    with capture_nccl_log() as path:
        assert path is not None and os.environ["NCCL_DEBUG_SUBSYS"] == "INIT"
        path.write_text(WITHOUT)
        assert read_nccl_log(path).in_network_reduction is False
    assert "NCCL_DEBUG" not in os.environ
    assert read_nccl_log(path).in_network_reduction is None
