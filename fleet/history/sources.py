"""What a fleet can be read from: a table, a folder of profiles, or a store of runs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from groundspeed.fleet.screen.confirm import confirm, control, measured_units, replace_rows
from groundspeed.fleet.screen.findings import Screening
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import FleetTable, clean_fleet, read_fleet
from groundspeed.profiles.errors import InputError, did_you_mean


def is_store(text: str) -> bool:
    """Whether it is a URL or a folder that runs were written to."""
    return "://" in text or any((Path(text) / name).is_dir() for name in ("rows", "runs"))


def open_fleet(sources: Sequence[str], run: str = "") -> FleetTable:
    """Read what is named: CSV files and folders of profiles together, or one run of one store.

    Parameters
    ----------
    sources : sequence of str
    run : str
        Of a store; the newest that is not a confirmation if empty.

    Raises
    ------
    InputError
        If nothing can be read, or stores and files are mixed.
    """
    stores = [s for s in sources if is_store(s)]
    if not stores:
        if run:
            raise InputError("only a store has runs", where="--run")
        return read_fleet([Path(s).expanduser() for s in sources])
    if len(sources) > 1:
        raise InputError(
            "one store at a time, and no files beside it",
            where=stores[0],
            remedy="groundspeed fleet export makes a file of a store",
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


def open_reruns(source: str, run: str = "") -> list[FleetTable]:
    """The confirmations of a run, the oldest first; none if it was not confirmed."""
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
    """What stays of a screening after re-runs of its suspects; the rest is FLAKY."""
    again = [
        screen(replace_rows(first, table), lower_is_better=lower_is_better, reference=reference)
        for table in reruns
    ]
    measured = [measured_units(table) for table in reruns]
    return confirm(screening, again, measured, control(first, screening))
