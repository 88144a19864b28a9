"""An engine that a user calibrated: the constants of one server, measured by load on it.

``groundspeed calibrate --server`` writes one TOML file for each calibrated engine. It says which
engine, version and flags were measured, on which device and with which model, the constants with
their errors, and every load with what was measured and what the constants predict. The constants
take the place of those that were fitted to published rows.

    own = load_own_engine(Path("engines/vllm-0.32-h200.toml"))
    engine = own.applied(find_engine("vllm"))
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from groundspeed.estimator.engines.costs import Costs
from groundspeed.estimator.engines.engine import Calibrated, Engine, Policy
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.files import read_text, write_whole
from groundspeed.profiles.record import NonNegative, Positive, Record, describe

SUFFIX = ".toml"


class FittedLoad(Record):
    """One load: what was measured, and what the fitted constants predict."""

    concurrency: Annotated[int, Field(ge=1)]
    prompt_tokens: Annotated[int, Field(ge=1)]
    output_tokens: Annotated[int, Field(ge=1)]
    requests: Annotated[int, Field(ge=1)]
    ttft_ms: Positive
    tpot_ms: Positive | None = None
    predicted_ttft_ms: Positive
    predicted_tpot_ms: Positive | None = None


class OwnEngine(Record):
    """Constants of a user's own engine."""

    schema_version: Literal[1] = 1
    name: str
    """Name of the file."""
    engine: str
    engine_version: str
    origin: Literal["load", "metrics", "results"]
    """Where the times came from: our load, the server's own histograms, or a load tool."""
    date: str
    model: str
    hardware: str
    """Profile or device that the kernels' times came from."""
    tp: Annotated[int, Field(ge=1)] = 1
    pp: Annotated[int, Field(ge=1)] = 1
    ep: Annotated[int, Field(ge=1)] = 1
    dp: Annotated[int, Field(ge=1)] = 1
    dtype: str | None = None
    kv_dtype: str | None = None
    policy: Policy
    token_budget: Annotated[int, Field(ge=1)]
    max_sequences: Annotated[int, Field(ge=1)]
    flags: dict[str, str] = Field(default_factory=dict)
    """What the server said of itself."""
    costs: dict[str, NonNegative]
    """Constants, as in :class:`Costs`; those that are absent are the engine's own."""
    spread: dict[str, NonNegative] = Field(default_factory=dict)
    """[1] Standard deviation of the logarithm of each constant."""
    tpot_factor: Annotated[float, Field(ge=1.0)]
    """90 % factor of the errors of the loads that the fit left out in turn."""
    ttft_factor: Annotated[float, Field(ge=1.0)]
    loads: tuple[FittedLoad, ...] = ()
    notes: tuple[str, ...] = ()

    def applied(self, engine: Engine) -> Engine:
        """Return an engine with these constants in place of its own.

        Raises
        ------
        InputError
            If it is another engine, or a constant is unknown.
        """
        if engine.name != self.engine:
            raise InputError(
                f"the engine profile {self.name} is of {self.engine}, not of {engine.name}",
                where="--engine-profile",
                remedy=f"give --engine {self.engine}, or leave the profile out",
            )
        unknown = sorted(set(self.costs) - set(Costs.model_fields))
        if unknown:
            raise InputError(
                f"has the unknown constant {unknown[0]}", where=self.name,
                remedy=did_you_mean(unknown[0], list(Costs.model_fields)),
            )  # fmt: skip
        return engine.model_copy(
            update={
                "costs": engine.costs.model_copy(update=dict(self.costs)),
                "policy": self.policy,
                "token_budget": self.token_budget,
                "max_sequences": self.max_sequences,
                "from_version": self.engine_version or engine.from_version,
                "calibrated": Calibrated(
                    name=self.name,
                    model=self.model,
                    tpot=self.tpot_factor,
                    ttft=self.ttft_factor,
                    loads=len(self.loads),
                ),
            }
        )


def engine_folder() -> Path:
    """Return the folder of this user's calibrated engines."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "groundspeed" / "engines"


def engine_of(profile: str | None, engine: str | None, default: str) -> str:
    """Return the name of the engine: the one that is given, else that of a profile."""
    if engine is not None or profile is None:
        return engine or default
    return find_own_engine(profile).engine


def find_own_engine(name: str) -> OwnEngine:
    """Return a calibrated engine by the name or the path of its file.

    Raises
    ------
    InputError
        If there is none; the message names those that exist.
    """
    if name.endswith(SUFFIX) or "/" in name:
        return load_own_engine(Path(name))
    path = engine_folder() / f"{name}{SUFFIX}"
    if path.exists():
        return load_own_engine(path)
    known = sorted(p.stem for p in engine_folder().glob(f"*{SUFFIX}"))
    if not known:
        raise InputError(
            f"no engine profile '{name}': none was calibrated yet", where="--engine-profile",
            remedy="calibrate one: groundspeed calibrate --server URL --gpu NAME",
        )  # fmt: skip
    raise InputError(
        f"no engine profile '{name}'", where="--engine-profile", remedy=did_you_mean(name, known)
    )


def load_own_engine(path: Path) -> OwnEngine:
    """Load a calibrated engine.

    Raises
    ------
    InputError
        If the file cannot be read or is no engine profile.
    """
    text = read_text(path, "engine profile")
    try:
        document = tomllib.loads(text)
        return OwnEngine.model_validate(document)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not TOML ({error})", where=str(path)) from error
    except ValidationError as error:
        raise InputError(describe(error), where=str(path)) from error


def save_own_engine(own: OwnEngine, path: Path, *, force: bool = False) -> None:
    """Write a calibrated engine as a file that a person can read and change.

    Raises
    ------
    InputError
        If it exists (without ``force``) or cannot be written.
    """
    import tomli_w

    head = (
        f"# {own.engine} {own.engine_version} on {own.hardware}, calibrated {own.date}.\n"
        "# Times in seconds. `spread`: standard deviation of the logarithm of a constant.\n"
    )
    text = tomli_w.dumps(own.model_dump(mode="json", exclude_none=True))
    write_whole(path, (head + text).encode(), force=force)
