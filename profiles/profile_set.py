"""Everything that is known of one device, joined from many files.

What is known of a device is spread over profiles: products measured today, links measured last
week, a sister GPU of the same node, published tables for what was never measured here. A set keeps
them in the order in which they are believed, and answers for each operation with the first that has
it. Nothing shadows anything: a newer file of links does not hide the products, and a law that is
missing here comes from the shipped profile, labelled with its origin.

Order: measured by the user (newest first), imported by the user (newest first), then what ships
(measured, imported from published tables, transferred from a similar device). A file made with
another driver, library or method than the newest one is believed after those that agree with it,
and the difference is said.

    known = ProfileSet.of([products, links], shipped)
    known.law("collective", op="all_reduce", world_size="8")   # from links
"""

from collections.abc import Sequence
from dataclasses import dataclass

from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.laws import Law
from groundspeed.profiles.schema import Profile

LINK_OPERATIONS = ("collective", "p2p")


@dataclass(frozen=True)
class ProfileSet:
    """The profiles of one device, the most believed first."""

    profiles: tuple[Profile, ...]
    notes: tuple[str, ...] = ()
    """Differences between the files that a reader should know of."""

    @classmethod
    def of(cls, own: Sequence[Profile], shipped: Sequence[Profile] = ()) -> "ProfileSet":
        """Join profiles of one device.

        Parameters
        ----------
        own : sequence of Profile
            Profiles of the user, in any order.
        shipped : sequence of Profile, default ()
            Profiles that ship with the program, the most believed first.
        """
        by_date = sorted(own, key=lambda p: p.environment.date_utc, reverse=True)
        measured = [p for p in by_date if p.mode != "imported"]
        notes: list[str] = []
        if measured:
            first = measured[0]
            reasons = {id(p): difference(first, p) for p in measured}
            for p in measured:
                if reasons[id(p)]:
                    notes.append(
                        f"{p.id} was measured with {reasons[id(p)]}: it is used only for what "
                        f"{first.id} lacks"
                    )
            measured.sort(key=lambda p: bool(reasons[id(p)]))
        imported = [p for p in by_date if p.mode == "imported"]
        return cls((*measured, *imported, *shipped), tuple(notes))

    @property
    def main(self) -> Profile:
        """The most believed profile of the device itself; of its links if there is no other."""
        return next((p for p in self.profiles if p.mode != "links"), self.profiles[0])

    @property
    def datasheet(self) -> DeviceSpec | None:
        """The datasheet of the device, if there is one."""
        return next((p.datasheet for p in self.profiles if p.datasheet is not None), None)

    def units(self) -> tuple[Profile, ...]:
        """Return the newest measured profile of each individual device, the main one first.

        A node has several GPUs of one kind, and none is as fast as another.
        """
        found: dict[tuple[str, str], Profile] = {}
        for p in self.profiles:
            e = p.environment
            if p.mode in ("links", "imported", "transferred") or p.device.kind == "cpu":
                continue
            unit = e.device_uuid or (str(e.device_index) if e.device_index is not None else "")
            found.setdefault((e.host, unit), p)
        return tuple(found.values())

    def law(self, operation: str, **config_key: str) -> Law | None:
        """Return the most believed law whose config key has these entries, or None."""
        laws = (p.law(operation, **config_key) for p in self.profiles)
        return next((law for law in laws if law is not None), None)


def difference(newer: Profile, older: Profile) -> str:
    """Say in which method, driver or library two measurements differ; empty if in none.

    Libraries that only one of them names are no difference: links do not need Triton.
    """
    a, b = newer.environment, older.environment
    parts = []
    if a.method_version != b.method_version:
        parts.append(f"method {b.method_version} (now {a.method_version})")
    if a.driver and b.driver and a.driver != b.driver:
        parts.append(f"driver {b.driver} (now {a.driver})")
    for name in ("torch", "triton"):
        mine, theirs = a.libraries.get(name), b.libraries.get(name)
        if mine and theirs and mine != theirs:
            parts.append(f"{name} {theirs} (now {mine})")
    return ", ".join(parts)
