"""Choose the report for a file or folder by what is in it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from groundspeed.fleet.screen.request import Served
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import user_path
from groundspeed.report.page import Page

LARGEST_BYTES = 500_000_000


def page_of(
    sources: Sequence[str],
    *,
    run: str = "",
    reference: str | None = None,
    served: Served | None = None,
    profile_dir: Path | None = None,
) -> Page:
    """Build the report of one source, or of two profiles side by side.

    Parameters
    ----------
    sources : sequence of str
        A profile (file, id or GPU name), two of them, the JSON of ``estimate`` or ``backtest``, a
        fleet's table, store or folder of profiles.
    run : str, default ""
        Name of a run in a fleet store. Empty: the newest run.
    reference : str, optional
        Profile of a healthy device of the same kind; a unit of a fleet below 90 % of its rates
        fails. Not given: units are only compared with each other.
    served : Served, optional
        Deployment for which the cost of a fleet's findings is computed. Not given: no costs.
    profile_dir : Path, optional
        Folder with the user's profiles. Not given: the default folder.

    Raises
    ------
    InputError
        If there is no report for these sources.
    """
    from groundspeed.fleet.history.sources import is_store

    first = sources[0]
    path = user_path(first)
    if is_store(first) or path.is_dir() or first.endswith((".csv", ".csv.gz")):
        if path.is_dir() and not is_store(first) and len(sources) == 1:
            only = _only_profile(path)
            if only is not None:
                return only
        return _fleet(sources, run, reference, served, profile_dir)
    if len(sources) == 2:
        return _two(sources, profile_dir)
    if len(sources) > 2:
        raise InputError(
            f"{len(sources)} sources have no common report",
            remedy="give one source, or two profiles to compare",
        )
    if path.suffix == ".json":
        document = _read(path)
        if "curves" not in document:
            return _document(document, first)
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.report.profile import profile_page

    hardware = find_hardware(first, profile_dir=profile_dir)
    if hardware.profile is None:
        raise InputError(
            f"'{first}' is a datasheet, so there are no measurements to report",
            remedy="give a profile: groundspeed profile list names those that you have",
        )
    return profile_page(hardware.profile)


def _only_profile(folder: Path) -> Page | None:
    from groundspeed.profiles.schema import Profile
    from groundspeed.profiles.store import list_profiles
    from groundspeed.report.profile import profile_page

    profiles = [p for _, p in list_profiles(folder) if isinstance(p, Profile)]
    return profile_page(profiles[0]) if len(profiles) == 1 else None


def _fleet(
    sources: Sequence[str],
    run: str,
    reference: str | None,
    served: Served | None,
    profile_dir: Path | None,
) -> Page:
    from groundspeed.fleet.screen.request import ScreenRequest, reference_of, screen_sources
    from groundspeed.fleet.screen.score import score
    from groundspeed.report.fleet import fleet_page

    request = ScreenRequest(
        sources, run, reference=reference, served=served, profile_dir=profile_dir
    )
    table, screening = screen_sources(request)
    scores = score(table, reference=reference_of(request, table)[0])
    names = ", ".join(Path(s).name or s for s in sources)
    return fleet_page(table, scores, screening, names)


def _two(sources: Sequence[str], profile_dir: Path | None) -> Page:
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.profiles.difference import compare_profiles
    from groundspeed.report.compare import comparison_page

    profiles = []
    for name in sources:
        profile = find_hardware(name, profile_dir=profile_dir).profile
        if profile is None:
            raise InputError(
                f"'{name}' is a datasheet without measurements", remedy="give two profiles"
            )
        profiles.append(profile)
    return comparison_page(compare_profiles(profiles[0], profiles[1]))


def _read(path: Path) -> dict[str, Any]:
    from groundspeed.profiles.files import read_text

    try:
        document = json.loads(read_text(path, "profile or result"))
    except ValueError as error:
        raise InputError(f"is not valid JSON ({error})", where=str(path)) from error
    if not isinstance(document, dict):
        raise InputError(
            "is not a result of groundspeed: its JSON is not an object", where=str(path)
        )
    return document


def _document(document: dict[str, Any], where: str) -> Page:
    from groundspeed.estimator.backtest.backtest import Summary
    from groundspeed.estimator.decisions.compare import ServingComparison
    from groundspeed.estimator.decisions.plan_records import Plan
    from groundspeed.estimator.serving.workload import Prediction
    from groundspeed.report.backtest import backtest_page, read_row
    from groundspeed.report.decisions import plan_page, servers_page
    from groundspeed.report.serving import serving_page

    try:
        if "options" not in document and "summary" in document and "rows" in document:
            rows = [read_row(r) for r in document["rows"]]
            return backtest_page(
                rows, [Summary.model_validate(s) for s in document["summary"]], Path(where).name
            )
        if "points" in document and "advice" in document:
            return plan_page(Plan.model_validate(document))
        if "options" in document and "summary" in document:
            return servers_page(ServingComparison.model_validate(document))
        predictions = document.get("predictions")
        if predictions and "concurrency" in predictions[0]:
            columns: dict[str, list[Prediction]] = {}
            for one in predictions:
                name = f"{one.get('hardware', '')}, {one.get('column', one.get('origin', ''))}"
                known = {k: v for k, v in one.items() if k in Prediction.model_fields}
                columns.setdefault(name, []).append(Prediction.model_validate(known))
            return serving_page(columns)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"cannot be read as a result of groundspeed ({reason})", where=where
        ) from error
    raise InputError(
        "is not a profile or a result that has a report",
        where=where,
        remedy="give a profile, or the --json output of estimate, plan, compare or backtest",
    )
