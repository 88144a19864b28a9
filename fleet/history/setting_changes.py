"""Find settings that changed from run to run: a lower power cap, another driver, fewer lanes.

A change of all units of a class in one run is an update, and one entry; a change of a few units is
a drift, and each is named.
"""

from collections.abc import Sequence

import pandas as pd

from groundspeed.fleet.screen.signals import same
from groundspeed.fleet.settings import SETTINGS
from groundspeed.fleet.table import NODE_LEVEL, FleetTable
from groundspeed.profiles.record import Record

UPDATE = 0.5
"""[1] Share of a class that changes a setting in one run, above which it is an update of all."""


class SettingChange(Record):
    """Lasting change of one setting of one GPU, node or class."""

    node: str
    gpu: int | str | None
    setting: str
    level: str
    """``gpu``, ``node`` or ``class``."""
    since_utc: str
    before: str
    after: str
    explains: tuple[str, ...] = ()
    """Kinds of metrics that the setting slows."""


def setting_changes(runs: Sequence[tuple[str, str, FleetTable]]) -> tuple[SettingChange, ...]:
    """Return the settings whose last value differs from the one before it.

    Parameters
    ----------
    runs : sequence of (name, date, FleetTable)
        Runs in the order of time.
    """
    frames = [
        table.settings.assign(run=position, date=date)
        for position, (_, date, table) in enumerate(runs)
        if not table.settings.empty
    ]
    if len(frames) < 2:
        return ()
    long = pd.concat(frames, ignore_index=True)
    names = {slot: name for _, _, table in runs for slot, name in table.names.items()}
    found: list[tuple[str, int, str, str, str, str, str]] = []
    for _, part in long.groupby(["node", "gpu", "setting"], sort=True):
        node, gpu = str(part["node"].iloc[0]), int(part["gpu"].iloc[0])
        setting = str(part["setting"].iloc[0])
        ordered = part.sort_values("run")
        values, dates = list(ordered["value"]), list(ordered["date"])
        at = next((i for i in range(len(values) - 1, 0, -1)
                   if not same(values[i], values[i - 1], setting)), None)  # fmt: skip
        if at is not None:
            cohort = str(ordered["cohort"].iloc[-1])
            found.append((cohort, gpu, node, setting, str(dates[at]), values[at - 1], values[at]))
    return tuple(_rolled_up(found, long, names))


def _rolled_up(
    found: Sequence[tuple[str, int, str, str, str, str, str]],
    long: pd.DataFrame,
    names: dict[int, str],
) -> list[SettingChange]:
    """Name a class for a change of most of its units, and a node for one of all its GPUs."""
    units = long.drop_duplicates(["cohort", "setting", "node", "gpu"])
    of_class = units.groupby(["cohort", "setting"]).size()
    of_node = units[units["gpu"] != NODE_LEVEL].groupby(["node", "setting"]).size()
    groups: dict[tuple[str, str, str, str, str], list[tuple[str, int]]] = {}
    for cohort, gpu, node, setting, since, before, after in found:
        groups.setdefault((cohort, setting, since, before, after), []).append((node, gpu))
    changes = []
    for (cohort, setting, since, before, after), mine in sorted(groups.items()):
        facts = next(s for s in SETTINGS if s.name == setting)
        whole = SettingChange(
            node=cohort, gpu=None, setting=setting, level="class", since_utc=since, before=before,
            after=after, explains=tuple(sorted(facts.explains)),
        )  # fmt: skip
        size = int(of_class.get((cohort, setting), 0))
        if len(mine) > UPDATE * size and len({n for n, _ in mine}) > 1:
            changes.append(whole)
            continue
        for node in sorted({n for n, _ in mine}):
            gpus = sorted(g for n, g in mine if n == node)
            if NODE_LEVEL in gpus or len(gpus) == int(of_node.get((node, setting), 0)):
                changes.append(whole.model_copy(update={"node": node, "level": "node"}))
                continue
            changes += [
                whole.model_copy(update={"node": node, "gpu": names.get(g, g), "level": "gpu"})
                for g in gpus
            ]
    return changes
