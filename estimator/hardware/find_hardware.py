"""Find everything that is known of a device by its name."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Literal

from groundspeed.estimator.hardware.law_lookup import DatasheetHardware, ProfileHardware
from groundspeed.profiles.datasheet import DeviceSpec, find_device, load_datasheets
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.files import user_path
from groundspeed.profiles.profile_set import ProfileSet
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.store import list_profiles, load_profile, profile_folder


@dataclass(frozen=True)
class HardwareChoice:
    """The profiles, the datasheet, or both that were found for a name."""

    name: str
    known: ProfileSet | None
    spec: DeviceSpec | None
    reason: str
    """A phrase that says which of them was chosen, and why."""

    @property
    def profile(self) -> Profile | None:
        """The most believed profile of the device; None if only a datasheet is known."""
        return self.known.main if self.known is not None else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Differences between the files that were joined."""
        return self.known.notes if self.known is not None else ()

    @cached_property
    def best(self) -> ProfileHardware | DatasheetHardware:
        """Hardware from the profiles if there are any, else from the datasheet."""
        if self.known is not None:
            return ProfileHardware(self.known)
        if self.spec is None:
            raise InputError(f"there is neither a profile nor a datasheet of '{self.name}'")
        return DatasheetHardware(self.spec)

    @property
    def platform(self) -> Literal["cuda", "rocm"]:
        """Software platform of the device, which selects the constants of an engine."""
        amd = self.spec is not None and self.spec.vendor == "amd"
        if self.profile is not None and self.profile.device.kind != "cpu":
            amd = amd or self.profile.device.kind == "rocm"
        return "rocm" if amd else "cuda"


def find_hardware(name: str, *, profile_dir: Path | None = None) -> HardwareChoice:
    """Find all profiles and the datasheet of a device.

    Parameters
    ----------
    name : str
        Path of a profile, id of a measured profile, or name of a GPU (``h200``,
        ``NVIDIA A100-SXM4-80GB``).
    profile_dir : Path, optional
        Folder with measured profiles. Not given: the user's data folder.

    Raises
    ------
    InputError
        If no profile or datasheet has this name.
    """
    folder = profile_dir or profile_folder()
    named = [user_path(name)] if _is_path(name) else []
    return _found(name, folder, (Path.cwd(), _state([*named, *folder.glob("*.json")])))


def _is_path(name: str) -> bool:
    return name.endswith(".json") or "/" in name


FOUND_KEPT = 64
"""Devices that are kept in memory with their laws: a program asks for few, again and again."""


def _state(paths: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a file does: its name, time and size."""
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=FOUND_KEPT)
def _found(name: str, profile_dir: Path, state: object) -> HardwareChoice:
    """Find a device; ``state`` of the files decides whether an earlier answer still holds."""
    if _is_path(name):
        return _of_profile(name, load_profile(user_path(name)), profile_dir)
    try:
        match = find_device(name)
    except InputError as error:
        own = measured_profiles(profile_dir)
        named = [p for p in own if p.id == name]
        if not named:
            known = [*load_datasheets(), *(p.id for p in own)]
            raise InputError(f"unknown GPU '{name}'", remedy=did_you_mean(name, known)) from error
        return _of_profile(name, named[-1], profile_dir)
    note = f"{match.note}; " if match.note else ""
    same = _own_of(match.spec.id, profile_dir)
    shipped = shipped_profile(match.spec.id)
    if same:
        joined = ProfileSet.of(same, [shipped] if shipped else [])
        files = ", ".join(p.id for p in joined.profiles if p is not shipped)
        if not _has_products(joined):
            reason = f"{note}{files} measured no products: datasheet {match.spec.id}"
            return HardwareChoice(name, None, match.spec, reason)
        reason = f"{note}measured: {files}"
        if shipped is not None:
            reason += f"; what they lack: {_shipped_phrase(shipped)}"
        return HardwareChoice(name, joined, match.spec, reason)
    if shipped is not None:
        reason = f"{note}{_shipped_phrase(shipped)}; you have no profile of this device"
        return HardwareChoice(name, ProfileSet((shipped,)), match.spec, reason)
    reason = f"{note}datasheet {match.spec.id}; there is no profile of this device"
    return HardwareChoice(name, None, match.spec, reason)


def _of_profile(name: str, profile: Profile, profile_dir: Path | None) -> HardwareChoice:
    """Join a profile that the user named with what else is known of its device."""
    spec = profile.datasheet
    if spec is None:
        others = [
            p
            for p in measured_profiles(profile_dir)
            if p.id != profile.id and _same_device(p, profile)
        ]
        joined = ProfileSet.of(others)
    else:
        own = [p for p in _own_of(spec.id, profile_dir) if p.id != profile.id]
        shipped = shipped_profile(spec.id)
        joined = ProfileSet.of(own, [shipped] if shipped and shipped.id != profile.id else [])
    known = ProfileSet((profile, *joined.profiles), joined.notes)
    if spec is not None and not _has_products(known):
        reason = f"profile {profile.id} measured no products: datasheet {spec.id}"
        return HardwareChoice(name, None, spec, reason)
    return HardwareChoice(name, known, spec, f"profile {profile.id}")


def _has_products(known: ProfileSet) -> bool:
    """Return whether a model can be predicted: without a law of products only its bound can."""
    return any(law.operation == "matmul" for p in known.profiles for law in p.laws)


def _own_of(spec_id: str, profile_dir: Path | None) -> list[Profile]:
    """Return the user's profiles of a device with a datasheet."""
    own = measured_profiles(profile_dir, naming=(spec_id,))
    return [p for p in own if p.datasheet is not None and p.datasheet.id == spec_id]


def _same_device(a: Profile, b: Profile) -> bool:
    return (a.device.name, a.device.compute_units) == (b.device.name, b.device.compute_units)


def _shipped_phrase(shipped: Profile) -> str:
    imported = shipped.mode == "imported"
    how = "published timings" if imported else "laws scaled from a similar GPU"
    return f"profile {shipped.id} ({how})"


def shipped_profile(spec_id: str) -> Profile | None:
    """Return the imported or transferred profile that ships for a device; None if there is none."""
    file = resources.files("groundspeed.profiles") / "shipped" / f"{spec_id}.json"
    if not file.is_file():
        return None
    # No physical validation here: shipped profiles are checked when built and in the tests.
    return Profile.model_validate_json(file.read_text(encoding="utf-8"))


def measured_profiles(folder: Path | None = None, *, naming: tuple[str, ...] = ()) -> list[Profile]:
    """Return the measured profiles that ship, then those in a folder, each oldest first.

    Without ``folder`` the user's data folder is read.
    """
    shipped = resources.files("groundspeed.profiles") / "measured"
    folders = [Path(str(shipped)), folder or profile_folder()]
    return [
        p for f in folders for _, p in list_profiles(f, naming=naming) if isinstance(p, Profile)
    ]
