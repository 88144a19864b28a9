"""Malformed and manipulated profiles: each gives an error of one line, never a traceback."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import profile_factory
from groundspeed.profiles import InputError, load_profile
from groundspeed.profiles.store import list_profiles
from program import groundspeed

Document = dict[str, Any]


def law(d: Document) -> Document:
    document: Document = d["laws"][0]
    return document


HOSTILE: dict[str, Callable[[Document], object]] = {
    "law without its config key": lambda d: law(d).update(config_key={}),
    "law without sharpness": lambda d: law(d)["coefficients"].pop("sharpness"),
    "law without a compute rate": lambda d: law(d)["coefficients"].pop("compute_flops_per_s"),
    "sharpness zero": lambda d: law(d)["coefficients"]["sharpness"].update(value=0.0, low=0.0),
    "bandwidth zero": lambda d: law(d)["coefficients"]["bandwidth_bytes_per_s"].update(value=0.0),
    "fit range of an unknown column": lambda d: law(d)["fit_range"].update(x=(1.0, 2.0)),
    "fit range whose end is below its start": lambda d: law(d)["fit_range"].update(m=(9.0, 1.0)),
    "held-out error of e^1e300": lambda d: law(d)["held_out"].update(log_q95=1e300),
    "curve without its config key": lambda d: d["curves"][0].update(config_key={}),
    "stream without its mode": lambda d: d["curves"][1].update(config_key={"dtype": "float32"}),
    "case without columns": lambda d: d["curves"][0]["points"][0].update(case={}),
    "zero work": lambda d: [p.update(flops=0.0, bytes=0.0) for p in d["curves"][0]["points"]],
    "id that contains a path": lambda d: d.update(id="../../etc/passwd"),
    "id of 10,000 characters": lambda d: d.update(id="x" * 10_000),
    "forged utilization": lambda d: d["rates"][0].update(utilization=0.99),
    "forged interval": lambda d: d["rates"][0].update(high=1e20),
}


def broken(how: str) -> Document:
    document = copy.deepcopy(profile_factory.document_with_laws())
    HOSTILE[how](document)
    return document


@pytest.mark.parametrize("how", HOSTILE)
def test_malformed_profile_is_refused_in_one_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(broken(how)))
    with pytest.raises(InputError) as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)
    (tmp_path / "good.json").write_text(json.dumps(profile_factory.document_with_laws()))
    assert len(list_profiles(tmp_path)) == 2


def test_commands_work_with_a_folder_of_malformed_profiles(own_data_folder: Path) -> None:
    folder = own_data_folder / "groundspeed" / "profiles"
    folder.mkdir(parents=True)
    for i, how in enumerate(HOSTILE):
        (folder / f"{i}.json").write_text(json.dumps(broken(how)))
    for arguments in (["profile", "list"], ["estimate", "qwen2.5-7b", "--gpu", "h200"]):
        ran = groundspeed(*arguments)
        assert ran.code == 0, ran.err
        assert ran.out


def test_markup_in_profile_strings_is_printed_literally(tmp_path: Path) -> None:
    document = profile_factory.document_with_laws()
    document["datasheet"]["name"] = "[/red]sheet"
    document["laws"][3]["config_key"]["note"] = "[/z]"
    document["environment"]["telemetry"] = "[bold]"
    (tmp_path / "p.json").write_text(json.dumps(document))
    ran = groundspeed("profile", "show", "./p.json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "[/z]" in ran.out


def test_named_pipe_as_a_model_configuration_is_refused(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "config.json")
    ran = groundspeed("estimate", "./config.json", "--gpu", "h20", cwd=tmp_path)
    assert (ran.code, "not a regular file" in ran.err) == (2, True)


@pytest.mark.parametrize(
    "workload", [["--batch", "0"], ["--isl", "-5"], ["--osl", "0"], ["--isl", "9" * 40]], ids=str
)
def test_naive_method_refuses_an_impossible_workload(workload: list[str]) -> None:
    ran = groundspeed("estimate", "qwen2.5-32b", "--gpu", "h20", "--method", "naive", *workload)
    assert ran.code == 2
    assert len(ran.err.strip().splitlines()) == 1


def test_naive_method_refuses_a_model_without_a_gated_mlp() -> None:
    ran = groundspeed("estimate", "gpt-j-6b", "--gpu", "h20", "--method", "naive", "--isl", "64")
    assert (ran.code, "gated MLP" in ran.err) == (2, True)
