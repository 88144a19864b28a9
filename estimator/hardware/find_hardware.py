"""Find a device, a profile or a server by name."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from groundspeed.estimator import DatasheetHardware, ProfileHardware, find_model
from groundspeed.profiles.datasheet import DeviceSpec, find_device, load_datasheets
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.store import list_profiles, load_profile, profile_folder

if TYPE_CHECKING:
    from groundspeed.estimator.serving.server import Server


@dataclass(frozen=True)
class HardwareChoice:
    """The profile, the datasheet, or both that were found for a name."""

    name: str
    profile: Profile | None
    spec: DeviceSpec | None
    reason: str
    """A phrase that says which of them was chosen, and why."""

    @property
    def best(self) -> ProfileHardware | DatasheetHardware:
        """Hardware from the profile if there is one, else from the datasheet."""
        if self.profile is not None:
            return ProfileHardware(self.profile)
        if self.spec is None:
            raise InputError(f"there is neither a profile nor a datasheet of '{self.name}'")
        return DatasheetHardware(self.spec)


def find_hardware(name: str, *, profile_dir: Path | None = None) -> HardwareChoice:
    """Find the profile and the datasheet of a device.

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
    if name.endswith(".json") or "/" in name:
        profile = load_profile(Path(name).expanduser())
        return HardwareChoice(name, profile, profile.datasheet, f"profile {profile.id}")
    try:
        match = find_device(name)
    except InputError as error:
        own = measured_profiles(profile_dir)
        named = [p for p in own if p.id == name]
        if not named:
            known = [*load_datasheets(), *(p.id for p in own)]
            raise InputError(f"unknown GPU '{name}'", remedy=did_you_mean(name, known)) from error
        profile = named[-1]
        return HardwareChoice(name, profile, profile.datasheet, f"profile {profile.id}")
    own = measured_profiles(profile_dir, naming=(match.spec.id,))
    note = f"{match.note}; " if match.note else ""
    same = [p for p in own if p.datasheet is not None and p.datasheet.id == match.spec.id]
    if same:
        reason = f"{note}measured profile {same[-1].id}, the newest for this device"
        return HardwareChoice(name, same[-1], match.spec, reason)
    shipped = shipped_profile(match.spec.id)
    if shipped is not None:
        imported = shipped.mode == "imported"
        how = "published timings" if imported else "laws scaled from a similar GPU"
        reason = f"{note}profile {shipped.id} ({how}); you have no profile of this device"
        return HardwareChoice(name, shipped, match.spec, reason)
    reason = f"{note}datasheet {match.spec.id}; there is no profile of this device"
    return HardwareChoice(name, None, match.spec, reason)


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


def find_server(
    model: str,
    gpu: str,
    *,
    tp: int = 1,
    dtype: str | None = None,
    engine: str = "vllm",
    profile_dir: Path | None = None,
) -> "Server":
    """Create a server from the names of a model, a GPU and an engine.

    Parameters
    ----------
    model, gpu : str
        A model's shipped name, hub name or ``config.json``; a device as in :func:`find_hardware`.
    tp : int, default 1
        Tensor-parallel degree.
    dtype : str, optional
        Format of the weights. Not given: the checkpoint's.
    engine : str, default "vllm"
        Name of the engine; the constants of the GPU's platform (CUDA or ROCm) are used.
    profile_dir : Path, optional
        Folder with measured profiles. Not given: the user's data folder.

    Raises
    ------
    InputError
        If a name is unknown.
    """
    from groundspeed.estimator.engines.engine import find_engine
    from groundspeed.estimator.serving.deployment import Deployment
    from groundspeed.estimator.serving.server import Server

    hardware = find_hardware(gpu, profile_dir=profile_dir)
    rocm = hardware.spec is not None and hardware.spec.vendor == "amd"
    return Server(
        find_model(model),
        Deployment(tp=tp, dtype=dtype),
        find_engine(engine, platform="rocm" if rocm else "cuda"),
        hardware.best,
    )
