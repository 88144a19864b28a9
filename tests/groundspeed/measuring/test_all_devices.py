"""Calibrating several devices of a node at once in real processes, one of which has no device."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from groundspeed.measuring import all_devices
from groundspeed.measuring.all_devices import calibrate_together, devices_of
from groundspeed.profiles import InputError, load_profile
from program import groundspeed

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@no_gpu
@pytest.mark.parametrize(
    ("name", "said"),
    [("all", "no GPU here"), ("cpu,cpu", "'cpu' twice"), ("cpu,", "an empty name")],
)
def test_invalid_device_list_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        devices_of(name)


HANGING = """
import json, sys, time
print(json.dumps({"done": 3, "total": 9, "case": "copy of 1 GiB"}), flush=True)
if sys.argv[3] == "cuda:1":
    sys.exit("groundspeed: this one fails by itself")
time.sleep(1000)
"""


def test_device_that_hangs_without_an_error_is_named_with_its_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    monkeypatch.setattr(all_devices, "PROGRAM", (sys.executable, str(script)))
    with pytest.raises(InputError) as refused:
        calibrate_together(["cuda:0", "cuda:1"], [], tmp_path, quiet=True, silence_s=2.0)
    assert "cuda:0: no progress for 2 s at copy of 1 GiB" in str(refused.value)
    assert "cuda:1: this one fails by itself" in str(refused.value)


@no_gpu
@pytest.mark.slow
def test_failing_device_does_not_stop_the_calibration_of_the_others(tmp_path: Path) -> None:
    ran = groundspeed(
        "calibrate", "--quick", "--device", "cpu,cuda:0", "--dtypes", "float32",
        "--profile-dir", str(tmp_path), CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert ran.code == 2
    assert "cuda:0: no GPU here (CUDA_VISIBLE_DEVICES='' may hide it)" in ran.err
    # On a busy machine the profile may fail the physics check; it is then kept as .rejected.
    (path,) = [*tmp_path.glob("*.json"), *tmp_path.glob("*.rejected")]
    assert ("1 of 2 devices" if path.suffix == ".json" else "2 of 2 devices") in ran.err
    profile = load_profile(path, check=False)
    assert profile.device.kind == "cpu"
    assert {c.config_key["dtype"] for c in profile.curves if c.operation == "matmul"} == {"float32"}
    plateaus = [r for r in profile.rates if r.quantity.startswith("read level")]
    assert plateaus and all(r.unit == "bytes/s" and "iB to " in r.note for r in plateaus)
    if path.suffix != ".json":
        return
    compared = groundspeed("compare-isolated", str(path), "--others", "1", "--device", "cpu")
    assert compared.code == 0, compared.err
    notes = json.loads(compared.out)
    assert all("measured together with 1 other devices; alone," in note for note in notes)


@no_gpu
@pytest.mark.parametrize(
    ("dtypes", "said"),
    [("bf16", "unknown data type 'bf16'"), ("tf32", "cannot measure tf32"), ("", "unknown data")],
)
def test_unknown_or_unsupported_data_type_is_refused(
    tmp_path: Path, dtypes: str, said: str
) -> None:
    ran = groundspeed(
        "calibrate", "--quick", "--device", "cpu", "--dtypes", dtypes,
        "--profile-dir", str(tmp_path),
    )  # fmt: skip
    assert (ran.code, len(ran.err.strip().splitlines()) <= 2) == (2, True)
    assert said in ran.err
