"""Profiles on disk: reading is strict; a failed write leaves no partial file."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import profile_factory
from groundspeed.profiles import InputError, load_profile, save_profile
from groundspeed.profiles.files import write_whole
from groundspeed.profiles.store import list_profiles


def test_saved_profile_loads_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    save_profile(profile_factory.profile(), path)
    assert load_profile(path) == profile_factory.profile()


def test_existing_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        save_profile(profile_factory.profile(), path)
    assert path.read_text() == "mine"
    save_profile(profile_factory.profile(), path, force=True)
    assert load_profile(path).id == "h200-sxm-test"


def test_profile_that_breaks_physics_is_not_saved(tmp_path: Path) -> None:
    document = profile_factory.document()
    document["rates"][0]["value"] *= 2.0
    document["rates"][0]["high"] *= 2.1
    profile = type(profile_factory.profile()).model_validate(document)
    with pytest.raises(InputError, match="fails the physics check"):
        save_profile(profile, tmp_path / "p.json")
    assert list(tmp_path.iterdir()) == []


BROKEN: dict[str, str] = {
    "is not a profile in JSON": "{",
    "holds a JSON list": "[]",
    "no valid 'schema_version'": "{}",
    "schema version 999": json.dumps({"schema_version": 999}),
    "NaN": '{"schema_version": 1, "id": NaN}',
    "appears twice": '{"schema_version": 1, "schema_version": 1}',
    "nested too deeply": "[" * 100_000,
    "field": json.dumps(profile_factory.document() | {"surprise": 1}),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_profile_file_is_refused_in_one_line(tmp_path: Path, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(BROKEN[message])
    with pytest.raises(InputError) as caught:
        load_profile(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("time_s", -1.0), ("time_s", 0.0), ("time_s", 1e30), ("samples", 0), ("flops", -5.0)],
)
def test_impossible_number_in_a_point_is_refused(tmp_path: Path, key: str, value: float) -> None:
    document = profile_factory.document()
    document["curves"][0]["points"][0][key] = value
    path = tmp_path / "p.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"points\.0\.{key}"):
        load_profile(path)


def test_folder_missing_binary_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_profile(tmp_path)
    with pytest.raises(InputError, match="no such profile"):
        load_profile(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        load_profile(tmp_path / "binary.json")
    with pytest.raises(InputError, match="cannot be read"):
        load_profile(Path("/proc/self/mem"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    ),
    st.sampled_from(["device", "curves", "rates", "laws", "environment", "id", "mode", "seed"]),
)
def test_arbitrary_value_in_any_field_gives_at_most_one_line(
    tmp_path: Path, junk: Any, field: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(profile_factory.document() | {field: junk}))
    try:
        load_profile(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_failed_write_leaves_no_file(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(occupied / "below" / "p.json", b"x")
    with pytest.raises(InputError, match="is a folder"):
        write_whole(tmp_path, b"x")
    assert list(tmp_path.iterdir()) == [occupied]


def test_write_without_disk_space_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    """A child process may write at most 4 kB to a file, which simulates a full disk."""
    script = (
        "import resource, signal; from pathlib import Path\n"
        "from groundspeed.profiles import InputError\n"
        "from groundspeed.profiles.files import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_whole(Path('p.json'), b'x' * 100_000)\n"
        "except InputError as error: print(error)\n"
    )
    import subprocess

    path = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "cannot be written" in run.stdout
    assert list(tmp_path.glob("*p.json*")) == []


def test_broken_profile_does_not_hide_the_others_in_its_folder(tmp_path: Path) -> None:
    save_profile(profile_factory.profile(), tmp_path / "good.json")
    (tmp_path / "bad.json").write_text("{")
    profiles = dict(list_profiles(tmp_path))
    assert isinstance(profiles[tmp_path / "bad.json"], InputError)
    assert not isinstance(profiles[tmp_path / "good.json"], InputError)
