"""Incidents with a known answer: public ones rebuilt from numbers, and a grammar of faults."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from groundspeed.fleet.screen.findings import Screening
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import clean_fleet
from groundspeed.fleet.trial.incident_grammar import Incident, incidents
from program import groundspeed

GENERATED = 60
RIGHT = 0.95


def accused(screening: Screening) -> set[tuple[str, int | str | None]]:
    return {(f.node, f.gpu) for f in screening.findings if f.verdict in ("FAIL", "WARN")}


def innocents(incident: Incident, screening: Screening) -> set[tuple[str, int | str | None]]:
    """Return units that are accused without a fault; a node may stand for its faulty GPUs."""
    faulty = incident.blamed | {(node, None) for node, _ in incident.blamed}
    return {u for u in accused(screening) if u not in faulty}


def test_generated_incidents_are_judged_right_and_nobody_innocent_is_accused() -> None:
    wrong: list[str] = []
    for incident in incidents(GENERATED, seed=7):
        screening = screen(clean_fleet(incident.table, incident.name))
        assert not innocents(incident, screening), incident.name
        causes = {f.cause for f in screening.findings}
        right = (
            accused(screening) == incident.blamed
            and causes <= incident.causes
            and screening.exit_code in incident.exits
        )
        if not right:
            wrong.append(f"{incident.name}: {accused(screening)} {causes} {screening.exit_code}")
    assert len(wrong) <= (1.0 - RIGHT) * GENERATED, wrong


CAUSES = {
    "pcie_width": "pcie_width", "nvlink": "nvlinks?", "power_cap": "power_cap",
    "thermal": "thermal", "clocks": "clocks", "host (binding)": "host_binding",
    "host (launch)": "host", "memory": "memory", "compute": "compute", "network": "network",
}  # fmt: skip
"""Names of causes in the table of answers, and those of this program."""


def test_public_incidents_are_judged_right(cases: Path, subtests: pytest.Subtests) -> None:
    with (cases / "truth.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["path"].startswith("fleet/")]
    assert len(rows) > 50
    for row in rows:
        with subtests.test(row["id"]):
            arguments = shlex.split(row["command"])[1:]
            paths = [str(cases / a) if a.startswith("fleet/") else a for a in arguments]
            ran = groundspeed(*paths)
            allowed = set(re.findall(r"\b[0-3]\b", row["exit_expected"]))
            assert str(ran.code) in allowed, (row["right_answer"], ran.out, ran.err)
            cause = CAUSES.get(row["cause"])
            if cause and ran.code in (1, 2) and row["blame"]:
                assert re.search(rf"\b{cause}\b", ran.out), (row["right_answer"], ran.out)
