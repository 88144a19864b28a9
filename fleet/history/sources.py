"""Read the measurements of a fleet from a table, a folder of profiles, or a store of runs.

A source that is a URL or a folder with runs is a store; other paths are CSV files or profiles.

    table = open_fleet(["/shared/fleet"])
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from groundspeed.fleet.reading.fleet_files import read_fleet, read_frames, with_days
from groundspeed.fleet.screen.confirm import confirm, control, measured_units, replace_rows
from groundspeed.fleet.screen.findings import Screening
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import FleetTable, clean_fleet
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.files import user_path


def is_store(text: str) -> bool:
    """Return whether a source is a store: a URL, or a folder that runs were written to."""
    return "://" in text or any((Path(text) / name).is_dir() for name in ("rows", "runs"))


def open_fleet(
    sources: Sequence[str], run: str = "", columns: Mapping[str, str] | None = None
) -> FleetTable:
    """Read CSV files and folders of profiles into one table, or read one run of one store.

    Parameters
    ----------
    sources : sequence of str
        Paths of CSV files and folders of profiles, or exactly one store.
    run : str
        Name of a run in the store. Default: the newest run that is not a confirmation.
    columns : mapping of str to str, optional
        Column of the files for names used here. Default: the usual names of each.

    Raises
    ------
    InputError
        If nothing can be read, or stores and files are mixed.
    """
    stores = [s for s in sources if is_store(s)]
    if not stores:
        if run:
            raise InputError("needs a store, but no source is a store", where="--run")
        return read_fleet([user_path(s) for s in sources], columns)
    if len(sources) > 1:
        raise InputError(
            "a store must be the only source",
            where=stores[0],
            remedy="write its rows to a file with: groundspeed fleet export",
        )
    from groundspeed.fleet.history.store import Store, newest_run

    store = Store(stores[0])
    named = run or newest_run(store)
    rows = store.rows((named,))
    if rows.empty:
        known = [r.run for r in store.runs()]
        remedy = "no node has finished yet" if named in known else did_you_mean(named, known)
        raise InputError(f"run '{named}' has no results", where=store.url, remedy=remedy)
    table = clean_fleet(rows, store.url)
    done = set(rows["node"])
    for record in store.runs():
        if record.run == named:
            away = {
                n: record.lost.get(n, "not measured yet") for n in record.nodes if n not in done
            }
            return replace(table, absent=away)
    return table


def open_runs(
    sources: Sequence[str], columns: Mapping[str, str] | None = None
) -> list[tuple[str, str, FleetTable]]:
    """Read the runs of a store, or of tables, as (name, date, table).

    A table has several runs if it has a column ``run`` or ``date``; else each file is a run, and
    its date is in its name (``2026-01-31.csv``) or follows the order given.

    Raises
    ------
    InputError
        If nothing can be read, or stores and files are mixed.
    """
    if any(is_store(s) for s in sources):
        if len(sources) > 1:
            raise InputError("a store must be the only source", where=sources[0])
        from groundspeed.fleet.history.store import AGAIN, Store

        rows = Store(sources[0]).rows()
        rows = rows[~rows["run"].str.contains(AGAIN, regex=False)]
        return _runs_of(rows, sources[0])
    runs: list[tuple[str, str, FleetTable]] = []
    for number, source in enumerate(sources):
        path = user_path(source)
        frame = with_days(read_frames([path], columns))
        if "run" in frame or "date_utc" in frame:
            runs += _runs_of(frame, source)
        else:
            date = DATE.search(path.stem)
            when = "-".join(date.groups()) if date else f"file {number + 1:04}"
            runs.append((path.stem, when, clean_fleet(frame, source)))
    return runs


DATE = re.compile(r"(20\d{2})[-_.]?(\d{2})[-_.]?(\d{2})")


def _runs_of(frame: pd.DataFrame, where: str) -> list[tuple[str, str, FleetTable]]:
    """Return the runs of a table with a column ``run``, or one run for each date."""
    name = "run" if "run" in frame else "date_utc"
    runs = []
    for run, part in frame.groupby(frame[name].astype(str), sort=True):
        part.attrs.update(frame.attrs)
        date = str(part["date_utc"].astype(str).max()) if "date_utc" in part else str(run)
        runs.append((str(run), date, clean_fleet(part, where)))
    return runs


def open_reruns(source: str, run: str = "") -> list[FleetTable]:
    """Return the confirmation runs of a run, oldest first; empty if it was not confirmed."""
    if not is_store(source):
        return []
    from groundspeed.fleet.history.store import AGAIN, Store, newest_run

    store = Store(source)
    named = run or newest_run(store)
    again = [r.run for r in store.runs() if r.run.startswith(f"{named}{AGAIN}")]
    return [clean_fleet(store.rows((name,)), store.url) for name in again]


def screen_again(
    first: FleetTable,
    screening: Screening,
    reruns: Sequence[FleetTable],
    *,
    lower_is_better: Collection[str] = (),
    reference: Mapping[str, float] | None = None,
) -> Screening:
    """Update a screening with re-runs of its suspects; findings that do not recur become FLAKY."""
    again = [
        screen(replace_rows(first, table), lower_is_better=lower_is_better, reference=reference)
        for table in reruns
    ]
    measured = [measured_units(table) for table in reruns]
    return confirm(screening, again, measured, control(first, screening))
