"""Profiles on disk: read strictly, written whole or not at all, never overwritten by accident.

Measured profiles live in ``$XDG_DATA_HOME/groundspeed/profiles``. A file appears under its name
only when it is complete (written beside it, flushed, then linked), so a full disk or a kill
leaves the old file or none, never half of one.
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
    """Load a profile, migrate it if it is old, and hold it against physics.

    Parameters
    ----------
    path : Path
    check : bool, default True
        False loads what is well-formed even if it is impossible, to say what is wrong with it.

    Raises
    ------
    InputError
        If the file cannot be read, is no profile, is from a newer version, or breaks physics.
    """
    document = parse_json_object(read_text(path, "profile"), "profile", str(path))
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(
            "has no valid 'schema_version', so it is no profile",
            where=str(path),
            remedy="write one with: groundspeed calibrate",
        )
    if version > SCHEMA_VERSION:
        raise InputError(
            f"is schema version {version}, this program reads up to {SCHEMA_VERSION}",
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
        except Exception as error:  # a file made to be strange must not end in a traceback
            raise InputError(
                f"cannot be checked ({type(error).__name__}: {error})", where=str(path)
            ) from error
    return profile


def require_valid_profile(profile: Profile, where: str) -> None:
    """Refuse a profile that cannot be true.

    Raises
    ------
    InputError
        With the first impossibility.
    """
    errors = [v for v in check_profile(profile) if v.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InputError(
            f"breaks physics: {errors[0].where}: {errors[0].what}{more}",
            where=where,
            remedy="see all of it with: groundspeed profile check FILE",
        )


def save_profile(profile: Profile, path: Path, *, force: bool = False, check: bool = True) -> None:
    """Check a profile and write it whole or not at all.

    Raises
    ------
    InputError
        If it breaks physics, or the file exists (without ``force``) or cannot be written.
    """
    if check:
        require_valid_profile(profile, f"profile {profile.id}")
    text = profile.model_dump_json(indent=1, exclude_none=True) + "\n"
    write_whole(path, text.encode(), force=force)


def list_profiles(
    folder: Path, *, naming: tuple[str, ...] = ()
) -> list[tuple[Path, Profile | InputError]]:
    """Every profile in a folder, oldest first; a broken one comes with what is wrong with it.

    Parameters
    ----------
    folder : Path
    naming : tuple of str
        Only files with one of these names in quotes: reading a profile takes a hundred times as
        long as looking for a name in it.

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
        return True  # to be read again, and refused with the reason
    return any(f'"{name}"'.encode() in text for name in names)
