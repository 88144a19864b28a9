"""Measure the suspects of a run again, twice, with the best unit as a control.

Only the nodes of the suspects and of the control are measured: a handful in a fleet of a thousand.
A unit stays blamed only if it is slow in every run.

    screening = confirm_run(LocalLauncher(), Work("/shared/fleet", "run1"), print)
"""

from dataclasses import replace

from groundspeed.fleet.history.store import AGAIN, Store, newest_run
from groundspeed.fleet.run.launcher import Event, Launcher, OnEvent
from groundspeed.fleet.run.run_fleet import RunRequest, run_fleet
from groundspeed.fleet.run.worker import Work
from groundspeed.fleet.screen.confirm import (
    confirm,
    control,
    measured_units,
    replace_rows,
    suspects,
)
from groundspeed.fleet.screen.findings import Screening
from groundspeed.fleet.screen.screen_table import screen
from groundspeed.fleet.table import clean_fleet
from groundspeed.profiles.errors import InputError

RERUNS = 2


def confirm_run(launcher: Launcher, work: Work, on_event: OnEvent) -> Screening:
    """Screen a run, measure its suspects again, and return the screening with the new verdicts.

    Parameters
    ----------
    launcher : Launcher
    work : Work
        Work of one node. Its ``run`` is the run to confirm. Empty: the newest run.
    on_event : callable
        Function that receives every event of a node.

    Returns
    -------
    Screening
        A finding that did not recur in every re-run is FLAKY.
    """
    store = Store(work.store)
    run = work.run or newest_run(store)
    level = next((r.level for r in store.runs() if r.run == run), work.level)
    first = clean_fleet(store.rows((run,)), store.url)
    screening = screen(first)
    nodes = [node for node, _ in suspects(screening)]
    if not nodes:
        return screening
    best = control(first, screening)
    nodes += [best[0]] if best is not None else []
    there = launcher.nodes()
    wanted = tuple(n for n in dict.fromkeys(nodes) if n in there)
    for away in sorted(set(nodes) - set(wanted)):
        on_event(Event(away, "lost", "it cannot be measured now"))
    if not wanted:
        raise InputError("none of the suspects can be measured now", where=", ".join(nodes))
    again, measured = [], []
    for turn in range(1, RERUNS + 1):
        named = replace(work, run=f"{run}{AGAIN}{turn}", level=level)
        run_fleet(launcher, RunRequest(named, wanted), on_event)
        rows = clean_fleet(store.rows((named.run,)), store.url)
        again.append(screen(replace_rows(first, rows)))
        measured.append(measured_units(rows))
    return confirm(screening, again, measured, best)
