"""``doctor`` and other commands name missing packages and the pip command that installs them."""

import json
import subprocess
import sys

import pytest

from groundspeed.extras import EXTRA_OF
from groundspeed.measuring.machine_check import Diagnosis, diagnose
from program import environment, groundspeed

WITHOUT = """
import sys
for name in {names!r}:
    sys.modules[name] = None
sys.argv = ["groundspeed", *{arguments!r}]
from groundspeed.cli import main
main()
"""


def without(names: tuple[str, ...], *arguments: str) -> tuple[int, str, str]:
    """Run the program with the named packages made unavailable to import."""
    script = WITHOUT.format(names=names, arguments=arguments)
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script], env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return ran.returncode, ran.stdout, ran.stderr


def test_doctor_on_a_complete_installation_exits_with_0() -> None:
    ran = groundspeed("doctor", "--json")
    diagnosis = Diagnosis.model_validate_json(ran.out)
    assert ran.code == 0
    assert diagnosis.can["estimate"] and diagnosis.can["measure"]
    assert {c.what for c in diagnosis.checks} >= set(EXTRA_OF) - {"markupsafe"}
    assert groundspeed("doctor").code == 0


def test_doctor_names_missing_packages_with_their_extra() -> None:
    code, out, _ = without(("scipy", "duckdb"), "doctor", "--json")
    diagnosis = Diagnosis.model_validate(json.loads(out))
    assert code == 1
    assert diagnosis.can == diagnosis.can | {
        "measure": False,
        "screen a fleet": False,
        "estimate": True,
    }
    remedies = {c.what: c.remedy for c in diagnosis.checks if c.state == "missing"}
    assert remedies["scipy"] == "pip install 'groundspeed[fit]'"
    assert remedies["duckdb"] == "pip install 'groundspeed[fleet]'"


def test_command_without_its_package_gives_one_line_with_the_extra() -> None:
    for arguments, missing, wanted in (
        (("fleet", "history", "s3://x"), ("fsspec",), "fleet"),
        (("report", "h200", "-o", "/tmp/never.html"), ("jinja2",), "report"),
        (("fleet", "run", "--store", "/tmp/never"), ("fsspec",), "fleet"),
    ):
        code, _, error = without(missing, *arguments)
        assert code in (2, 3)
        assert error.count("\n") == 1
        assert f"groundspeed[{wanted}]" in error
    code, out, _ = without(("fsspec",), "fleet", "healthcheck", "--device", "cpu")
    assert (code, out.startswith("GROUNDSPEED UNKNOWN")) == (3, True)


def test_doctor_names_what_the_installed_version_of_a_library_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from groundspeed.calibrate import version_gaps
    from groundspeed.calibrate.version_gaps import Gap

    here = "torch.distributed.launcher.api.LaunchConfig"
    gaps = (Gap(f"{here}.shutdown_timeout", "torch 2.12", "has it"),
            Gap(f"{here}.no_such_field", "torch 9.9", "ranks end later"),
            Gap("torch.no_such_function", "torch 9.9", "nothing works"))  # fmt: skip
    monkeypatch.setattr(version_gaps, "GAPS", gaps)
    told = [c for c in diagnose().checks if c.found == "older than 9.9"]
    assert [c.for_what for c in told] == ["ranks end later", "nothing works"]
    assert all(c.state == "warning" for c in told)
