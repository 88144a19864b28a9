"""Load and save profiles: strict reading, atomic writing, no accidental overwriting.

Measured profiles are stored in ``$XDG_DATA_HOME/groundspeed/profiles``. A file is written under a
temporary name, flushed, and then linked to its final name. After a full disk or a killed process
there is therefore the old file or none, never an incomplete one.

    profile = load_profile(profile_folder() / "h200.json")
"""

import os
from pathlib import Path

from pydantic import ValidationError

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.files import parse_json_object, read_text, write_whole
from groundspeed.profiles.migrations import MIGRATIONS
from groundspeed.profiles.record import describe
from groundspeed.profiles.schema import SCHEMA_VERSION, Profile
from groundspeed.profiles.validation import check_profile


def profile_folder() -> Path:
    """Return the folder of this user's measured profiles."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "groundspeed" / "profiles"


def load_profile(path: Path, *, check: bool = True) -> Profile:
    """Load a profile, migrate it from an older schema version, and run the physics check.

    Parameters
    ----------
    path : Path
    check : bool, default True
        False skips the physics check, so that all its violations can be listed afterwards.

    Raises
    ------
    InputError
        If the file cannot be read, is not a profile, has a newer schema version, or fails the
        physics check.
    """
    document = parse_json_object(read_text(path, "profile"), "profile", str(path))
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(
            "has no valid 'schema_version', so it is not a profile",
            where=str(path),
            remedy="create one with: groundspeed calibrate",
        )
    if version > SCHEMA_VERSION:
        raise InputError(
            f"has schema version {version}, but this groundspeed reads up to {SCHEMA_VERSION}",
            where=str(path),
            remedy="upgrade groundspeed",
        )
    while version < SCHEMA_VERSION:
        document = MIGRATIONS[version](document)
        version += 1
        document["schema_version"] = version
    try:
        profile = Profile.model_validate(document)
    except ValidationError as error:
        raise InputError(describe(error), where=str(path)) from error
    if check:
        try:
            require_valid_profile(profile, str(path))
        except InputError:
            raise
        except Exception as error:  # a malicious file must not cause a traceback
            raise InputError(
                f"cannot be checked ({type(error).__name__}: {error})", where=str(path)
            ) from error
    return profile


def require_valid_profile(profile: Profile, where: str) -> None:
    """Raise an error for a profile that fails the physics check.

    Parameters
    ----------
    profile : Profile
    where : str
        Path or name of the profile for the message.

    Raises
    ------
    InputError
        If there is a violation; the message gives the first one and the number of others.
    """
    errors = [v for v in check_profile(profile) if v.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InputError(
            f"fails the physics check: {errors[0].where}: {errors[0].what}{more}",
            where=where,
            remedy="list all problems with: groundspeed profile check FILE",
        )


def save_profile(profile: Profile, path: Path, *, force: bool = False, check: bool = True) -> None:
    """Run the physics check on a profile and write the file atomically.

    Raises
    ------
    InputError
        If the profile fails the physics check, or the file exists (without ``force``) or cannot
        be written.
    """
    if check:
        require_valid_profile(profile, f"profile {profile.id}")
    text = profile.model_dump_json(indent=1, exclude_none=True) + "\n"
    write_whole(path, text.encode(), force=force)


def list_profiles(
    folder: Path, *, naming: tuple[str, ...] = ()
) -> list[tuple[Path, Profile | InputError]]:
    """Return every profile in a folder, oldest first; for an invalid one, the error instead.

    Parameters
    ----------
    folder : Path
    naming : tuple of str, optional
        Return only files that contain one of these names in quotes. Loading a profile takes a
        hundred times as long as searching its text. Default: all files.

    Raises
    ------
    InputError
        If the folder cannot be listed.
    """
    profiles: list[tuple[Path, Profile | InputError]] = []
    if not folder.exists():
        return profiles
    try:
        paths = sorted(folder.glob("*.json"))
    except OSError as error:
        raise InputError(f"cannot be listed ({error.strerror})", where=str(folder)) from error
    for path in paths:
        try:
            if naming and not _mentions(path, naming):
                continue
            profiles.append((path, load_profile(path)))
        except InputError as error:
            profiles.append((path, error))
    return sorted(
        profiles, key=lambda f: f[1].environment.date_utc if isinstance(f[1], Profile) else ""
    )


def _mentions(path: Path, names: tuple[str, ...]) -> bool:
    try:
        text = path.read_bytes()
    except OSError:
        return True  # load_profile will report the reason
    return any(f'"{name}"'.encode() in text for name in names)
