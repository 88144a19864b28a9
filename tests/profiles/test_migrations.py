"""Files of earlier schema versions still load, with every number unchanged."""

import json
from pathlib import Path
from typing import Any

import pytest

from groundspeed.fleet.health.baseline import Baseline
from groundspeed.fleet.health.node_health import Health
from groundspeed.fleet.history.store import RunRecord
from groundspeed.profiles import load_profile, save_profile
from groundspeed.profiles.laws import Law
from groundspeed.profiles.record import WITH_OLD_NAMES
from groundspeed.profiles.schema import SCHEMA_VERSION, Profile
from program import groundspeed
from repository import TEST_DATA

VERSION_1 = TEST_DATA / "profiles" / "schema-1.json"


def numbers(value: Any) -> list[float]:
    """Return every number of a document in order, whatever its keys are."""
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


def test_version_1_loads_with_every_number_unchanged(tmp_path: Path) -> None:
    before = json.loads(VERSION_1.read_text(encoding="utf-8"))
    profile = load_profile(VERSION_1)
    after = json.loads(profile.model_dump_json(exclude_none=True))
    assert (before.pop("schema_version"), after.pop("schema_version")) == (1, SCHEMA_VERSION)
    assert sorted(numbers(before)) == sorted(numbers(after))
    save_profile(profile, tmp_path / "today.json")
    assert load_profile(tmp_path / "today.json").model_dump() == profile.model_dump()


def test_version_1_names_become_the_current_names() -> None:
    profile = load_profile(VERSION_1)
    (collective,) = [law for law in profile.laws if law.operation == "collective"]
    assert collective.model_form == "piecewise_linear" and collective.piecewise_linear is not None
    assert {law.operation for law in profile.laws} >= {"elementwise", "matmul"}
    assert any(law.residual_gp is not None for law in profile.laws)
    assert not {"glue", "chain"} & {
        w for law in profile.laws for w in (law.operation, law.model_form)
    }


def test_saved_file_has_only_the_current_names(tmp_path: Path) -> None:
    save_profile(load_profile(VERSION_1), tmp_path / "today.json")
    (first, *_) = json.loads((tmp_path / "today.json").read_text())["laws"]
    assert {"config_key", "model_form", "fit_range"} <= first.keys()
    assert not set(Law.old_names.values()) & first.keys()


def test_json_output_has_old_and_current_names_and_loads_again(tmp_path: Path) -> None:
    ran = groundspeed("profile", "show", "h200", "--json")
    document = json.loads(ran.out)
    for law in document["laws"]:
        assert all(law[old] == law[new] for new, old in Law.old_names.items() if new in law)
    assert document["curves"][0]["regime"] == document["curves"][0]["config_key"]
    path = tmp_path / "shown.json"
    path.write_text(ran.out)
    assert load_profile(path).model_dump() == Profile.model_validate_json(ran.out).model_dump()


@pytest.mark.parametrize(
    ("record", "document", "old", "new"),
    [
        (Baseline, {"source": "s", "date_utc": "d", "usual": [
            {"klass": "H200", "metric": "m", "median": 1.0, "spread": None, "units": 8}]},
         "klass", "cohort"),
        (Health, {"node": "n", "date_utc": "d", "state": "UNKNOWN", "against": "", "rows": [],
                  "why": "busy"}, "why", "reason"),
        (RunRecord, {"run": "r", "date_utc": "d", "level": "check", "engine": "slurm",
                     "nodes": ["n1"]}, "engine", "launcher"),
    ],
)  # fmt: skip
def test_older_fleet_records_load_under_the_current_names(
    record: type[Baseline | Health | RunRecord], document: dict[str, Any], old: str, new: str
) -> None:
    loaded = record.model_validate(document)
    assert f'"{old}"' not in loaded.model_dump_json() and f'"{new}"' in loaded.model_dump_json()
    both = loaded.model_dump_json(context=WITH_OLD_NAMES)
    assert f'"{old}"' in both and record.model_validate_json(both) == loaded
