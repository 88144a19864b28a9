"""From names to what they stand for: a device, a profile, a server."""

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
    """What a name stands for: a profile, a datasheet, or both."""

    name: str
    profile: Profile | None
    spec: DeviceSpec | None
    reason: str
    """Which was chosen, and why."""

    @property
    def best(self) -> ProfileHardware | DatasheetHardware:
        """The profile if there is one, else the datasheet."""
        if self.profile is not None:
            return ProfileHardware(self.profile)
        if self.spec is None:
            raise InputError(f"nothing is known about '{self.name}'")
        return DatasheetHardware(self.spec)


def find_hardware(name: str, *, profile_dir: Path | None = None) -> HardwareChoice:
    """Find what is known about a device.

    Parameters
    ----------
    name : str
        Path of a profile, id of a measured profile, or name of a GPU (``h200``,
        ``NVIDIA A100-SXM4-80GB``).
    profile_dir : Path, optional
        Where measured profiles live; the user's data folder if not given.

    Raises
    ------
    InputError
        If nothing of that name is known.
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
        reason = f"{note}measured profile {same[-1].id}, the newest of this device"
        return HardwareChoice(name, same[-1], match.spec, reason)
    shipped = shipped_profile(match.spec.id)
    if shipped is not None:
        how = "published timings" if shipped.mode == "imported" else "laws of a relative, scaled"
        reason = f"{note}profile {shipped.id} ({how}); none of yours is of this device"
        return HardwareChoice(name, shipped, match.spec, reason)
    reason = f"{note}datasheet {match.spec.id}; no profile of it"
    return HardwareChoice(name, None, match.spec, reason)


def shipped_profile(spec_id: str) -> Profile | None:
    """The profile of a device that ships, imported or transferred."""
    file = resources.files("groundspeed.profiles") / "shipped" / f"{spec_id}.json"
    if not file.is_file():
        return None
    # What ships was held against physics when it was built, and is again in the tests.
    return Profile.model_validate_json(file.read_text(encoding="utf-8"))


def measured_profiles(folder: Path | None = None, *, naming: tuple[str, ...] = ()) -> list[Profile]:
    """Measured profiles that ship, then those of a folder (or of the user), oldest first."""
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
    """A model behind an engine on devices, by their names.

    Parameters
    ----------
    model, gpu : str
        A model's shipped name, hub name or ``config.json``; a device as :func:`find_hardware`.
    tp : int
        Tensor parallel.
    dtype : str, optional
        Of the weights; the checkpoint's if not given.
    engine : str
        Its constants are those of its platform, CUDA or ROCm.
    profile_dir : Path, optional

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
